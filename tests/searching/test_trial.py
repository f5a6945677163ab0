"""What a trial's checkpoint holds for, and what becomes of one that holds for something else."""

import dataclasses
import logging
import tempfile
from pathlib import Path

import pytest
import torch

from kdhpc.config.compose import compose_search
from kdhpc.config.paths import StudyPaths
from kdhpc.errors import DatabaseError, StorageError
from kdhpc.files import storage_errors
from kdhpc.graph.presets import dml
from kdhpc.networks.weights import weights_digest
from kdhpc.searching.trial import StudyTrial, TrialSetting, prepare_training, run_trial
from kdhpc.server.control import ServerOptions, start, stop
from kdhpc.study.leased_trial import LeasedTrial
from kdhpc.study.outcome import Outcome
from kdhpc.training.metrics import read_metrics
from kdhpc.training.runtime import resolve_runtime
from tests.study.made import HERE, make, optuna_trials, take
from tests.training.memory_source import IMAGE_SIZE, NUM_CLASSES, MemoryEval, MemoryTrain
from tests.users import ordinary_user
from tests.workspace import until


class FakeTrial:
    """A trial of a study without a database; as a `StudyTrial`."""

    number, seed, lost, graph = 3, 1, False, dml(2)

    def __init__(self, reported=()):
        self.reported, self.steps, self.diverged = reported, [], None

    def describe(self, **_):
        pass

    def stepped(self, epoch, images):
        pass

    def advance(self, step):
        self.steps.append(step)

    def diverge(self, epoch, reason):
        self.diverged = (epoch, reason)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def little_patience(monkeypatch):
    """With disks that fail."""
    monkeypatch.setattr(storage_errors, "_PAUSES_S", (0.01, 0.01, 0.01))


def setting_of(root, *overrides, **changes):
    config = compose_search(
        [
            *("study=quickstart", f"dataset.image_size={IMAGE_SIZE}", "network.crops=[3]", "training.batch_size=4"),
            *("device=cpu", "worker.rung_checkpoint_s=0", *overrides),
        ]
    )
    fields = {
        "config": config,
        "study_uid": "the study",
        "paths": StudyPaths(root),
        "data": "the images",
        "pretrained_weights": weights_digest(config.objective),
        "train": MemoryTrain(),
        "evaluation": MemoryEval(),
        "num_classes": NUM_CLASSES,
        "runtime": resolve_runtime(config.device),
    }
    return TrialSetting(**{**fields, **changes})


def begin(setting, num_steps, trial=None):
    """Train so many steps and give the trial back."""
    trial, left = trial or ReportingTrial(), iter(range(num_steps))
    training = prepare_training(trial, setting, None)
    journey = run_trial(trial, setting, training, lambda: next(left) == num_steps - 1)
    ends = []

    def ride():
        ends.append((yield from journey))

    list(ride())
    assert ends == [Outcome.INTERRUPTED]
    return training


def test_fakes_know_no_more_than_the_protocol_asks_for():
    def public(kind):
        return {name for name in dir(kind) if not name.startswith("_")}

    assert public(ReportingTrial(())) - {"steps", "values", "diverged", "last_epoch"} == public(StudyTrial)
    assert public(StudyTrial) <= public(LeasedTrial) | {"graph", "seed"}, "which it is given"


def test_run_trial_goes_on_from_its_checkpoint(tmp_path):
    begin(setting_of(tmp_path), 2)
    assert begin(setting_of(tmp_path), 1).step == 3


def test_run_trial_of_another_precision_starts_again_and_says_so(tmp_path, caplog):
    begin(setting_of(tmp_path), 2)
    with caplog.at_level(logging.WARNING):
        again = begin(setting_of(tmp_path, "device.precision=bf16"), 1)
    assert again.step == 1
    assert "trial 3 starts from its beginning" in caplog.text
    assert " float32', this trial has '" in caplog.text
    assert " bf16'" in caplog.text


