"""The whole journey of one trial: build its networks, train, report, prune or finish."""

import hashlib
import json
import logging
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Protocol

from kdhpc.config.compatibility import under_first_names, written
from kdhpc.config.document import to_document
from kdhpc.config.goals import GoalName
from kdhpc.config.paths import StudyPaths
from kdhpc.config.schema import SearchConfig
from kdhpc.data.batches import EvalBatches, TrainBatches
from kdhpc.errors import CheckpointError, DatabaseError, StudyMismatchError
from kdhpc.graph.plugins import plugins_of
from kdhpc.graph.space import graph_key
from kdhpc.graph.spec import GraphSpec
from kdhpc.losses.kinds import BUILT_IN_KINDS, Kinds
from kdhpc.methods.graph import GraphMethod
from kdhpc.networks.weights import origin_of_weights, weights_digest
from kdhpc.searching.plan import names_of, names_of_networks
from kdhpc.searching.tracked import tracked_trial
from kdhpc.study.numbers import trial_words
from kdhpc.study.outcome import Outcome
from kdhpc.tracking.epochs import EpochLog, earlier_points
from kdhpc.tracking.recorder import UNTRACKED, Recorder
from kdhpc.tracking.run import State, TrackedRun
from kdhpc.training.checkpoint import CheckpointKey
from kdhpc.training.checkpointing import Checkpointing
from kdhpc.training.loop import EpochReport, TrainingLoop, TrainingState
from kdhpc.training.made_with import device_name, made_with
from kdhpc.training.metrics import MetricsLog
from kdhpc.training.pretrained import warn_about_unlearned
from kdhpc.training.runtime import Runtime
from kdhpc.training.schedule import is_rung
from kdhpc.training.setting import TrainingSetting

_LOG = logging.getLogger(__name__)
_END_STATES: Mapping[Outcome, State] = {
    Outcome.COMPLETE: "complete",
    Outcome.PRUNED: "pruned",
    Outcome.DIVERGED: "diverged",
}


class StepKind(str, Enum):
    """What a trial did between two yields."""

    STEP = "step"
    """A step, and nothing else."""
    MORE = "more"
    """The first step in this process, or a step and more: a checkpoint, or the end of an epoch."""
    SCORED = "scored"
    """As MORE, and its ensemble was scored: everything that a trial compiles is compiled by now."""


class StudyTrial(Protocol):
    """A trial as the code that trains it sees it: what to train, and where to report progress.

    ``kdhpc.study.leased_trial.LeasedTrial`` is one. Its methods raise `DatabaseError` where the study stays out of
    reach, and `LeaseLostError` where another worker has taken the trial over.
    """

    @property
    def number(self) -> int:
        """In the study."""

    @property
    def graph(self) -> GraphSpec:
        """What to train."""

    @property
    def seed(self) -> int:
        """Seeds weights and data order."""

    @property
    def reported(self) -> tuple[int, ...]:
        """Epochs that were reported before this worker took the trial, rising."""

    @property
    def lost(self) -> bool:
        """Another worker has taken the trial over: stop, write nothing."""

    def describe(self, *, mode: str, data: str, versions: Mapping[str, str]) -> None:
        """Say how the trial runs, once its first step is done."""

    def stepped(self, epoch: int, images: int) -> None:
        """Say that a step was done in this epoch (1-based), after so many images in all; returns at once."""

    def advance(self, step: int) -> None:
        """Say that a checkpoint of this optimiser step is on the disk; returns at once."""

    def report_rung(self, epoch: int, value: float) -> Outcome | None:
        """Report the goal's value at an epoch. Returns how the trial has ended by that; None: it goes on."""

    def diverge(self, epoch: int, reason: str) -> None:
        """End the trial, whose numbers are not finite since this epoch."""


