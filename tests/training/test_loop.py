import dataclasses
from itertools import pairwise

import pytest
import torch

from kdhpc.errors import CheckpointError
from kdhpc.graph.spec import Design, Gate
from kdhpc.methods.graph import GraphMethod
from kdhpc.training.loop import TrainingLoop
from tests.training.memory_source import (
    MemoryTrain,
    graph_of,
    mutual,
    setting_of,
    training_config,
)

GRAPH = graph_of(
    [[Gate.CUTOFF, Gate.LINEAR], [Gate.CORRECT, Gate.CUTOFF]],
    labels=[Gate.THROUGH, Gate.LINEAR],
    design=Design.BOTH_APART,
)


def training_of(graph=GRAPH, *, seed=3, train=None, **changes):
    setting = setting_of(training=training_config(**changes), train=train or MemoryTrain())
    return TrainingLoop(GraphMethod(graph=graph), setting, seed)


def never():
    return False


class StopAfter:
    """True after that many steps of this run."""

    def __init__(self, num_steps):
        self.left = num_steps

    def __call__(self):
        self.left -= 1
        return self.left <= 0


def without_time(reports):
    return [dataclasses.replace(report, seconds=0.0) for report in reports]


def assert_same_state(one, other):
    assert (one.epoch, one.step_in_epoch) == (other.epoch, other.step_in_epoch)
    assert torch.equal(one.loss_sums, other.loss_sums)
    for ours, theirs in zip(one.nodes, other.nodes, strict=True):
        for group in ("tensors", "momentum"):
            expected = getattr(theirs, group)
            assert getattr(ours, group).keys() == expected.keys()
            for name, tensor in getattr(ours, group).items():
                assert torch.equal(tensor, expected[name]), name


@pytest.fixture(scope="module")
def uninterrupted():
    training = training_of()
    return list(training.epochs(never)), training.state()


def test_epochs_whole_run_reports_each_epoch_and_scores_the_rungs():
    training = training_of(epochs=6)
    reports = list(training.epochs(never))
    assert [report.epoch for report in reports] == [1, 2, 3, 4, 5, 6]
    assert [report.step for report in reports] == [4, 8, 12, 16, 20, 24]
    assert [report.epoch for report in reports if report.rung] == [1, 2, 4, 6]
    for report in reports:
        assert (report.ensemble_accuracy is not None) == report.rung
        assert (report.node_accuracies is not None) == report.rung
        assert len(report.train_losses) == 2
        assert report.seconds > 0
    assert training.finished
    assert (training.epoch, training.step) == (6, 24)
    assert list(training.epochs(never)) == []


def test_epochs_every_epoch_scores_all_of_them():
    reports = list(training_of(epochs=3, evaluate="every_epoch").epochs(never))
    assert [report.rung for report in reports] == [True, True, True]
    reports = list(training_of(epochs=4, evaluate="every_epoch").epochs(never))
    assert [report.rung for report in reports] == [True, True, False, True]
    assert all(report.ensemble_accuracy is not None for report in reports)


def test_epochs_same_seed_gives_the_same_bits_another_seed_does_not(uninterrupted):
    reports, state = uninterrupted
    training = training_of()
    assert without_time(training.epochs(never)) == without_time(reports)
    assert_same_state(training.state(), state)
    other = training_of(seed=4)
    assert without_time(other.epochs(never)) != without_time(reports)


@pytest.mark.parametrize("stop", range(1, 13))
def test_epochs_stopped_after_any_step_and_resumed_end_in_the_same_bits(uninterrupted, stop):
    first = training_of()
    reports = list(first.epochs(StopAfter(stop)))
    assert not first.finished
    assert first.step == stop
    second = training_of(seed=3)
    second.restore(first.state())
    assert second.step == stop
    reports += second.epochs(never)
    assert second.finished
    assert without_time(reports) == without_time(uninterrupted[0])
    assert_same_state(second.state(), uninterrupted[1])


def test_epochs_stopped_after_every_step_end_in_the_same_bits(uninterrupted):
    reports, state, starts = [], None, 0
    while True:
        training = training_of()
        if state is not None:
            training.restore(state)
        reports += training.epochs(StopAfter(1))
        if training.finished:
            break
        state, starts = training.state(), starts + 1
    assert starts == 12  # The last start has only the evaluation left.
    assert without_time(reports) == without_time(uninterrupted[0])
    assert_same_state(training.state(), uninterrupted[1])