def test_fingerprint_counts_weights_by_their_content(tmp_path):
    digests = []
    for folder, content in (("a", b"same"), ("b", b"same"), ("c", b"other")):
        path = tmp_path / folder / "w.safetensors"
        path.parent.mkdir()
        path.write_bytes(content)
        overrides = ("objective.unlearned=pretrained", f"objective.pretrained={path}")
        digests.append(setting_of(tmp_path, *overrides).fingerprint)
    assert digests[0] == digests[1] != digests[2]


def test_fingerprint_of_how_a_worker_runs_is_the_same(tmp_path):
    here = setting_of(tmp_path)
    there = setting_of(tmp_path, "device.channels_last=false", "worker.lease_s=900")
    assert here.fingerprint == there.fingerprint
    for different in (
        *("training.learning_rate=0.5", "training.optimizer=adamw", "training.nesterov=true"),
        *("training.schedule=cosine", "training.label_smoothing=0.1", "dataset.augmentations=[RandAugment]"),
    ):
        assert setting_of(tmp_path, different).fingerprint != here.fingerprint


class ReportingTrial(FakeTrial):
    """What it is told is kept; a report of an epoch that it has is not."""

    def __init__(self, reported=()):
        super().__init__(reported)
        self.values = {}

    last_epoch = 4

    def report_rung(self, epoch, accuracy):
        if epoch not in self.reported:
            self.values[epoch] = accuracy
        return Outcome.COMPLETE if epoch == self.last_epoch else None


class DisplacedTrial(FakeTrial):
    """Another worker has the slot since the last step of the first epoch."""

    asked = 0

    @property
    def lost(self):
        self.asked += 1
        return self.asked > MemoryTrain().steps_per_epoch


def test_run_trial_displaced_leaves_the_metrics_to_the_other_worker(tmp_path):
    setting, trial = setting_of(tmp_path), DisplacedTrial()
    list(run_trial(trial, setting, prepare_training(trial, setting, None), lambda: False))
    assert trial.asked > MemoryTrain().steps_per_epoch
    assert not setting.paths.metrics(trial.number).exists()


def test_run_trial_without_the_checkpoint_of_what_is_reported_says_where_it_looked(tmp_path, caplog):
    setting, trial = setting_of(tmp_path), FakeTrial(reported=(1, 2))
    list(run_trial(trial, setting, prepare_training(trial, setting, None), lambda: True))
    assert "trial 3 starts from its beginning, though its epoch 2 is reported: no checkpoint is in" in caplog.text
    assert f"{setting.paths.trial(3)}; either it was killed before its first one, or not all" in caplog.text
    caplog.clear()
    list(run_trial(trial, setting, prepare_training(trial, setting, None), lambda: True))
    assert "starts from its beginning" not in caplog.text


def epochs_of(setting, number):
    return [dataclasses.replace(report, seconds=0.0) for report in read_metrics(setting.paths.metrics(number))]


def ride(trial, setting, training):
    """Train to the end; steps, and how it ended."""
    journey, steps = run_trial(trial, setting, training, lambda: False), 0
    while True:
        try:
            next(journey)
        except StopIteration as stop:
            return steps, stop.value
        steps += 1


def leased_trial(study):
    """With a seed that these small images can be drawn by."""
    trial = take(study)
    trial.seed = 1
    return trial


