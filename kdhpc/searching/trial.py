"""The whole journey of one trial: build its networks, train, report, prune or finish."""

import hashlib
import json
import logging
from collections.abc import Callable, Generator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from kdhpc.config.document import to_document
from kdhpc.config.paths import StudyPaths
from kdhpc.config.schema import SearchConfig
from kdhpc.data.batches import EvalBatches, TrainBatches
from kdhpc.errors import CheckpointError, DatabaseError, StudyMismatchError
from kdhpc.graph.space import graph_key
from kdhpc.methods.graph import GraphMethod
from kdhpc.networks.weights import pretrained_origin, weights_digest
from kdhpc.study.leased_trial import Claim
from kdhpc.training.checkpoint import CheckpointKey
from kdhpc.training.checkpointing import Checkpointing
from kdhpc.training.loop import TrainingLoop, TrainingState
from kdhpc.training.metrics import MetricsLog
from kdhpc.training.pretrained import warn_about_unlearned
from kdhpc.training.runtime import Runtime
from kdhpc.training.schedule import is_rung
from kdhpc.training.setting import TrainingSetting

_LOG = logging.getLogger(__name__)


class Outcome(str, Enum):
    """How a worker's time with a trial ended."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    DIVERGED = "diverged"
    INTERRUPTED = "interrupted"


class Turn(str, Enum):
    """What a trial did in its turn."""

    STEP = "step"
    """A step, and nothing else."""
    MORE = "more"
    """Its first step here, or more than a step: a checkpoint, the end of an epoch."""
    SCORED = "scored"
    """As MORE, and its ensemble was scored: it has run all programs that there are."""


@dataclass(frozen=True, kw_only=True)
class TrialSetting:
    """What all trials of a worker share."""

    config: SearchConfig
    """The study's config."""
    study_uid: str
    """What no other study has, not even one of the same name that is made after this one was deleted."""
    paths: StudyPaths
    """Where the study writes."""
    data: str
    """Names the images, and which of them train and which score."""
    pretrained_weights: str | None
    """Digest of the file of weights that the study was made with; none: it has none."""
    train: TrainBatches
    """The training half of the search split."""
    evaluation: EvalBatches
    """The half that graphs are scored on."""
    num_classes: int
    """Classes of the data set."""
    runtime: Runtime
    """Where and how this worker computes."""

    @property
    def training(self) -> TrainingSetting:
        """The same, as a training is given it."""
        return TrainingSetting(
            network=self.config.network,
            objective=self.config.objective,
            training=self.config.training,
            runtime=self.runtime,
            train=self.train,
            evaluation=self.evaluation,
            num_classes=self.num_classes,
        )

    @cached_property
    def arithmetic(self) -> str:
        """Digest of what a trial's numbers depend on beside its graph and seed: its checkpoints hold for nothing else.

        The precision is in words, for log lines.
        """
        config = self.config
        document = {
            name: to_document(getattr(config, name)) for name in ("dataset", "network", "objective", "training")
        }
        document["objective"]["pretrained"] = self.pretrained_weights
        document["data"] = {"content": self.data}
        digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]
        return f"{digest} {self.runtime.precision}"


def prepare_training(claim: Claim, setting: TrialSetting, previous: TrainingLoop | None) -> TrainingLoop:
    """Networks and optimisers for a claimed graph.

    Args:
        claim: The leased slot.
        setting: Data and config.
        previous: A training of this setting that has ended: its memory, and all that was compiled and recorded for it,
            are used again.

    Raises:
        NetworkError: the network cannot be built.
        StudyMismatchError: the file of pretrained weights is not what it was when the study was made.
    """
    config = setting.config
    warn_about_unlearned(claim.graph, config.objective, name=f"trial {claim.number}")
    method = GraphMethod(graph=claim.graph)
    if previous is not None:
        previous.restart(method, claim.seed)
        return previous
    training = TrainingLoop(method, setting.training, claim.seed)
    # Now that the file is read: it may have been replaced since this worker began.
    if weights_digest(config.objective) != setting.pretrained_weights:
        raise StudyMismatchError(
            f"{pretrained_origin(config.objective)} is another file now than when the study was made: put that one back"
        )
    return training


