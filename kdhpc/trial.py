"""The whole journey of one trial: build its networks, train, report, prune or finish."""

import hashlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from kdhpc.config.document import to_document
from kdhpc.config.paths import StudyPaths
from kdhpc.config.schema import SearchConfig
from kdhpc.data.batches import EvalBatches, TrainBatches
from kdhpc.errors import CheckpointError
from kdhpc.graph.space import graph_key
from kdhpc.study.claim import Claim
from kdhpc.training.checkpoint import TrialIdentity, load_checkpoint, remove_checkpoint, save_checkpoint
from kdhpc.training.loop import EnsembleTraining
from kdhpc.training.metrics import MetricsLog
from kdhpc.training.pretrained import tell_about_unlearned

_LOG = logging.getLogger(__name__)


class Outcome(str, Enum):
    """How a worker's time with a trial ended."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, kw_only=True)
class TrialSetting:
    """What all trials of a worker share."""

    config: SearchConfig
    """The study's config."""
    paths: StudyPaths
    """Where the study writes."""
    train: TrainBatches
    """The training half of the search split."""
    evaluation: EvalBatches
    """The half that graphs are scored on."""
    num_classes: int
    """Classes of the data set."""


def run_trial(claim: Claim, setting: TrialSetting, should_stop: Callable[[], bool]) -> Outcome:
    """Train the claimed graph to its end, to its pruning, or until asked to stop.

    Args:
        claim: The leased slot; its trial is continued from its checkpoint where there is one.
        setting: Data and config.
        should_stop: Asked after each step; True checkpoints the trial and gives the slot back.

    Raises:
        LeaseLostError: another worker took the trial over; nothing was written.
    """
    training = _build(claim, setting)
    checkpoint = _TrialCheckpoint(claim, setting, training)
    checkpoint.restore()
    metrics = MetricsLog(setting.paths.metrics(claim.number), epoch=training.epoch)

    def after_step() -> bool:
        checkpoint.save_if_due()
        return claim.lost or should_stop()

    for report in training.epochs(after_step):
        try:
            metrics.append(report)
        except OSError as exc:  # As a checkpoint's: what is left to read has a gap.
            _LOG.warning("trial %d: epoch %d is not in its metrics: %s", claim.number, report.epoch, exc)
        if not report.rung or report.ensemble_accuracy is None:
            continue
        # Reported before it is checkpointed: a crash in between repeats a report (the study ignores it) and loses none.
        prune = claim.report(report.epoch, report.ensemble_accuracy)
        if training.finished:
            claim.complete(report.ensemble_accuracy)
            checkpoint.delete()
            return Outcome.COMPLETE
        if prune:
            claim.prune()
            checkpoint.delete()
            return Outcome.PRUNED
        checkpoint.save()
    checkpoint.save()
    claim.release()
    return Outcome.INTERRUPTED


def _build(claim: Claim, setting: TrialSetting) -> EnsembleTraining:
    config = setting.config
    tell_about_unlearned(claim.graph, config.objective, name=f"trial {claim.number}")
    return EnsembleTraining(
        graph=claim.graph,
        network=config.network,
        objective=config.objective,
        training=config.training,
        device=config.device,
        train=setting.train,
        evaluation=setting.evaluation,
        num_classes=setting.num_classes,
        seed=claim.seed,
    )


class _TrialCheckpoint:
    """The checkpoint of one trial: restored once, written at rungs, from time to time, and when stopped."""

    def __init__(self, claim: Claim, setting: TrialSetting, training: EnsembleTraining) -> None:
        self._claim = claim
        self._training = training
        self._path: Path = setting.paths.checkpoint(claim.number)
        self._every_s = setting.config.worker.checkpoint_every_s
        self._saved = time.monotonic()
        self._identity = TrialIdentity(
            study=setting.paths.root.name,
            number=claim.number,
            graph_key=graph_key(claim.graph),
            seed=claim.seed,
            settings=_settings_digest(setting.config),
        )

    def restore(self) -> None:
        if not self._path.exists():
            return
        try:
            self._training.restore(load_checkpoint(self._path, self._identity))
        except CheckpointError as exc:
            _LOG.warning("trial %d starts from its beginning: %s", self._claim.number, exc)
            return
        _LOG.info(
            "trial %d goes on after epoch %d, step %d", self._claim.number, self._training.epoch, self._training.step
        )

    def save_if_due(self) -> None:
        if time.monotonic() - self._saved >= self._every_s:
            self.save()

    def save(self) -> None:
        if self._claim.lost:  # Its new owner writes to the same file.
            return
        self._saved = time.monotonic()
        try:
            save_checkpoint(self._path, self._training.state(), self._identity)
        except CheckpointError as exc:  # A full disk costs time after an interruption, not the trial.
            _LOG.warning("trial %d trains on without a new checkpoint: %s", self._claim.number, exc)

    def delete(self) -> None:
        remove_checkpoint(self._path)


def _settings_digest(config: SearchConfig) -> str:
    """Names the settings that a trial's arithmetic depends on."""
    document = {name: to_document(getattr(config, name)) for name in ("dataset", "network", "objective", "training")}
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]