@dataclass(frozen=True, kw_only=True)
class TrialSetting:
    """What all trials of a worker share."""

    config: SearchConfig
    """The study's config."""
    study_uid: str
    """Unique to the study: one of the same name that is made after this one was deleted has another."""
    paths: StudyPaths
    """Where the study writes."""
    data: str
    """Names the images, and which of them train and which score."""
    pretrained_weights: str | None
    """Digest of the file of weights that the study was made with; None: it has none."""
    train: TrainBatches
    """The training half of the search split."""
    evaluation: EvalBatches
    """The half that graphs are scored on."""
    num_classes: int
    """Classes of the data set."""
    runtime: Runtime
    """Where and how this worker computes."""
    kinds: Kinds = BUILT_IN_KINDS
    """The losses and gates that graphs of the study may have."""
    recorder: Recorder = UNTRACKED
    """Tells a tracker of the trials."""

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
            possible_networks=self.config.possible_networks if self.config.study.networks else (),
        )

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the settings that affect a trial's numbers. A checkpoint with another one is rejected.

        The graph and the seed are not in it. The precision is in words, for log lines.
        """
        config = self.config
        document = {
            name: under_first_names(name, written(name, to_document(getattr(config, name))))
            for name in ("dataset", "network", "objective", "training")
        }
        document["objective"]["pretrained"] = self.pretrained_weights
        document["network"].pop("weights", None)  # The digest is also of these.
        document["data"] = {"content": self.data}
        if plugins := plugins_of(names_of(config)):
            document["plugins"] = dict(plugins)
        digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]
        return f"{digest} {self.runtime.precision}"


def prepare_training(trial: StudyTrial, setting: TrialSetting, previous: TrainingLoop | None) -> TrainingLoop:
    """Networks and optimisers for the graph of a trial.

    Args:
        trial: What to train.
        setting: Data and config.
        previous: A training of this setting that has ended: its memory, and all that was compiled and recorded for it,
            are used again.

    Raises:
        NetworkError: the network cannot be built.
        StudyMismatchError: the file of pretrained weights is not what it was when the study was made.
    """
    config = setting.config
    warn_about_unlearned(trial.graph, config.network, config.objective, name=trial_words(trial.number))
    method = GraphMethod(graph=trial.graph, kinds=setting.kinds)
    if previous is not None:
        previous.restart(method, trial.seed)
        return previous
    training = TrainingLoop(method, setting.training, trial.seed)
    # Now that the files are read: one may have been replaced since this worker began.
    names = names_of_networks(config)
    if weights_digest(config.objective, names, start=config.network) != setting.pretrained_weights:
        raise StudyMismatchError(
            f"{origin_of_weights(config.objective, config.network, names)} is another file now than when the study was "
            "made: put that one back"
        )
    return training


def run_trial(
    trial: StudyTrial, setting: TrialSetting, training: TrainingLoop, should_stop: Callable[[], bool]
) -> Generator[StepKind, None, Outcome]:
    """Train a graph to its end, until it is pruned or diverges, or until asked to stop.

    Args:
        trial: What to train; it is continued from its checkpoint where there is one.
        setting: Data and config.
        training: At its beginning, see `prepare_training`.
        should_stop: Asked after each step; True checkpoints the trial and interrupts it.

    Yields:
        After each step, what was done since the last yield. Meanwhile other trials of this process may run.

    Returns:
        How it ended.

    Raises:
        LeaseLostError: another worker took the trial over; nothing was written.
        DatabaseError: the database stayed away; the trial is checkpointed, and the missing report is repeated later.
        StorageError: the checkpoint cannot be read, though it may be intact; the trial has not begun.
    """
    with _checkpointing(trial, setting, training) as checkpoint:
        _restore(trial, setting, training, checkpoint)
        metrics = setting.paths.metrics(trial.number)
        written = MetricsLog(metrics, epoch=training.epoch)
        with setting.recorder.begin(
            lambda: _tracked(trial, setting),
            lambda: earlier_points(metrics, setting.config.training),
        ) as record:
            log = EpochLog(written, record, setting.config.training)
            try:
                outcome = yield from _train(trial, setting, training, checkpoint, log, should_stop)
            except DatabaseError:
                _save_at_the_end(trial, checkpoint)
                raise
            if outcome is not None:
                record.end(_END_STATES[outcome], training.diverged or "")
                checkpoint.delete()
                return outcome
            _save_at_the_end(trial, checkpoint)
            record.end("lost" if trial.lost else "interrupted")
    return Outcome.INTERRUPTED


def _train(
    trial: StudyTrial,
    setting: TrialSetting,
    training: TrainingLoop,
    checkpoint: Checkpointing,
    log: EpochLog,
    should_stop: Callable[[], bool],
) -> Generator[StepKind, None, Outcome | None]:
    """From where it stands; returns how the trial ended, None if it was interrupted."""
    kind, first_step = StepKind.MORE, True
    for report in training.steps():
        if report is None:
            trial.stepped(training.epoch + 1, training.step * setting.config.training.batch_size)
            if first_step:
                trial.describe(mode=training.mode, data=setting.train.placement, versions=_versions(setting.runtime))
            first_step = False
            if checkpoint.save_if_due() and kind is StepKind.STEP:
                kind = StepKind.MORE
            if trial.lost or should_stop():
                return None
            yield kind
            kind = StepKind.STEP
            continue
        kind = StepKind.MORE if report.ensemble_accuracy is None else StepKind.SCORED
        if trial.lost:
            return None
        log.append(report)
        if report.diverged is not None:
            _diverge(trial, training, report.epoch, report.diverged)
            return Outcome.DIVERGED
        value = goal_value(report, setting.config.study.goal)
        if not report.rung or value is None:
            continue
        # Reported before it is checkpointed: a crash in between repeats a report, which the study ignores.
        outcome = _report(trial, training, report.epoch, value)
        if outcome is not None:
            return outcome
        checkpoint.save_after(setting.config.worker.rung_checkpoint_s)
    return None


def _versions(runtime: Runtime) -> dict[str, str]:
    """What a trial is made with, for its record."""
    return {"device": device_name(runtime.device), **made_with(runtime.device)}


def _tracked(trial: StudyTrial, setting: TrialSetting) -> TrackedRun:
    """What a tracker is told of a trial."""
    return tracked_trial(
        trial.graph,
        number=trial.number,
        seed=trial.seed,
        study_uid=setting.study_uid,
        paths=setting.paths,
        config=setting.config,
        made_with=_versions(setting.runtime),
    )


def goal_value(report: EpochReport, goal: GoalName) -> float | None:
    """What a study's goal makes of an epoch: percent, or nats for ``nll``; None where nothing was measured."""
    if report.node_accuracies is None:
        return None
    if goal == "node1":
        return report.node_accuracies[0]
    if goal == "mean_node":
        return sum(report.node_accuracies) / len(report.node_accuracies)
    return report.ensemble_nll if goal == "nll" else report.ensemble_accuracy


