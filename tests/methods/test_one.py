from dataclasses import replace

import pytest
import torch

from kdhpc.errors import CheckpointError
from kdhpc.methods.one import OneMethod
from kdhpc.training.loop import TrainingLoop
from tests.training.memory_source import (
    ATTENTION_BRANCH,
    CPU,
    NETWORK,
    NUM_CLASSES,
    runtime_of,
    setting_of,
    training_config,
)
from tests.training.test_loop import StopAfter, assert_same_state, never, training_of, without_time


def one_training(network=NETWORK, device=CPU, **changes):
    setting = setting_of(network=network, training=training_config(**changes), runtime=runtime_of(device))
    return TrainingLoop(OneMethod(num_branches=3), setting, seed=1)


def test_one_training_reports_its_branches_and_its_gate():
    reports = list(one_training(epochs=6).epochs(never))
    assert len(reports[-1].train_losses) == 1
    assert len(reports[-1].node_accuracies) == 3
    assert reports[-1].ensemble_accuracy > 100 / NUM_CLASSES
    assert reports[-1].train_losses[0] < reports[0].train_losses[0]


@pytest.mark.parametrize("network", [NETWORK, ATTENTION_BRANCH])
@pytest.mark.parametrize(("stop", "channels_last"), [(1, False), (4, True), (6, False)])
def test_one_training_stopped_and_resumed_ends_in_the_same_bits(network, stop, channels_last):
    device = replace(CPU, channels_last=channels_last)
    whole = one_training(network, device)
    expected = list(whole.epochs(never))
    first = one_training(network, device)
    reports = list(first.epochs(StopAfter(stop)))
    second = one_training(network, device)
    second.restore(first.state())
    reports += second.epochs(never)
    assert without_time(reports) == without_time(expected)
    assert_same_state(second.state(), whole.state())


def test_one_training_attention_branches_join():
    reports = list(one_training(ATTENTION_BRANCH, epochs=1).epochs(never))
    assert all(torch.tensor(report.train_losses).isfinite().all() for report in reports)


def test_one_training_state_of_an_ensemble_is_refused():
    with pytest.raises(CheckpointError, match="holds 2 networks"):
        one_training().restore(training_of().state())


def test_one_training_has_a_single_network():
    (network,) = one_training().networks
    assert len(network.heads) == 3