def run_trial(
    claim: Claim, setting: TrialSetting, training: TrainingLoop, should_stop: Callable[[], bool]
) -> Generator[Turn, None, Outcome]:
    """Train the claimed graph to its end, until it is pruned or diverges, or until asked to stop.

    Args:
        claim: The leased slot; its trial is continued from its checkpoint where there is one.
        setting: Data and config.
        training: At its beginning, see `prepare_training`.
        should_stop: Asked after each step; True checkpoints the trial and gives the slot back.

    Yields:
        Between two steps, what it did since the one before: other trials of this process may take theirs.

    Returns:
        How it ended.

    Raises:
        LeaseLostError: another worker took the trial over; nothing was written.
        DatabaseError: the database stayed away; the trial is checkpointed, and what was not reported is due again.
        StorageError: its checkpoint may be sound, but cannot be read; the trial has not begun.
    """
    with _checkpointing(claim, setting, training) as checkpoint:
        _restore(claim, setting, training, checkpoint)
        try:
            outcome = yield from _train(claim, setting, training, checkpoint, should_stop)
        except DatabaseError:
            _save_at_the_end(claim, checkpoint)
            raise
        if outcome is not None:
            checkpoint.delete()
            return outcome
        _save_at_the_end(claim, checkpoint)
    claim.release()
    return Outcome.INTERRUPTED


def _train(
    claim: Claim,
    setting: TrialSetting,
    training: TrainingLoop,
    checkpoint: Checkpointing,
    should_stop: Callable[[], bool],
) -> Generator[Turn, None, Outcome | None]:
    """From where it stands; returns how the trial ended, none if it was interrupted."""
    metrics = MetricsLog(setting.paths.metrics(claim.number), epoch=training.epoch)
    turn, first_step = Turn.MORE, True
    for report in training.steps():
        if report is None:
            if first_step:
                claim.describe(mode=training.mode, data=setting.train.placement)
            first_step = False
            if checkpoint.save_if_due() and turn is Turn.STEP:
                turn = Turn.MORE
            if claim.lost or should_stop():
                return None
            yield turn
            turn = Turn.STEP
            continue
        turn = Turn.MORE if report.ensemble_accuracy is None else Turn.SCORED
        if claim.lost:
            return None
        metrics.append(report)
        if report.diverged is not None:
            _diverge(claim, training, report.epoch, report.diverged)
            return Outcome.DIVERGED
        if not report.rung or report.ensemble_accuracy is None:
            continue
        # Reported before it is checkpointed: a crash in between repeats a report, which the study ignores.
        outcome = _report(claim, training, report.epoch, report.ensemble_accuracy)
        if outcome is not None:
            return outcome
        claim.advance(report.step)
        checkpoint.save()
    return None


def _report(claim: Claim, training: TrainingLoop, epoch: int, accuracy: float) -> Outcome | None:
    """Tell the study, and end the trial there if this was its last epoch, or is to be."""
    try:
        prune = claim.report(epoch, accuracy)
        if training.finished:
            claim.complete(accuracy)
            return Outcome.COMPLETE
        if prune:
            claim.prune()
            return Outcome.PRUNED
    except DatabaseError:
        training.reopen_epoch()
        raise
    return None


def _diverge(claim: Claim, training: TrainingLoop, epoch: int, reason: str) -> None:
    """Tell the study, and end the trial there."""
    try:
        claim.diverge(epoch, reason)
    except DatabaseError:
        training.reopen_epoch()
        raise
    _LOG.warning("trial %d diverged in epoch %d: %s", claim.number, epoch, reason)


def _restore(claim: Claim, setting: TrialSetting, training: TrainingLoop, checkpoint: Checkpointing) -> None:
    def check(state: TrainingState) -> None:
        """A checkpoint may outlive its reports, where an older database was put back: they would never be made."""
        last = setting.config.training.epochs
        for epoch in range(1, state.epoch + 1):
            if is_rung(epoch, last) and epoch not in claim.reported:
                raise CheckpointError(f"its checkpoint is ahead of the study (epoch {epoch} is not reported)")

    if checkpoint.restore(check):
        claim.advance(training.step)
    elif claim.reported:
        _LOG.warning(
            "trial %d starts from its beginning, though its epoch %d is reported: no checkpoint is in %s; all workers "
            "of a study need the same KDHPC_RUNS",
            claim.number,
            claim.reported[-1],
            setting.paths.checkpoint(claim.number).parent,
        )


def _save_at_the_end(claim: Claim, checkpoint: Checkpointing) -> None:
    try:
        if checkpoint.save_now():
            _LOG.info("trial %d is checkpointed", claim.number)
    except CheckpointError as exc:  # What is lost is the time since the last one.
        _LOG.warning("trial %d stops without a new checkpoint: %s", claim.number, exc)


def _checkpointing(claim: Claim, setting: TrialSetting, training: TrainingLoop) -> Checkpointing:
    return Checkpointing(
        setting.paths.checkpoint(claim.number),
        training,
        CheckpointKey(
            study=setting.study_uid,
            number=claim.number,
            graph_key=graph_key(claim.graph),
            seed=claim.seed,
            settings=setting.arithmetic,
        ),
        every_s=setting.config.worker.checkpoint_every_s,
        name=f"trial {claim.number}",
        may_write=lambda: not claim.lost,
        on_written=claim.advance,
    )