def _report(trial: StudyTrial, training: TrainingLoop, epoch: int, value: float) -> Outcome | None:
    """Report to the study; returns how the trial has ended by that, None if it goes on."""
    try:
        return trial.report_rung(epoch, value)
    except DatabaseError:
        training.reopen_epoch()
        raise


def _diverge(trial: StudyTrial, training: TrainingLoop, epoch: int, reason: str) -> None:
    """End the trial in the study, as diverged."""
    try:
        trial.diverge(epoch, reason)
    except DatabaseError:
        training.reopen_epoch()
        raise
    _LOG.warning("%s diverged in epoch %d: %s", trial_words(trial.number), epoch, reason)


def _restore(trial: StudyTrial, setting: TrialSetting, training: TrainingLoop, checkpoint: Checkpointing) -> None:
    def check(state: TrainingState) -> None:
        """Refuse a checkpoint that is ahead of the study, as when an older database was restored.

        The reports in between would never be made.
        """
        last = setting.config.training.epochs
        for epoch in range(1, state.epoch + 1):
            if is_rung(epoch, last) and epoch not in trial.reported:
                raise CheckpointError(f"its checkpoint is ahead of the study (epoch {epoch} is not reported)")

    if checkpoint.restore(check):
        trial.advance(training.step)
    elif trial.reported:
        _LOG.warning(
            "%s starts from its beginning, though its epoch %d is reported: no checkpoint is in %s; either it was "
            "killed before its first one, or not all workers of the study have the same KDHPC_RUNS",
            trial_words(trial.number),
            trial.reported[-1],
            setting.paths.checkpoint(trial.number).parent,
        )


def _save_at_the_end(trial: StudyTrial, checkpoint: Checkpointing) -> None:
    try:
        if checkpoint.save_now():
            _LOG.info("%s is checkpointed", trial_words(trial.number))
    except CheckpointError as exc:  # Only the time since the last one is lost.
        _LOG.warning("%s stops without a new checkpoint: %s", trial_words(trial.number), exc)


def _checkpointing(trial: StudyTrial, setting: TrialSetting, training: TrainingLoop) -> Checkpointing:
    return Checkpointing(
        setting.paths.checkpoint(trial.number),
        training,
        CheckpointKey(
            study=setting.study_uid,
            number=trial.number,
            graph_key=graph_key(trial.graph),
            seed=trial.seed,
            settings=setting.fingerprint,
        ),
        every_s=setting.config.worker.checkpoint_every_s,
        name=trial_words(trial.number),
        may_write=lambda: not trial.lost,
        on_written=trial.advance,
    )
