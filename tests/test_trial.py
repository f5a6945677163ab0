"""What a trial's checkpoint holds for, and what becomes of one that holds for something else."""

import dataclasses
import logging

import pytest
import torch

from kdhpc.config.compose import compose_search
from kdhpc.config.paths import StudyPaths
from kdhpc.errors import DatabaseError
from kdhpc.graph.presets import dml
from kdhpc.study.claim import Claim
from kdhpc.study.server import ServerOptions, start, stop
from kdhpc.training.metrics import read_metrics
from kdhpc.trial import Outcome, TrialSetting, prepare_training, run_trial
from tests.study.made import HERE, make, optuna_trials, take
from tests.training.memory_source import IMAGE_SIZE, NUM_CLASSES, MemoryEval, MemoryTrain


class FakeClaim:
    """A leased slot of a study without a database."""

    number, seed, lost, graph, reported = 3, 1, False, dml(2), ()
    released = False

    def describe(self, **_):
        pass

    def release(self):
        self.released = True


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def setting_of(root, *overrides):
    config = compose_search(
        [
            *("study=quickstart", f"dataset.image_size={IMAGE_SIZE}", "network.crops=[3]", "training.batch_size=4"),
            *("device=cpu", *overrides),
        ]
    )
    return TrialSetting(
        config=config, paths=StudyPaths(root), train=MemoryTrain(), evaluation=MemoryEval(), num_classes=NUM_CLASSES
    )


def begin(setting, num_steps):
    """Train so many steps and give the trial back."""
    claim, left = FakeClaim(), iter(range(num_steps))
    training = prepare_training(claim, setting, None)
    journey = run_trial(claim, setting, training, lambda: next(left) == num_steps - 1)
    ends = []

    def ride():
        ends.append((yield from journey))

    list(ride())
    assert ends == [Outcome.INTERRUPTED]
    assert claim.released
    return training


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


def test_arithmetic_counts_weights_by_their_content(tmp_path):
    digests = []
    for folder, content in (("a", b"same"), ("b", b"same"), ("c", b"other")):
        path = tmp_path / folder / "w.safetensors"
        path.parent.mkdir()
        path.write_bytes(content)
        overrides = ("objective.unlearned=pretrained", f"objective.pretrained={path}")
        digests.append(setting_of(tmp_path, *overrides).arithmetic)
    assert digests[0] == digests[1] != digests[2]


def test_arithmetic_of_how_a_worker_runs_is_the_same(tmp_path):
    here = setting_of(tmp_path)
    there = setting_of(tmp_path, "device.channels_last=false", "worker.lease_s=900")
    assert here.arithmetic == there.arithmetic
    assert setting_of(tmp_path, "training.learning_rate=0.5").arithmetic != here.arithmetic


class ReportingClaim(FakeClaim):
    def report(self, epoch, accuracy):
        return False

    def complete(self, accuracy):
        pass


class DisplacedClaim(FakeClaim):
    """Another worker has the slot since the last step of the first epoch."""

    asked = 0

    @property
    def lost(self):
        self.asked += 1
        return self.asked > MemoryTrain().steps_per_epoch


def test_run_trial_displaced_leaves_the_metrics_to_the_other_worker(tmp_path):
    setting, claim = setting_of(tmp_path), DisplacedClaim()
    list(run_trial(claim, setting, prepare_training(claim, setting, None), lambda: False))
    assert claim.asked > MemoryTrain().steps_per_epoch
    assert setting.paths.metrics(claim.number).read_text() == ""


class ResumedClaim(FakeClaim):
    reported = (1, 2)


def test_run_trial_without_the_checkpoint_of_what_is_reported_says_where_it_looked(tmp_path, caplog):
    setting, claim = setting_of(tmp_path), ResumedClaim()
    list(run_trial(claim, setting, prepare_training(claim, setting, None), lambda: True))
    assert "trial 3 starts from its beginning, though its epoch 2 is reported: no checkpoint is in" in caplog.text
    assert f"{setting.paths.trial(3)}; all workers of a study need the same KDHPC_RUNS" in caplog.text
    caplog.clear()
    list(run_trial(claim, setting, prepare_training(claim, setting, None), lambda: True))
    assert "starts from its beginning" not in caplog.text


def epochs_of(setting, number):
    return [dataclasses.replace(report, seconds=0.0) for report in read_metrics(setting.paths.metrics(number))]


def ride(claim, setting, training):
    """Train to the end; steps, and how it ended."""
    journey, turns = run_trial(claim, setting, training, lambda: False), 0
    while True:
        try:
            next(journey)
        except StopIteration as stop:
            return turns, stop.value
        turns += 1


def claimed(study):
    """With a seed that these small images can be drawn by."""
    claim = take(study)
    claim._trial = dataclasses.replace(claim._trial, seed=1)
    return claim


@pytest.mark.parametrize(
    ("call", "epoch", "steps_left"),
    [("describe", 0, 15), ("report", 1, 12), ("report", 2, 8), ("report", 4, 0), ("complete", 4, 0), ("prune", 2, 8)],
)
def test_run_trial_that_loses_its_database_keeps_what_it_trained_and_reports_it_later(
    storage, storage_url, server_folder, tmp_path, caplog, call, epoch, steps_left
):
    options = ("training.epochs=4", "training.milestones=[]")
    setting, study = setting_of(tmp_path / "away", *options), make(storage, target=1, pruner="none")
    claim = claimed(study)
    training = prepare_training(claim, setting, None)
    method = getattr(claim, call)

    def away(*args, **kwargs):
        if training.epoch == epoch:
            stop(server_folder)
        return method(*args, **kwargs)

    setattr(claim, call, away)
    if call == "prune":
        claim.report = lambda at, value: Claim.report(claim, at, value) or at == epoch
    storage._patience_s = 0.1
    try:
        with caplog.at_level(logging.INFO), pytest.raises(DatabaseError):
            ride(claim, setting, training)
    finally:
        claim._ended.set()
        start(server_folder, ServerOptions())
    storage._patience_s = 60.0
    assert "trial 0 is checkpointed" in caplog.text

    assert study.expire([HERE]) == 1
    again = claimed(study)
    steps, outcome = ride(again, setting, prepare_training(again, setting, None))
    assert (steps, outcome) == (steps_left, Outcome.COMPLETE)
    (trial,) = optuna_trials(storage_url)
    assert list(trial.intermediate_values) == [1, 2, 4]
    undisturbed = setting_of(tmp_path / "there", *options)
    calm = ReportingClaim()
    calm.number, calm.graph, calm.seed = 0, claim.graph, claim.seed
    ride(calm, undisturbed, prepare_training(calm, undisturbed, None))
    assert epochs_of(setting, 0) == epochs_of(undisturbed, 0)


def test_run_trial_that_loses_its_database_and_its_disk_does_not_say_that_it_is_checkpointed(tmp_path, caplog):
    class Away(FakeClaim):
        def report(self, *_):
            raise DatabaseError("away")

    setting = setting_of(tmp_path)
    setting.paths.checkpoint(3).mkdir(parents=True)
    with caplog.at_level(logging.INFO), pytest.raises(DatabaseError):
        ride(Away(), setting, prepare_training(FakeClaim(), setting, None))
    assert "trial 3 stops without a new checkpoint" in caplog.text
    assert "is checkpointed" not in caplog.text
