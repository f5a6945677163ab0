"""``tools/bench gpu``: what only a GPU can settle, in one call.

Modes, streams, precisions, memory formats, grouped convolutions, seats and processes on noise; bf16 against float32 on
real images. The defaults of ``device`` and ``worker.seats`` should follow what it prints for your card.

The most telling cells come first, each row is written when it is known, and a cell that fails is a row that says so:
nothing is lost when it is stopped.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from kdhpc.errors import ConfigError
from kdhpc.training.device import Precision
from tools.benchmarks.gpu_cells import Size, config_of, forget, grouped_cell, parity_cell, steps_cell
from tools.benchmarks.gpu_process import processes_cell
from tools.benchmarks.report import Cell, Report, write

PARTS = ("modes", "seats", "parity", "processes", "grouped", "options")
_COLUMNS = (
    "network",
    "cell",
    "ran",
    "step_ms",
    "times eager",
    "first_step_s",
    "memory_gb",
    "loss",
    "accuracy_%",
    "error",
)


_Cells = Iterator[tuple[str, Callable[[], dict[str, Cell]]]]
"""Names of cells, and what measures them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is measured."""
    parser.add_argument("--networks", nargs="+", default=["resnet20", "resnet18"], help="default: resnet20 resnet18")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--nodes", type=int, help="M (default: 4; --cpu: 2)")
    parser.add_argument("--batch", type=int, help="N (default: 16; --cpu: 2)")
    parser.add_argument("--steps", type=int, help="timed steps of a cell (default: 200; --cpu: 2)")
    parser.add_argument(
        "--image-size", type=int, help="pixels (default: 32, and 224 for ImageNet's networks; --cpu: 32)"
    )
    parser.add_argument("--seats", type=int, nargs="+", default=[2, 4, 8], help="default: 2 4 8")
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4], help="on one GPU (default: 2 4)")
    parser.add_argument("--dataset", default="fashion_mnist", help="packed, for parity (default: fashion_mnist)")
    parser.add_argument("--images", type=int, help="of parity, to learn and score (default: 16000; --cpu: 64)")
    parser.add_argument("--epochs", type=int, default=3, help="of parity (default: 3)")
    parser.add_argument("--minutes", type=float, default=9, help="no cell begins later (default: 9)")
    parser.add_argument("--out", type=Path, default=Path("bench-gpu"), help="folder of gpu.md and gpu.json")
    parser.add_argument("--cpu", action="store_true", help="what a CPU can do, at a tiny size")
    parser.add_argument("--eager", action="store_true", help="compile nothing: with --cpu, a test of this script")


@dataclass(frozen=True, kw_only=True)
class _Planned:
    """A row to come."""

    network: str
    """Its name."""
    name: str
    """The cell's."""
    measure: Callable[[], dict[str, Cell]]
    """Measures it."""


def run(arguments: argparse.Namespace) -> Report:
    """Measure.

    Raises:
        ConfigError: there is no GPU, and ``--cpu`` was not given.
    """
    if not torch.cuda.is_available() and not arguments.cpu:
        raise ConfigError("a GPU is needed, and torch sees none: run it in a job that has one, or give --cpu")
    size = _size(arguments)
    if arguments.cpu:
        torch.set_num_threads(1)
    end = time.monotonic() + 60 * arguments.minutes
    rows: list[dict[str, Cell]] = []
    eager_ms: dict[str, float] = {}
    for planned in _plan(arguments, size):
        row: dict[str, Cell] = _row(planned) if time.monotonic() < end else {"error": "no time was left"}
        step_ms = row.get("step_ms")
        if isinstance(step_ms, float) and not planned.name.startswith("parity"):
            if planned.name == "eager":
                eager_ms[planned.network] = step_ms
            if planned.network in eager_ms:
                row["times eager"] = eager_ms[planned.network] / step_ms
        full: dict[str, Cell] = {"network": planned.network, "cell": planned.name, **row}
        rows.append({column: full.get(column) for column in _COLUMNS})
        report = _report(rows, arguments, size)
        write(report, arguments.out / "gpu")
        shown = ", ".join(f"{name} {value}" for name, value in rows[-1].items() if value is not None)
        print(shown, file=sys.stderr, flush=True)
    return report


def _size(arguments: argparse.Namespace) -> Size:
    tiny = arguments.cpu
    return Size(
        num_nodes=arguments.nodes or (2 if tiny else 4),
        batch_size=arguments.batch or (2 if tiny else 16),
        image_size=arguments.image_size or (32 if tiny else None),
        num_steps=arguments.steps or (2 if tiny else 200),
    )


def _best_mode(arguments: argparse.Namespace) -> str:
    return "eager" if arguments.eager else "compile" if arguments.cpu else "cudagraph"


