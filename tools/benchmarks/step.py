"""``tools/bench step``: a training step of ours against others, in turns, in one process."""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Protocol

import torch

from kdhpc.config.schema import DeviceConfig, NetworkConfig, ObjectiveConfig, TrainingConfig
from kdhpc.data.batches import Batch
from kdhpc.errors import NetworkError
from kdhpc.graph.spec import Design, DistillationEdge, Gate, GraphSpec
from kdhpc.losses.coefficients import graph_coefficients
from kdhpc.losses.distillation import crop_windows
from kdhpc.methods.graph import GraphModel
from kdhpc.networks.names import architecture, map_side
from kdhpc.training.device import Mode, Precision, autocast_dtype
from kdhpc.training.learner import Learner
from kdhpc.training.runtime import resolve_runtime
from kdhpc.training.schedule import ScheduleStep
from kdhpc.training.setting import TrainingSetting
from kdhpc.training.step import TrainingStep
from tools.benchmarks.paired import Paired, paired
from tools.benchmarks.peers_published import PerEdgeLosses, PerSampleLosses, PublishedLoop
from tools.benchmarks.peers_stacked import GroupedNetworks, VmappedNetworks, stacked_loop
from tools.benchmarks.report import Cell, Report

_CLASSES = 100
_PROBE_ROUNDS = 2
_LEAST_ROUNDS = 3
PEERS = ("published", "per_sample", "no_sync", "compiled", "vmap", "grouped")
"""The other sides: the published style of loop with crops in tensors, with crops sample by sample, without waiting for
losses, compiled for its graph alone; vmap and grouped convolutions under our losses."""
_PRECISIONS: tuple[Precision, ...] = ("float32", "bf16")


@dataclass(frozen=True, kw_only=True)
class StepCell:
    """What is trained."""

    network: str
    """Its name."""
    num_nodes: int
    """M."""
    batch_size: int
    """N."""
    image_size: int
    """S, in pixels."""
    device: DeviceConfig
    """Where and how our side runs."""


