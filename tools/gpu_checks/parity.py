"""What half precision costs: losses and accuracies after some epochs, over seeds, on images that are made up."""

import statistics
import time

import numpy as np

from kdhpc.config.schema import DeviceConfig, TrainingConfig
from kdhpc.data.batches import EvalBatches, TrainBatches
from kdhpc.data.packed import PackedSplit
from kdhpc.methods.graph import GraphMethod
from tools.benchmarks.step import full_graph
from tools.gpu_checks.check import Numbers, Scale
from tools.gpu_checks.images import made_up
from tools.gpu_checks.setting import config_of, device_of, pixels_of, training_of

_SEEDS = (0, 1, 2)
_NUM_CLASSES = 10
_EPOCHS = 2
_SCORED = 4
"""One image in so many is scored, and not learned."""


def parity_check(scale: Scale, network: str, precision: str) -> Numbers:
    """Mean and sample standard deviation over seeds, of the last epoch."""
    begin = time.perf_counter()
    batch_size = min(32, scale.parity_images // 8)
    config = config_of(
        scale,
        network,
        num_nodes=2,
        device=DeviceConfig(device="cpu" if scale.cpu else "cuda", precision=precision,  # type: ignore[arg-type]
                            mode="eager" if scale.cpu else "auto"),
        training=TrainingConfig(epochs=_EPOCHS, batch_size=batch_size, learning_rate=0.05, milestones=(_EPOCHS,)),
    )  # fmt: skip
    images, labels = made_up(scale.parity_images, pixels_of(scale, network), _NUM_CLASSES, 0)
    side = images.shape[1]
    split = PackedSplit(images=images, labels=labels, sizes=np.full((len(labels), 2), side, dtype=np.int32))
    scored = np.arange(len(labels)) % _SCORED == 0
    device = device_of(scale)
    train = TrainBatches(split, np.flatnonzero(~scored), config.dataset, batch_size=batch_size, device=device,
                         channels_last=True)  # fmt: skip
    evaluation = EvalBatches(split, np.flatnonzero(scored), config.dataset, batch_size=batch_size, device=device,
                             channels_last=True)  # fmt: skip
    training = training_of(config, full_graph(2), train, evaluation, num_classes=_NUM_CLASSES)
    last = []
    for seed in _SEEDS[: 1 if scale.cpu else None]:
        training.restart(GraphMethod(graph=full_graph(2)), seed)
        last.append(list(training.epochs(lambda: False))[-1])
    losses = [statistics.fmean(report.train_losses) for report in last]
    accuracies = [report.ensemble_accuracy or 0.0 for report in last]
    return {
        "mode": training.mode,
        "precision": precision,
        "step_ms": 1e3 * (time.perf_counter() - begin) / len(last) / last[-1].step,
        "loss": _spread(losses, 3),
        "accuracy_%": _spread(accuracies, 2),
    }


def _spread(values: list[float], digits: int) -> str:
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.{digits}f} ± {spread:.{digits}f}"