def _plan(arguments: argparse.Namespace, size: Size) -> Iterator[_Planned]:
    """What is measured: the parts in their order, each for all networks."""
    best = _best_mode(arguments)
    of_part: dict[str, Callable[[str], _Cells]] = {
        "modes": lambda network: _modes(network, size, best),
        "seats": lambda network: _seats(network, size, best, arguments.seats),
        "parity": lambda network: _parity(network, size, best, arguments),
        "processes": lambda network: _processes(network, size, best, arguments.processes),
        "grouped": lambda network: _grouped(network, size, arguments),
        "options": lambda network: _options(network, size, best),
    }
    for part in PARTS:
        for network in arguments.networks if part in arguments.parts else []:
            for name, measure in of_part[part](network):
                yield _Planned(network=network, name=name, measure=measure)


def _modes(network: str, size: Size, best: str) -> _Cells:
    for mode in ("eager", "compile", "cudagraph"):
        yield mode, partial(steps_cell, config_of(network, size, mode=mode), size)
        if mode == best:
            break
    yield f"{best}, images ready", partial(steps_cell, config_of(network, size, mode=best), size, ready=True)
    if best == "cudagraph":
        config = config_of(network, size, mode=best, node_streams=True)
        yield "cudagraph, node streams", partial(steps_cell, config, size)


def _seats(network: str, size: Size, best: str, numbers: list[int]) -> _Cells:
    for number in numbers:
        config = config_of(network, size, mode=best)
        yield f"{best}, {number} seats", partial(steps_cell, config, size, num_seats=number)


def _parity(network: str, size: Size, best: str, arguments: argparse.Namespace) -> _Cells:
    """Of the first network for small images: the others would take too long."""
    if network == arguments.networks[0]:
        for precision in ("float32", "bf16"):
            config = config_of(network, size, mode=best, precision=precision)
            images = arguments.images or (64 if arguments.cpu else 16_000)
            cell = partial(parity_cell, config, arguments.dataset, images=images, epochs=arguments.epochs)
            yield f"parity, {precision}", cell


def _grouped(network: str, size: Size, arguments: argparse.Namespace) -> _Cells:
    precision: Precision = "float32" if arguments.cpu else "bf16"
    yield "grouped", partial(grouped_cell, network, size, recorded=False, precision=precision)
    if not arguments.cpu:
        yield "grouped, one graph", partial(grouped_cell, network, size, recorded=True, precision=precision)


def _options(network: str, size: Size, best: str) -> _Cells:
    yield f"{best}, contiguous", partial(steps_cell, config_of(network, size, mode=best, channels_last=False), size)
    other = "float32" if best == "cudagraph" else "bf16"
    yield f"{best}, {other}", partial(steps_cell, config_of(network, size, mode=best, precision=other), size)
    if best != "eager" and torch.cuda.is_available():
        separate = config_of(network, size, mode=best, combine=False)
        yield f"{best}, launched one by one", partial(steps_cell, separate, size)
        tried = config_of(network, size, mode=best, cudnn_benchmark=True)
        yield f"{best}, cudnn_benchmark", partial(steps_cell, tried, size)


def _processes(network: str, size: Size, best: str, numbers: list[int]) -> _Cells:
    mps = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")) / "control"
    beside = ", MPS" if mps.exists() else ""
    for number in numbers:
        yield f"{number} processes{beside}", partial(processes_cell, network, size, mode=best, number=number)


def _row(planned: _Planned) -> dict[str, Cell]:
    """Of one cell. A failure is told in the row: the next one may well work."""
    broken = True
    try:
        row = planned.measure()
        broken = False
    except Exception as exc:
        return {"error": f"{type(exc).__name__}: {' '.join(str(exc).split())}"[:200]}
    else:
        if torch.cuda.is_available():
            row["memory_gb"] = torch.cuda.max_memory_allocated() / 2**30
        return row
    finally:
        forget(broken=broken)


def _report(rows: list[dict[str, Cell]], arguments: argparse.Namespace, size: Size) -> Report:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "a CPU, at a tiny size"
    return Report(
        title=f"Modes, streams, precisions, seats and processes on {device}",
        settings={
            "nodes": size.num_nodes,
            "batch": size.batch_size,
            "steps": size.num_steps,
            "px": ", ".join(f"{network} {size.pixels(network)}" for network in arguments.networks),
            "threads": torch.get_num_threads(),
        },
        rows=rows,
        notes=(
            "`step_ms`: time of one step of one trial, all seats or processes together (time / steps / seats). `ran`: "
            "the mode that was left after any fallback. `images ready`: batches are not made, so what a step takes "
            "longer is the data's share; grouped convolutions have theirs ready, too. Parity: mean and sample standard "
            "deviation of the nodes' mean training loss and of the ensemble's accuracy in the last epoch, over seeds "
            "0, 1 and 2; its `step_ms` includes scoring. Memory is the peak of what torch allocated in this process.",
        ),
    )
