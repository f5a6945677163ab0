"""What a trial's checkpoint holds for, and what becomes of one that holds for something else."""

import logging

import pytest
import torch

from kdhpc.config.compose import compose_search
from kdhpc.config.paths import StudyPaths
from kdhpc.graph.presets import dml
from kdhpc.trial import Outcome, TrialSetting, prepare_training, run_trial
from tests.training.memory_source import IMAGE_SIZE, NUM_CLASSES, MemoryEval, MemoryTrain


class FakeClaim:
    """A leased slot of a study without a database."""

    number, seed, lost, graph = 3, 1, False, dml(2)
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
