"""``tools/bench gpu``: what only a GPU can settle, in one call.

Modes, a stream for each node, precisions and seats, on images that learn: Fashion-MNIST where it is prepared. The
defaults of ``device.mode``, ``device.node_streams`` and ``worker.seats`` should follow what it prints for your card.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Iterator, Sequence

import torch

from kdhpc.config.compose import compose_search
from kdhpc.config.paths import packed_dir
from kdhpc.config.schema import SearchConfig
from kdhpc.data.batches import EvalBatches, TrainBatches
from kdhpc.data.packed import PackedDataset
from kdhpc.data.split import search_split
from kdhpc.errors import ConfigError
from kdhpc.graph.spec import Design, DistillationEdge, Gate, GraphSpec
from kdhpc.training.device import resolve_device
from kdhpc.training.loop import EnsembleTraining
from tools.benchmarks.report import Cell, Report

_WARM_STEPS = 10
_LEARNT_EPOCHS = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is measured."""
    parser.add_argument("--networks", nargs="+", default=["resnet20", "resnet18"], help="default: resnet20 resnet18")
    parser.add_argument("--nodes", type=int, default=4, help="M (default: 4)")
    parser.add_argument("--batch", type=int, default=16, help="N (default: 16)")
    parser.add_argument("--steps", type=int, default=200, help="timed steps of a cell (default: 200)")
    parser.add_argument("--seats", type=int, nargs="+", default=[1, 2, 4, 8], help="default: 1 2 4 8")
    parser.add_argument("--images", type=int, default=8000, help="training images (default: 8000)")
    parser.add_argument("--dataset", default="fashion_mnist", help="a packed data set (default: fashion_mnist)")
    parser.add_argument("--cpu", action="store_true", help="only what a CPU can do: modes, seats; small and slow")


def run(arguments: argparse.Namespace) -> Report:
    """Measure.

    Raises:
        ConfigError: there is no GPU, and ``--cpu`` was not given.
    """
    if not torch.cuda.is_available() and not arguments.cpu:
        raise ConfigError("a GPU is needed, and torch sees none: run it in a job that has one, or give --cpu")
    rows: list[dict[str, Cell]] = []
    for name in arguments.networks:
        base = _config(name, arguments)
        cells = list(_cells(base, arguments))
        reference: float | None = None
        for label, config, num_seats in cells:
            row = _measure(config, num_seats, arguments)
            reference = reference or row["step_ms"]  # type: ignore[assignment]
            assert isinstance(row["step_ms"], float)
            rows.append({"network": name, "cell": label, **row, "times eager": _ratio(reference, row["step_ms"])})
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return Report(
        title=f"Modes, streams, precisions and seats on {device}",
        settings={
            "nodes": arguments.nodes,
            "batch": arguments.batch,
            "steps": arguments.steps,
            "images": arguments.images,
            "threads": torch.get_num_threads(),
        },
        rows=rows,
        notes=(
            "`step_ms`: time of one step of one trial, all seats together (time / steps / seats); `data_share_%`: "
            "making the batch alone, of a step. `ran` is the mode that was left after any fallback; `loss` and "
            f"`accuracy_%` after {_LEARNT_EPOCHS} epochs from the same seed, to compare precisions and modes.",
        ),
    )


def _cells(base: SearchConfig, arguments: argparse.Namespace) -> Iterator[tuple[str, SearchConfig, int]]:
    """What is compared: each differs from the one before it in one thing."""

    def of(**device: object) -> SearchConfig:
        return dataclasses.replace(base, device=dataclasses.replace(base.device, **device))  # type: ignore[arg-type]

    yield "eager", of(mode="eager"), 1
    yield "compile", of(mode="compile"), 1
    best: dict[str, object] = {"mode": "eager"}
    if torch.cuda.is_available():
        yield "cudagraph", of(mode="cudagraph"), 1
        yield "cudagraph, node streams", of(mode="cudagraph", node_streams=True), 1
        yield "cudagraph, float32", of(mode="cudagraph", precision="float32"), 1
        yield "cudagraph, contiguous", of(mode="cudagraph", channels_last=False), 1
        best = {"mode": "cudagraph"}
    for seats in arguments.seats:
        if seats > 1:
            yield f"{best['mode']}, {seats} seats", of(**best), seats


