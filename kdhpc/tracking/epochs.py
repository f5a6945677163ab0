"""Epoch reports as a tracker shows them, and the log that a training writes both to."""

from collections.abc import Iterator
from pathlib import Path

from kdhpc.config.schema import TrainingConfig
from kdhpc.tracking.recorder import RunRecord
from kdhpc.tracking.run import Point
from kdhpc.training.loop import EpochReport
from kdhpc.training.metrics import MetricsLog, read_metrics
from kdhpc.training.schedule import ScheduleStep, learning_rate


class EpochLog:
    """Where a training's epochs are written: its ``metrics.jsonl``, and the tracker.

    Args:
        metrics: The file.
        record: The tracker's.
        training: The schedule.
    """

    def __init__(self, metrics: MetricsLog, record: RunRecord, training: TrainingConfig) -> None:
        self._metrics = metrics
        self._record = record
        self._training = training

    def append(self, report: EpochReport) -> None:
        """Write down an epoch."""
        self._metrics.append(report)
        self._record.report(point_of(report, self._training))


def earlier_points(metrics: Path, training: TrainingConfig) -> Iterator[Point]:
    """The epochs in a run's ``metrics.jsonl``, which other processes may have trained."""
    return (point_of(report, training) for report in read_metrics(metrics))


def point_of(report: EpochReport, training: TrainingConfig) -> Point:
    """What a tracker shows of an epoch.

    Returns:
        ``loss/node1``, ... and ``loss/mean``; ``learning_rate``, of its last step; ``images_per_second``, evaluation
        included; where it was scored, in percent, ``accuracy/node1``, ..., ``accuracy/ensemble``, and
        ``nll/ensemble``.
    """
    losses = report.train_losses
    steps_per_epoch = report.step // report.epoch
    last = ScheduleStep(epoch=report.epoch, step=report.step, num_steps=steps_per_epoch * training.epochs)
    values = {f"loss/node{index}": loss for index, loss in enumerate(losses, 1)}
    values["loss/mean"] = sum(losses) / max(1, len(losses))
    values["learning_rate"] = learning_rate(training, last)
    if report.seconds > 0:
        values["images_per_second"] = steps_per_epoch * training.batch_size / report.seconds
    for index, accuracy in enumerate(report.node_accuracies or (), 1):
        values[f"accuracy/node{index}"] = accuracy
    if report.ensemble_accuracy is not None:
        values["accuracy/ensemble"] = report.ensemble_accuracy
    if report.ensemble_nll is not None:
        values["nll/ensemble"] = report.ensemble_nll
    return Point(epoch=report.epoch, values=values)