@pytest.mark.parametrize(
    ("call", "epoch", "steps_left"),
    [("describe", 0, 15), ("report", 1, 12), ("report", 2, 8), ("report", 4, 0), ("complete", 4, 0), ("prune", 2, 8)],
)
def test_run_trial_that_loses_its_database_keeps_what_it_trained_and_reports_it_later(
    storage, storage_url, server_folder, tmp_path, caplog, call, epoch, steps_left
):
    options = ("training.epochs=4", "training.milestones=[]")
    setting, study = setting_of(tmp_path / "away", *options), make(storage, target=1, pruner="none")
    trial = leased_trial(study)
    training = prepare_training(trial, setting, None)
    method = getattr(trial, call)

    def away(*args, **kwargs):
        if training.epoch == epoch:
            stop(server_folder)
        return method(*args, **kwargs)

    setattr(trial, call, away)
    if call == "prune":
        trial.report = lambda at, value: LeasedTrial.report(trial, at, value) or at == epoch
    storage._patience_s = 0.1
    try:
        with caplog.at_level(logging.INFO), pytest.raises(DatabaseError):
            ride(trial, setting, training)
    finally:
        trial._ended.set()
        start(server_folder, ServerOptions())
    storage._patience_s = 60.0
    assert "trial 0 is checkpointed" in caplog.text

    assert study.expire([HERE]) == 1
    again = leased_trial(study)
    steps, outcome = ride(again, setting, prepare_training(again, setting, None))
    assert (steps, outcome) == (steps_left, Outcome.COMPLETE)
    (stored,) = optuna_trials(storage_url)
    assert list(stored.intermediate_values) == [1, 2, 4]
    undisturbed = setting_of(tmp_path / "there", *options)
    calm = ReportingTrial()
    calm.number, calm.graph, calm.seed = 0, trial.graph, trial.seed
    ride(calm, undisturbed, prepare_training(calm, undisturbed, None))
    assert epochs_of(setting, 0) == epochs_of(undisturbed, 0)


def test_run_trial_that_loses_its_database_and_its_disk_does_not_say_that_it_is_checkpointed(tmp_path, caplog):
    class Away(FakeTrial):
        def report_rung(self, *_):
            raise DatabaseError("away")

    setting = setting_of(tmp_path)
    setting.paths.checkpoint(3).mkdir(parents=True)
    with caplog.at_level(logging.INFO), pytest.raises(DatabaseError):
        ride(Away(), setting, prepare_training(FakeTrial(), setting, None))
    assert "trial 3 stops without a new checkpoint" in caplog.text
    assert "is checkpointed" not in caplog.text


FOUR = ("training.epochs=4", "training.milestones=[]")


def undisturbed(root, *overrides, **changes):
    """What a trial that nothing happens to reports."""
    setting, trial = setting_of(root, *FOUR, *overrides, **changes), ReportingTrial()
    assert ride(trial, setting, prepare_training(trial, setting, None))[1] is Outcome.COMPLETE
    return trial.values, epochs_of(setting, trial.number)


@pytest.mark.parametrize("differs", [{"study_uid": "made again"}, {"data": "other images"}])
def test_run_trial_of_a_study_that_was_made_again_takes_nothing_of_the_first(tmp_path, caplog, differs):
    begin(setting_of(tmp_path, *FOUR), 6)
    train = MemoryTrain()
    train.images = train.images.flip(0)
    setting, trial = setting_of(tmp_path, *FOUR, train=train, **differs), ReportingTrial()
    _, outcome = ride(trial, setting, prepare_training(trial, setting, None))
    assert outcome is Outcome.COMPLETE
    assert caplog.text.count("trial 3 starts from its beginning: checkpoint") == 1
    assert "belongs to another trial" in caplog.text
    assert (trial.values, epochs_of(setting, 3)) == undisturbed(tmp_path / "calm", train=train)


@pytest.mark.parametrize("reported", [(), (1,)])
def test_run_trial_whose_checkpoint_is_ahead_of_the_study_reports_every_rung(tmp_path, caplog, reported):
    """An older database was put back, beside checkpoints that have gone on since."""
    setting = setting_of(tmp_path, *FOUR)
    trial = ReportingTrial()
    begin(setting, 10, trial)
    assert sorted(trial.values) == [1, 2]
    caplog.clear()
    again = ReportingTrial(reported)
    training = begin(setting, 2, again)
    missing = 2 if reported else 1
    ahead = f"trial 3 starts from its beginning: its checkpoint is ahead of the study (epoch {missing} is not reported)"
    assert ahead in caplog.text
    assert training.step == 2
    # What it has written replaces the checkpoint that was ahead: the next worker goes on from there.
    caplog.clear()
    training = prepare_training(again, setting, None)
    steps, outcome = ride(again, setting, training)
    assert (steps, outcome, caplog.text) == (14, Outcome.COMPLETE, "")
    values, epochs = undisturbed(tmp_path / "calm")
    assert again.values == {epoch: value for epoch, value in values.items() if epoch not in reported}
    assert epochs_of(setting, 3) == epochs