def _config(network: str, arguments: argparse.Namespace) -> SearchConfig:
    return compose_search(
        [
            "study=quickstart", f"dataset={arguments.dataset}", f"dataset.subset={arguments.images}",
            f"network={network}",
            "dataset.validation_fraction=0.25", f"training.batch_size={arguments.batch}", "training=paper_cifar",
            f"training.epochs={_LEARNT_EPOCHS}", "training.milestones=[]", f"study.num_nodes={arguments.nodes}",
            "study.trials=1", f"device={'cuda' if torch.cuda.is_available() else 'cpu'}",
        ]
    )  # fmt: skip


def _measure(config: SearchConfig, num_seats: int, arguments: argparse.Namespace) -> dict[str, Cell]:
    device = resolve_device(config.device)
    train, evaluation, num_classes = _batches(config, device)
    graph = _mutual(arguments.nodes)
    begin = time.perf_counter()
    trainings = [
        EnsembleTraining(
            graph=graph,
            network=config.network,
            objective=config.objective,
            training=config.training,
            device=config.device,
            train=train,
            evaluation=evaluation,
            num_classes=num_classes,
            seed=seed,
        )
        for seed in range(num_seats)
    ]
    streams = [torch.cuda.Stream() if device.type == "cuda" else None for _ in trainings]  # type: ignore[no-untyped-call]
    first_s, step_s = _timed_steps(trainings, streams, device, arguments.steps, begin)
    last = None
    if num_seats == 1:
        trainings[0].restart(graph, 0)
        last = list(trainings[0].epochs(lambda: False))[-1]
    data_s = _data_step_s(train, device, arguments.steps)
    memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    return {
        "ran": trainings[0].mode,
        "step_ms": 1e3 * step_s,
        "first_step_s": first_s,
        "data_share_%": 100 * data_s / step_s,
        "data": train.placement,
        "memory_gb": memory,
        "loss": None if last is None else statistics.fmean(last.train_losses),
        "accuracy_%": None if last is None else last.ensemble_accuracy,
    }


def _timed_steps(
    trainings: Sequence[EnsembleTraining],
    streams: "Sequence[torch.cuda.Stream | None]",
    device: torch.device,
    num_steps: int,
    begin: float,
) -> tuple[float, float]:
    """Seconds to the end of the first steps, building included, and of one later step of one training."""
    journeys = [training.steps() for training in trainings]

    def turn() -> None:
        for journey, stream in zip(journeys, streams, strict=True):
            with torch.cuda.stream(stream):
                next(journey)

    turn()
    _wait(device)
    first_s = time.perf_counter() - begin
    for _ in range(_WARM_STEPS):
        turn()
    _wait(device)
    begin = time.perf_counter()
    for _ in range(num_steps):
        turn()
    _wait(device)
    return first_s, (time.perf_counter() - begin) / num_steps / len(trainings)


def _data_step_s(train: TrainBatches, device: torch.device, num_steps: int) -> float:
    """Seconds to make one batch, nothing else."""
    _wait(device)
    begin = time.perf_counter()
    count = 0
    for _ in train.epoch(0, 1):
        count += 1
        if count == num_steps:
            break
    _wait(device)
    return (time.perf_counter() - begin) / count


def _batches(config: SearchConfig, device: torch.device) -> tuple[TrainBatches, EvalBatches, int]:
    packed = PackedDataset.open(packed_dir(config.dataset.name))
    dataset = config.dataset
    split = search_split(
        packed.train.labels,
        validation_fraction=dataset.validation_fraction,
        subset=dataset.subset,
        seed=dataset.split_seed,
    )
    channels_last = config.device.channels_last

    train = TrainBatches(
        packed.train, split.train, dataset,
        batch_size=config.training.batch_size, device=device, channels_last=channels_last,
    )  # fmt: skip
    evaluation = EvalBatches(
        packed.train, split.validation, dataset,
        batch_size=config.training.eval_batch_size, device=device, channels_last=channels_last,
    )  # fmt: skip
    return train, evaluation, len(packed.classes)


def _mutual(num_nodes: int) -> GraphSpec:
    """All edges through, closer in probabilities and attention: every loss is computed."""
    pairs = [(source, target) for source in range(num_nodes) for target in range(num_nodes) if source != target]
    return GraphSpec(
        label_gates=(Gate.THROUGH,) * num_nodes,
        edges=tuple(
            DistillationEdge(source=source, target=target, design=Design.BOTH_CLOSER, gate=Gate.THROUGH)
            for source, target in pairs
        ),
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _ratio(reference: float | None, value: float) -> float | None:
    return None if reference is None else reference / value
