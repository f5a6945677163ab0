"""The cells of ``tools/bench gpu``: what is trained, and how one is measured."""

import dataclasses
import functools
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdhpc.config.compose import compose_search
from kdhpc.config.paths import packed_dir
from kdhpc.config.schema import DeviceConfig, SearchConfig
from kdhpc.data.batches import Batch, EvalBatches, TrainBatches
from kdhpc.data.packed import PackedDataset, PackedSplit
from kdhpc.data.split import search_split
from kdhpc.networks.names import architecture
from kdhpc.training.batches import TrainSource
from kdhpc.training.device import Precision, resolve_device
from kdhpc.training.loop import EnsembleTraining
from kdhpc.training.programs import programs
from kdhpc.training.recording import record_cuda_graph
from kdhpc.training.streams import OwnStream
from tools.benchmarks.report import Cell
from tools.benchmarks.step import OurLoop, StepCell, batch_of, crops_of, full_graph, peer_loop

WARM_STEPS = 10
_SEEDS = (0, 1, 2)


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything."""

    num_nodes: int
    """M."""
    batch_size: int
    """N."""
    image_size: int | None
    """S, in pixels; none: 32, and 224 for ImageNet's networks."""
    num_steps: int
    """Timed steps of a cell."""

    def pixels(self, network: str) -> int:
        """S of that network."""
        return self.image_size or (32 if architecture(network).family == "cifar" else 224)


class ReadyBatches:
    """The batches of another source, made already: what a step costs without making them."""

    def __init__(self, train: TrainBatches) -> None:
        self._train = train
        self._batch = next(train.epoch(0, 1))
        self.steps_per_epoch = train.steps_per_epoch
        self.image_size = train.image_size
        self.placement = train.placement

    def recipes(self, seed: int, epoch: int, first_step: int = 0) -> Iterator[tuple[Tensor, ...]]:
        """The same one in every step."""
        for _ in range(first_step, self.steps_per_epoch):
            yield self._batch.images, self._batch.labels

    def make(self, recipe: tuple[Tensor, Tensor]) -> Batch:
        """It is there."""
        return Batch(images=recipe[0], labels=recipe[1])


def config_of(network: str, size: Size, **device: object) -> SearchConfig:
    """Noise in the form of CIFAR-100, or of Stanford Dogs for ImageNet's networks; options of the device group."""
    small, pixels = architecture(network).family == "cifar", size.pixels(network)
    config = compose_search(
        [
            f"study={'cifar100_2' if small else 'dogs2'}", f"study.num_nodes={size.num_nodes}", f"network={network}",
            f"network.crops={list(crops_of(network, pixels))}", f"dataset.image_size={pixels}",
            f"training.batch_size={size.batch_size}", f"device={'cuda' if torch.cuda.is_available() else 'cpu'}",
        ]
    )  # fmt: skip
    return dataclasses.replace(config, device=dataclasses.replace(config.device, **device))  # type: ignore[arg-type]


def noise_batches(config: SearchConfig, num_steps: int) -> tuple[TrainBatches, EvalBatches]:
    """Noise for so many steps, so that no end of an epoch is among them, as large as what is packed."""
    stored = config.dataset.image_size if config.dataset.augmentation == "pad_crop" else config.dataset.resize
    split = _noise(config.training.batch_size * (num_steps + 1), stored)
    return batches_of(split, None, split, np.arange(1), config)


@functools.lru_cache(maxsize=2)
def _noise(num_images: int, side: int) -> PackedSplit:
    return PackedSplit(
        images=np.random.default_rng(0).integers(0, 256, (num_images, side, side, 3), dtype=np.uint8),
        labels=np.arange(num_images, dtype=np.int64) % 10,
        sizes=np.full((num_images, 2), side, dtype=np.int32),
    )


def batches_of(
    train: PackedSplit,
    trained: NDArray[np.int64] | None,
    test: PackedSplit,
    scored: NDArray[np.int64] | None,
    config: SearchConfig,
) -> tuple[TrainBatches, EvalBatches]:
    """Both kinds of batches under a config."""
    device, channels_last = resolve_device(config.device), config.device.channels_last
    return (
        TrainBatches(
            train, trained, config.dataset,
            batch_size=config.training.batch_size, device=device, channels_last=channels_last,
        ),
        EvalBatches(
            test, scored, config.dataset,
            batch_size=config.training.eval_batch_size, device=device, channels_last=channels_last,
        ),
    )  # fmt: skip


def training_of(
    config: SearchConfig, train: TrainSource, evaluation: EvalBatches, *, seed: int = 0, num_classes: int = 100
) -> EnsembleTraining:
    """A training in which every loss is computed."""
    return EnsembleTraining(
        graph=full_graph(config.study.num_nodes),
        network=config.network,
        objective=config.objective,
        training=config.training,
        device=config.device,
        train=train,
        evaluation=evaluation,
        num_classes=num_classes,
        seed=seed,
    )