class Loop(Protocol):
    """Another side."""

    def step(self, batch: Batch, ramp: float, learning_rate: float) -> object:
        """Learn a batch."""
        ...


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is measured."""
    networks = ["resnet20", "abn_resnet20"]
    parser.add_argument("--networks", nargs="+", default=networks, metavar="NAME", help=f"default: {networks}")
    parser.add_argument("--nodes", nargs="+", type=int, default=[4], metavar="M", help="default: 4")
    parser.add_argument("--batches", nargs="+", type=int, default=[16], metavar="N", help="default: 16")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=["published", "per_sample"])
    parser.add_argument("--modes", nargs="+", choices=("eager", "compile", "cudagraph"), default=["eager"])
    parser.add_argument(
        "--precisions", nargs="+", choices=_PRECISIONS, default=["float32"],
        help="of both sides; bf16 is compared with the published loop in float32, too (default: float32)",
    )  # fmt: skip
    parser.add_argument("--image-size", type=int, help="pixels (default: 32, and 224 for ImageNet's networks)")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of a cell (default: 15)")
    parser.add_argument("--seconds", type=float, default=120, help="cap of a cell (default: 120); at least 3 rounds")
    parser.add_argument("--threads", type=int, default=1, help="1: process time; more: wall time (default: 1)")


def run(arguments: argparse.Namespace) -> Report:
    """Measure all cells."""
    torch.set_num_threads(arguments.threads)
    rows: list[dict[str, Cell]] = []
    eager_ms: dict[StepCell, float] = {}
    won_back: dict[str, None] = {}
    for cell in _cells(arguments):
        ours, first_s = _first_step(cell)
        _, warm_s = _first_step(cell, seed=1)
        launched = launches(partial(ours.step, batch_of(cell), 0.5, 0.1), ours.target)
        for peer, precision in _peers(cell, arguments.peers):
            try:
                loop = peer_loop(peer, ours, cell, precision)
            except NetworkError:
                continue
            row = _row(cell, ours, peer, precision, _measure(ours, loop, cell, arguments))
            rows.append(row | {"first step, s": first_s, "warm, s": warm_s} | _on_gpu(launched, ours, loop, cell))
            ours_ms = float(str(row["ours_ms"]))
            plain = replace(cell, device=replace(cell.device, mode="eager"))
            if ours.mode == "eager":
                eager_ms.setdefault(cell, ours_ms)
            elif plain in eager_ms:
                won_back.setdefault(_won_back(cell, first_s - warm_s, saved_ms=eager_ms[plain] - ours_ms))
    device = resolve_runtime(DeviceConfig()).device
    return Report(
        title=f"A training step on {torch.cuda.get_device_name() if device.type == 'cuda' else 'the CPU'}",
        settings={
            "threads": arguments.threads,
            "clock": "process time" if _by_process_time(arguments) else "wall time",
            "graph": "all edges prob+att+, through",
        },
        rows=rows,
        notes=(
            "ratio: the peer's time over ours, median of the rounds' own ratios, with quartiles. published: a loss an "
            "edge, crops in tensors, an SGD a node, waits for each loss; per_sample: with crops sample by sample; "
            "no_sync: without waiting; compiled: all of its networks and losses one program, for this graph alone. "
            "precision, peer precision: of the networks of either side. first step: building included; warm: that of "
            "the next trial in the same process. Inputs are there already: augmentation is in no side's time.",
            *won_back,
        ),
    )


def _won_back(cell: StepCell, compile_s: float, *, saved_ms: float) -> str:
    """When compiling has paid: what ``device.mode=auto`` asks on a CPU."""
    after = f"after {1e3 * compile_s / saved_ms:,.0f} steps" if saved_ms > 0 else "never"
    kind = f"{cell.network}, M = {cell.num_nodes}, batch {cell.batch_size}, {cell.device.precision}"
    return (
        f"{kind}: {cell.device.mode} takes {compile_s:.0f} s once and saves {saved_ms:.1f} ms a step: won back {after}."
    )


class NoBatches:
    """Stands for the images where a learner is given its batches.

    Args:
        image_size: S, in pixels.
    """

    steps_per_epoch = 1
    placement = "resident"

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size

    def specs(self, seed: int, epoch: int, first_step: int = 0) -> Iterator[tuple[torch.Tensor, ...]]:
        """None."""
        return iter(())

    def make(self, spec: tuple[torch.Tensor, torch.Tensor]) -> Batch:
        """It is there."""
        return Batch(images=spec[0], labels=spec[1])


class OurLoop:
    """Our step in the shape of the others.

    Args:
        cell: What is trained.
        seed: Of the weights.
    """

    def __init__(self, cell: StepCell, seed: int = 0) -> None:
        self.config = TrainingConfig(batch_size=cell.batch_size)
        self.runtime = resolve_runtime(cell.device)
        self.target = self.runtime.device
        self.graph = full_graph(cell.num_nodes)
        setting = TrainingSetting(
            network=_network(cell),
            objective=ObjectiveConfig(),
            training=self.config,
            runtime=self.runtime,
            train=NoBatches(cell.image_size),
            evaluation=(),
            num_classes=_CLASSES,
        )
        self.learner = Learner(GraphModel(self.graph, setting, seed), self.config)

        self._learn = TrainingStep(self.learner, self._learn_batch)

    @property
    def mode(self) -> Mode:
        """What ran."""
        return self.learner.programs.mode

    def step(self, batch: Batch, ramp: float, learning_rate: float) -> torch.Tensor:
        """Learn a batch; the learning rate is that of the config's first epoch."""
        assert learning_rate == self.config.learning_rate
        self.learner.set_schedule(ScheduleStep(epoch=1, step=round(1000 * ramp), num_steps=1000))
        return self._learn((batch.images, batch.labels))

    def _learn_batch(self, inputs: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return self.learner.learn(Batch(images=inputs[0], labels=inputs[1]))

    def wait(self) -> None:
        """Until the device is done."""
        if self.target.type == "cuda":
            torch.cuda.synchronize()


def _first_step(cell: StepCell, seed: int = 0) -> tuple[OurLoop, float]:
    """A loop, and the seconds to the end of its first step."""
    begin = time.perf_counter()
    loop = OurLoop(cell, seed)
    loop.step(batch_of(cell), 0.5, 0.1)
    loop.wait()
    return loop, time.perf_counter() - begin


def _peers(cell: StepCell, names: Sequence[str]) -> Iterator[tuple[str, Precision]]:
    """The other sides in our precision, and the published loop in float32, as its authors run it."""
    ours = resolve_runtime(cell.device).precision
    for name in names:
        yield name, ours
        if name == "published" and ours != "float32":
            yield name, "float32"


def peer_loop(name: str, ours: OurLoop, cell: StepCell, precision: Precision = "float32") -> Loop:
    """Another side, with the weights that ours has now.

    Raises:
        NetworkError: it cannot train this network.
    """
    networks, graph, crops = ours.learner.model.networks, ours.graph, crops_of(cell.network, cell.image_size)
    autocast = autocast_dtype(precision)
    if name not in ("vmap", "grouped"):
        losses = PerSampleLosses(crops) if name == "per_sample" else PerEdgeLosses(crops)
        return PublishedLoop(
            networks, graph, ours.config, losses,
            waits=name != "no_sync", autocast=autocast, compiles=name == "compiled",
        )  # fmt: skip
    side = map_side(cell.network, cell.image_size)
    windows = crop_windows(
        crops, height=side, width=side, reduction="mean", device=ours.target, dtype=torch.float32
    )  # fmt: skip
    coefficients = graph_coefficients(graph, device=ours.target, dtype=torch.float32)
    stack: type[VmappedNetworks] | type[GroupedNetworks]
    stack = VmappedNetworks if name == "vmap" else GroupedNetworks
    return stacked_loop(networks, stack, ours.config, coefficients, windows, autocast=autocast)


def full_graph(num_nodes: int) -> GraphSpec:
    """Every edge through, closer in probabilities and in attention: all losses are needed."""
    return GraphSpec(
        label_gates=(Gate.THROUGH,) * num_nodes,
        edges=tuple(
            DistillationEdge(source=source, target=target, design=Design.BOTH_CLOSER, gate=Gate.THROUGH)
            for source in range(num_nodes)
            for target in range(num_nodes)
            if source != target
        ),
    )


def batch_of(cell: StepCell, seed: int = 0) -> Batch:
    """Noise, in the memory format of our side."""
    device = resolve_runtime(cell.device).device
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(cell.batch_size, 3, cell.image_size, cell.image_size, generator=generator)
    labels = torch.randint(_CLASSES, (cell.batch_size,), generator=generator)
    memory_format = torch.channels_last if cell.device.channels_last else torch.contiguous_format
    return Batch(images=images.to(device, memory_format=memory_format), labels=labels.to(device))


def _cells(arguments: argparse.Namespace) -> Iterator[StepCell]:
    for network in arguments.networks:
        small = architecture(network).family == "cifar"
        for num_nodes in arguments.nodes:
            for batch_size in arguments.batches:
                for mode, precision in product(arguments.modes, arguments.precisions):
                    yield StepCell(
                        network=network,
                        num_nodes=num_nodes,
                        batch_size=batch_size,
                        image_size=arguments.image_size or (32 if small else 224),
                        device=DeviceConfig(mode=mode, precision=precision),
                    )


def _network(cell: StepCell) -> NetworkConfig:
    return NetworkConfig(name=cell.network, crops=crops_of(cell.network, cell.image_size))


def crops_of(network: str, image_size: int) -> tuple[int, ...]:
    """Those of the shipped configs, as far as the attention map of smaller images holds them."""
    crops = (3, 7, 11) if architecture(network).attention_branch else (3, 5, 7)
    return tuple(side for side in crops if side <= map_side(network, image_size)) or (1,)


def _measure(ours: OurLoop, peer: Loop, cell: StepCell, arguments: argparse.Namespace) -> Paired:
    batch, rate = batch_of(cell), ours.config.learning_rate

    def our_step() -> None:
        ours.step(batch, 0.5, rate)
        ours.wait()

    def peer_step() -> None:
        peer.step(batch, 0.5, rate)
        ours.wait()

    clock = time.process_time if _by_process_time(arguments) else time.perf_counter
    probe = paired(our_step, peer_step, rounds=_PROBE_ROUNDS, clock=clock)
    round_s = sum(probe.ours_s + probe.peer_s) / _PROBE_ROUNDS
    rounds = max(_LEAST_ROUNDS, min(arguments.rounds, int(arguments.seconds / round_s)))
    return paired(our_step, peer_step, rounds=rounds, warm_up=0, clock=clock)


def _by_process_time(arguments: argparse.Namespace) -> bool:
    """What one thread works, whoever else uses the machine; waiting for a GPU is no work."""
    return bool(arguments.threads == 1) and not torch.cuda.is_available()


def launches(step: Callable[[], object], device: torch.device) -> tuple[int, int] | None:
    """Kernels that a step runs on a GPU, and how often its host waits; none on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize()
    kinds = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[kinds.CPU, kinds.CUDA]) as profile:
        step()
    kernels = waits = 0
    for event in profile.events():
        on_gpu = str(event.device_type).endswith("CUDA")
        kernels += on_gpu and not event.name.startswith("Memcpy")
        # A copy to the host from memory that is not pinned waits as well, by this very call.
        waits += not on_gpu and event.name in ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaMemcpy")
    return kernels, waits


def _on_gpu(launched: tuple[int, int] | None, ours: OurLoop, peer: Loop, cell: StepCell) -> dict[str, Cell]:
    """What only a GPU has: launches, waits and peak memory of both sides."""
    if launched is None:
        return {}
    batch, memory_gb = batch_of(cell), []
    for loop in (ours, peer):
        torch.cuda.reset_peak_memory_stats()
        loop.step(batch, 0.5, ours.config.learning_rate)
        ours.wait()
        memory_gb.append(torch.cuda.max_memory_allocated() / 2**30)
    theirs = launches(lambda: peer.step(batch, 0.5, ours.config.learning_rate), ours.target)
    assert theirs is not None
    return {
        "kernels": launched[0],
        "waits": launched[1],
        "peer kernels": theirs[0],
        "peer waits": theirs[1],
        "memory, GB": memory_gb[0],
        "peer memory, GB": memory_gb[1],
    }


def _row(cell: StepCell, ours: OurLoop, peer: str, precision: Precision, measured: Paired) -> dict[str, Cell]:
    ours_s = sorted(measured.ours_s)[len(measured.ours_s) // 2]
    peer_s = sorted(measured.peer_s)[len(measured.peer_s) // 2]
    first, third = measured.quartiles
    return {
        "network": cell.network,
        "px": cell.image_size,
        "M": cell.num_nodes,
        "batch": cell.batch_size,
        "mode": ours.mode,
        "precision": ours.runtime.precision,
        "peer": peer,
        "peer precision": precision,
        "ours_ms": 1e3 * ours_s,
        "peer_ms": 1e3 * peer_s,
        "ratio": measured.ratio,
        "quartiles": f"{first:.2f}-{third:.2f}",
        "rounds": len(measured.ours_s),
        "images/s": cell.batch_size / ours_s,
    }