def test_run_trial_whose_checkpoint_is_behind_its_reports_goes_on_from_it(tmp_path):
    begin(setting_of(tmp_path, *FOUR), 3)
    setting, trial = setting_of(tmp_path, *FOUR), ReportingTrial(reported=(1, 2))
    training = prepare_training(trial, setting, None)
    steps, outcome = ride(trial, setting, training)
    assert (steps, outcome) == (13, Outcome.COMPLETE)
    assert list(trial.values) == [4]


@pytest.mark.parametrize("spoil", [lambda text: text[:-30], lambda text: text + "\0" * 100, lambda text: "\0" * 4096])
def test_run_trial_with_a_log_that_a_power_cut_spoiled_goes_on_from_its_checkpoint(tmp_path, caplog, spoil):
    setting = setting_of(tmp_path, *FOUR)
    begin(setting, 6)
    path = setting.paths.metrics(3)
    path.write_text(spoil(path.read_text()))
    again = ReportingTrial(reported=(1,))
    steps, outcome = ride(again, setting, prepare_training(again, setting, None))
    assert (steps, outcome) == (10, Outcome.COMPLETE)
    assert caplog.messages == [f"{path}: cut out what cannot be read, 1 line(s)"]
    assert epochs_of(setting, 3)[-3:] == undisturbed(tmp_path / "calm")[1][-3:]


_CHANGES = "mkdir,create,openw,write,rename,unlink,truncate"


@pytest.mark.parametrize("error", ["ENOSPC", "EACCES", "EROFS", "EDQUOT"])
def test_run_trial_on_a_disk_that_takes_nothing_trains_to_its_end(disk, tmp_path, caplog, error):
    disk.rules(f"{_CHANGES} /trials/ err={error}")
    (disk.path / "trials").mkdir()
    setting, trial = setting_of(disk.path, *FOUR, "worker.checkpoint_every_s=1e-9"), ReportingTrial()
    assert ride(trial, setting, prepare_training(trial, setting, None))[1] is Outcome.COMPLETE
    assert trial.values == undisturbed(tmp_path / "calm")[0]
    assert "trial 3 trains on without a new checkpoint: " in caplog.text
    assert caplog.text.count("epochs are not logged while this lasts: ") == 1
    assert list((disk.backing / "trials").iterdir()) == []


@pytest.mark.parametrize("error", ["ENOSPC", "EACCES", "EROFS", "EIO"])
def test_run_trial_whose_disk_fills_up_on_the_way_trains_to_its_end(disk, tmp_path, caplog, error):
    setting, trial = setting_of(disk.path, *FOUR), ReportingTrial()
    for step, _ in enumerate(run_trial(trial, setting, prepare_training(trial, setting, None), lambda: False)):
        if step == 5:
            until(setting.paths.checkpoint(3).exists, every_s=0.02)  # It is written beside the training.
            disk.rules(f"{_CHANGES} /trials/ err={error}")
    assert trial.values == undisturbed(tmp_path / "calm")[0]
    assert "trial 3 trains on without a new checkpoint: " in caplog.text
    assert f"epoch 2 is not in {setting.paths.metrics(3)}: " in caplog.text
    assert f"{setting.paths.checkpoint(3)} cannot be removed; nothing needs it any more" in caplog.text