def steps_cell(config: SearchConfig, size: Size, *, num_seats: int = 1, ready: bool = False) -> dict[str, Cell]:
    """Steps of trainings that take turns, each on a stream of its own, as a worker's seats."""
    begin = time.perf_counter()
    train, evaluation = noise_batches(config, WARM_STEPS + size.num_steps + 1)
    source: TrainSource = ReadyBatches(train) if ready else train
    device = resolve_device(config.device)
    streams, trainings = [], []
    for seed in range(num_seats):
        streams.append(_stream(device))
        with _on(streams[-1]):
            trainings.append(training_of(config, source, evaluation, seed=seed))
    journeys = [training.steps() for training in trainings]

    def turn() -> None:
        for journey, stream in zip(journeys, streams, strict=True):
            with _on(stream):
                next(journey)

    turn()
    wait(device)
    first_s = time.perf_counter() - begin
    step_s = timed(turn, size.num_steps, device) / num_seats
    return {"ran": trainings[0].mode, "step_ms": 1e3 * step_s, "first_step_s": first_s}


def grouped_cell(network: str, size: Size, *, recorded: bool, precision: Precision) -> dict[str, Cell]:
    """All networks as one of grouped convolutions, on a single stream, images ready; recorded: as one graph."""
    begin = time.perf_counter()
    cell = StepCell(
        network=network,
        num_nodes=size.num_nodes,
        batch_size=size.batch_size,
        image_size=size.pixels(network),
        device=DeviceConfig(mode="eager", precision=precision),
    )
    ours, batch = OurLoop(cell), batch_of(cell)
    loop = peer_loop("grouped", ours, cell, precision)

    def step() -> Tensor:
        losses = loop.step(batch, 0.5, ours.config.learning_rate)
        assert isinstance(losses, Tensor)
        return losses

    turn = step
    if recorded:
        own = OwnStream(ours.target)
        with own.in_line():
            for _ in range(3):
                step()
            turn = record_cuda_graph(step)
    turn()
    ours.wait()
    first_s = time.perf_counter() - begin
    step_s = timed(turn, size.num_steps, ours.target)
    return {"ran": "eager cudagraph" if recorded else "eager", "step_ms": 1e3 * step_s, "first_step_s": first_s}


def parity_cell(config: SearchConfig, dataset: str, *, images: int, epochs: int) -> dict[str, Cell]:
    """Losses and accuracies after some epochs on real images, mean and sample standard deviation over seeds."""
    begin = time.perf_counter()
    packed = PackedDataset.open(packed_dir(dataset))
    data = compose_search([f"dataset={dataset}", "study=quickstart"]).dataset
    pixels = max(data.image_size, config.dataset.image_size)
    data = dataclasses.replace(data, image_size=pixels, pad=max(data.pad, pixels - data.image_size))
    split = search_split(packed.train.labels, validation_fraction=0.2, subset=images, seed=data.split_seed)
    training = dataclasses.replace(config.training, epochs=epochs, milestones=(epochs,))
    config = dataclasses.replace(config, dataset=data, training=training)
    train, evaluation = batches_of(packed.train, split.train, packed.train, split.validation, config)
    learning = training_of(config, train, evaluation, num_classes=len(packed.classes))
    last = []
    for seed in _SEEDS:
        learning.restart(full_graph(config.study.num_nodes), seed)
        last.append(list(learning.epochs(lambda: False))[-1])
    losses = [statistics.fmean(report.train_losses) for report in last]
    accuracies = [report.ensemble_accuracy or 0.0 for report in last]
    steps = len(last) * last[-1].step
    return {
        "ran": learning.mode,
        "step_ms": 1e3 * (time.perf_counter() - begin) / steps,
        "loss": f"{statistics.fmean(losses):.3f} ± {statistics.stdev(losses):.3f}",
        "accuracy_%": f"{statistics.fmean(accuracies):.2f} ± {statistics.stdev(accuracies):.2f}",
    }


def timed(turn: Callable[[], object], num_steps: int, device: torch.device) -> float:
    """Seconds of a turn, after some that do not count."""
    for _ in range(WARM_STEPS):
        turn()
    wait(device)
    begin = time.perf_counter()
    for _ in range(num_steps):
        turn()
    wait(device)
    return (time.perf_counter() - begin) / num_steps


def wait(device: torch.device) -> None:
    """Until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def forget(*, broken: bool) -> None:
    """What a cell has left, that compiling or recording failed among it; broken: all that was compiled, too."""
    programs.cache_clear()
    if broken:
        torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _stream(device: torch.device) -> OwnStream | None:
    """A new one that begins after all that was launched, as a seat's."""
    if device.type != "cuda":
        return None
    own = OwnStream(device)
    own.stream.wait_stream(torch.cuda.current_stream())
    return own


def _on(own: OwnStream | None) -> AbstractContextManager[object]:
    return nullcontext() if own is None else torch.cuda.stream(own.stream)