def test_state_taken_between_two_epochs_resumes_with_the_next(uninterrupted):
    first = training_of()
    epochs = first.epochs(never)
    reports = [next(epochs)]
    state = first.state()
    assert (state.epoch, state.step_in_epoch) == (1, 0)
    second = training_of()
    second.restore(state)
    reports += second.epochs(never)
    assert without_time(reports) == without_time(uninterrupted[0])
    assert_same_state(second.state(), uninterrupted[1])


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_reopened_epoch_is_reported_again_here_and_from_its_state(uninterrupted, epoch):
    first = training_of()
    epochs = first.epochs(never)
    reports = [next(epochs) for _ in range(epoch)]
    first.reopen_epoch()
    state = first.state()
    assert (state.epoch, state.step_in_epoch, first.finished) == (epoch - 1, 4, False)
    second = training_of(seed=3)
    second.restore(state)
    for training in (first, second):
        again = list(training.epochs(never))
        assert without_time(reports[:-1] + again) == without_time(uninterrupted[0])
        assert_same_state(training.state(), uninterrupted[1])


def test_after_step_sees_every_step_with_a_whole_state():
    training = training_of(epochs=1)
    seen = []

    def after_step():
        state = training.state()
        seen.append((training.step, state.epoch, state.step_in_epoch))
        return False

    list(training.epochs(after_step))
    assert seen == [(1, 0, 1), (2, 0, 2), (3, 0, 3), (4, 0, 4)]


def test_train_losses_are_means_over_the_epoch():
    training = training_of(epochs=1)
    sums = []
    reports = list(training.epochs(lambda: bool(sums.append(training.state().loss_sums))))
    steps = [sums[0]] + [later - earlier for earlier, later in pairwise(sums)]
    torch.testing.assert_close(torch.tensor(reports[0].train_losses).double(), torch.stack(steps).mean(dim=0))


def test_linear_gate_counts_optimiser_steps_of_the_full_schedule():
    """A label edge alone, linear: the loss is k / k_end times what it is through; no learning, so that only k moves."""
    losses = {}
    for gate in (Gate.LINEAR, Gate.THROUGH):
        training = training_of(graph_of([[Gate.CUTOFF]], labels=[gate]), epochs=3, learning_rate=1e-30)
        sums = []

        def after_step(training=training, sums=sums):
            sums.append(training.state().loss_sums.item())
            return False

        list(training.epochs(after_step))
        losses[gate] = [total - (sums[i - 1] if i % 4 else 0.0) for i, total in enumerate(sums)]
    for k, (linear, through) in enumerate(zip(losses[Gate.LINEAR], losses[Gate.THROUGH], strict=True), start=1):
        assert linear == pytest.approx(through * k / 12, rel=1e-5)


def test_learning_rate_of_a_milestone_is_that_of_its_epoch():
    """Two runs that differ in a milestone at epoch 2 agree through epoch 1 and no longer."""
    plain, stepped = training_of(milestones=()), training_of(milestones=(2,))
    for training in (plain, stepped):
        list(training.epochs(StopAfter(4)))
    assert_same_state(plain.state(), stepped.state())
    for training in (plain, stepped):
        list(training.epochs(StopAfter(1)))
    weights = [training.networks[0].head.fc.weight for training in (plain, stepped)]
    assert not torch.equal(*weights)


def test_restore_state_of_a_longer_training_is_refused():
    longer = training_of(train=MemoryTrain(num_images=32))
    list(longer.epochs(StopAfter(6)))
    with pytest.raises(CheckpointError, match="stands at epoch 0, step 6, this training has 3 epochs of 4 steps"):
        training_of().restore(longer.state())


def test_ensemble_training_single_node_without_edges_learns():
    reports = list(training_of(mutual(num_nodes=1), epochs=8).epochs(never))
    assert reports[-1].train_losses[0] < reports[0].train_losses[0]
    assert reports[-1].node_accuracies == (reports[-1].ensemble_accuracy,)


@pytest.mark.parametrize("change", [{"step": 7}, {"loss_sums": torch.zeros(3, dtype=torch.float64)}])
def test_restore_state_that_contradicts_itself_is_refused_and_changes_nothing(change):
    training = training_of(mutual())
    state = training.state()
    with pytest.raises(CheckpointError, match="the checkpoint stands at step"):
        training.restore(dataclasses.replace(state, **change))
    assert training.step == 0