def test_run_trial_that_may_not_write_trains_to_its_end(tmp_path, caplog):
    values = undisturbed(tmp_path / "calm")[0]
    with tempfile.TemporaryDirectory(prefix="kdhpc-test-") as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "trials").mkdir()
        (Path(folder) / "trials").chmod(0o555)
        setting, trial = setting_of(Path(folder), *FOUR), ReportingTrial()
        with ordinary_user():
            assert ride(trial, setting, prepare_training(trial, setting, None))[1] is Outcome.COMPLETE
    assert trial.values == values
    assert "trial 3 trains on without a new checkpoint: " in caplog.text


def test_run_trial_whose_checkpoint_cannot_be_removed_has_ended_all_the_same(disk, caplog):
    setting, trial = setting_of(disk.path, *FOUR), ReportingTrial()
    disk.rules("unlink checkpoint err=EIO")
    assert ride(trial, setting, prepare_training(trial, setting, None))[1] is Outcome.COMPLETE
    assert caplog.messages == [
        f"{setting.paths.checkpoint(3)} cannot be removed; nothing needs it any more, remove it when that is possible"
    ]


def test_run_trial_whose_checkpoint_cannot_be_read_does_not_begin(disk):
    setting, trial = setting_of(disk.path, *FOUR), ReportingTrial(reported=(1,))
    begin(setting, 6)
    disk.rules("open checkpoint err=EACCES")
    training = prepare_training(trial, setting, None)
    with pytest.raises(StorageError, match=f"{setting.paths.checkpoint(3)} cannot be read: Permission denied"):
        ride(trial, setting, training)
    disk.rules()
    assert ride(trial, setting, training) == (10, Outcome.COMPLETE)


def test_run_trial_says_how_far_it_is_when_that_is_on_the_disk(disk):
    trial, setting = ReportingTrial(), setting_of(disk.path, *FOUR)
    begin(setting, 10, trial)
    assert sorted(set(trial.steps)) == [4, 8, 10], "two rungs, and the interruption"
    again = ReportingTrial(reported=(1, 2))
    begin(setting, 1, again)
    assert again.steps[0] == 10, "where it goes on"


WILD = ("training.learning_rate=1e12", *FOUR)


def test_run_trial_that_diverges_ends_there_and_is_never_scored(tmp_path, caplog):
    setting, trial = setting_of(tmp_path, *WILD, "worker.checkpoint_every_s=1e-9"), ReportingTrial()
    steps, outcome = ride(trial, setting, prepare_training(trial, setting, None))
    assert (steps, outcome) == (4, Outcome.DIVERGED)
    assert trial.diverged == (1, "the loss of node 1 is not finite")
    assert trial.values == {}
    assert "trial 3 diverged in epoch 1: the loss of node 1 is not finite" in caplog.text
    assert not setting.paths.checkpoint(3).exists()
    (report,) = read_metrics(setting.paths.metrics(3))
    assert (report.diverged, report.ensemble_accuracy) == (trial.diverged[1], None)


def test_run_trial_that_diverges_while_the_database_is_away_says_so_later(tmp_path):
    class Away(ReportingTrial):
        def diverge(self, *_):
            raise DatabaseError("away")

    setting, away, trial = setting_of(tmp_path, *WILD), Away(), ReportingTrial()
    training = prepare_training(away, setting, None)
    with pytest.raises(DatabaseError):
        ride(away, setting, training)
    assert ride(trial, setting, prepare_training(trial, setting, training)) == (0, Outcome.DIVERGED)
    assert trial.diverged[0] == 1


def test_run_trial_after_one_that_diverged_in_the_same_memory_is_healthy(tmp_path):
    wild, calm, trial = setting_of(tmp_path, *WILD), setting_of(tmp_path, *FOUR), ReportingTrial()
    training = prepare_training(trial, calm, None)
    with torch.no_grad():
        training.networks[0].head.fc.weight.fill_(float("nan"))
    assert ride(trial, wild, training)[1] is Outcome.DIVERGED
    assert ride(trial, calm, prepare_training(trial, calm, training))[1] is Outcome.COMPLETE
    assert trial.values == undisturbed(tmp_path / "calm")[0]
