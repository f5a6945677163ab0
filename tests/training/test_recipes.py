"""Whole steps under other recipes than the paper's: what is skipped, begun anew, restored, recorded and compiled."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kdhpc.config.schema import TrainingConfig
from kdhpc.errors import CheckpointError
from kdhpc.graph.spec import Design, Gate
from kdhpc.methods.graph import GraphMethod
from kdhpc.methods.one import OneMethod
from kdhpc.networks.build import build_network
from kdhpc.training.compile import programs
from kdhpc.training.loop import TrainingLoop
from kdhpc.training.schedule import ScheduleStep
from tests.losses.paper_reference import random_graph
from tests.methods.test_graph import learner_of
from tests.training.memory_source import (
    ATTENTION_BRANCH,
    IMAGE_SIZE,
    NETWORK,
    NUM_CLASSES,
    MemoryTrain,
    graph_of,
    mutual,
    runtime_of,
    setting_of,
    training_config,
)
from tests.training.test_divergence import assert_diverged
from tests.training.test_loop import assert_same_state, never, training_of, without_time
from tests.training.test_recording import Bakes, Recordings, Rounds, mode_after_first_step

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
ADAMW = {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.05}
NESTEROV = {"nesterov": True}
RECIPES = {"adamw": ADAMW, "nesterov": NESTEROV}
ALONE = graph_of([[Gate.CUTOFF] * 2] * 2, labels=[Gate.THROUGH, Gate.CUTOFF])
"""Two nodes: the labels teach the first, nothing teaches the second."""


@pytest.mark.parametrize("recipe", RECIPES)
def test_node_that_nothing_teaches_stands_still(recipe):
    learner = learner_of(ALONE, training=training_config(**RECIPES[recipe]))
    before = learner.state()
    for number, batch in enumerate(MemoryTrain().epoch(seed=0, epoch=1), start=1):
        learner.step(batch, ScheduleStep(epoch=1, step=number, num_steps=12))
    after = learner.state()
    for node, stands_still in ((0, False), (1, True)):
        names = [name for name, _ in learner.networks[node].named_parameters()]
        same = [torch.equal(before[node].tensors[name], after[node].tensors[name]) for name in names]
        assert all(same) if stands_still else not any(same)
        remembered = [tensor.any() for tensor in after[node].momentum.values()]
        assert not any(remembered) if stands_still else all(remembered)


def test_weights_that_no_edge_reaches_are_not_counted_by_adamw():
    """Node 2 learns node 1's attention maps alone: its classifier and what is remembered of it stay."""
    graph = graph_of(
        [[Gate.CUTOFF, Gate.THROUGH], [Gate.CUTOFF] * 2],
        labels=[Gate.THROUGH, Gate.CUTOFF],
        design=Design.ATTENTION_CLOSER,
    )
    learner = learner_of(graph, training=training_config(**ADAMW))
    before = learner.state()[1]
    for number, batch in enumerate(MemoryTrain().epoch(seed=0, epoch=1), start=1):
        learner.step(batch, ScheduleStep(epoch=1, step=number, num_steps=12))
    after = learner.state()[1]
    assert torch.equal(before.tensors["head.fc.weight"], after.tensors["head.fc.weight"])
    counted = {name: int(steps) for name, steps in after.momentum.items() if name.startswith("step/")}
    assert {name for name, steps in counted.items() if steps == 0} == {"step/head.fc.weight", "step/head.fc.bias"}
    assert {steps for steps in counted.values() if steps} == {4}


@pytest.mark.parametrize("recipe", RECIPES)
def test_restart_gives_the_bits_of_a_new_training(recipe):
    training = training_of(mutual(), **RECIPES[recipe])
    list(training.epochs(lambda: training.step >= 6))
    training.restart(GraphMethod(graph=ALONE), 7)
    fresh = training_of(ALONE, seed=7, **RECIPES[recipe])
    assert without_time(training.epochs(never)) == without_time(fresh.epochs(never))
    assert_same_state(training.state(), fresh.state())


def test_state_of_another_optimiser_is_refused():
    with pytest.raises(CheckpointError, match="for momentum tensor"):
        training_of(**ADAMW).restore(training_of().state())
    with pytest.raises(CheckpointError, match="for momentum tensor"):
        training_of().restore(training_of(**ADAMW).state())


def test_adamw_far_too_high_a_learning_rate_diverges():
    training = training_of(**ADAMW | {"learning_rate": 1e30}, epochs=4)
    assert_diverged(training, list(training.epochs(never)))


@pytest.mark.parametrize("recipe", RECIPES)
def test_recorded_steps_train_as_steps_that_are_not(recipe):
    """The rate changes at every step, and one recording serves them all."""
    changes = {"epochs": 4, "schedule": "cosine", "warmup_epochs": 1, "label_smoothing": 0.1, **RECIPES[recipe]}
    recordings, trainings = Recordings(), []
    for record in (recordings, None):
        setting = setting_of(training=training_config(**changes), runtime=runtime_of(programs=programs(None, record)))
        trainings.append(TrainingLoop(GraphMethod(graph=random_graph(np.random.default_rng(0), 3)), setting, 0))
    recorded, plain = trainings
    for ours, theirs in zip(recorded.epochs(never), plain.epochs(never), strict=True):
        np.testing.assert_allclose(ours.train_losses, theirs.train_losses, rtol=1e-4, atol=1e-5)
    assert (recorded.mode, plain.mode, recordings.made) == ("eager cudagraph", "eager", 1)
    for ours, theirs in zip(recorded.state().nodes, plain.state().nodes, strict=True):
        steps = [name for name in ours.momentum if name.startswith("step/")]
        assert all(torch.equal(ours.momentum[name], theirs.momentum[name]) for name in steps)


def remembered(part):
    """Of the largest weight of the first node; a check of a whole step sees nothing of the smallest ones."""

    def find(learner, step):
        largest = max(learner.networks[0].named_parameters(), key=lambda named: named[1].numel())
        return learner._nodes[0]._momentum()[f"{part}/{largest[0]}"]

    return find


@pytest.mark.parametrize(
    "find",
    [
        *map(remembered, ("step", "exp_avg", "exp_avg_sq")),
        lambda learner, step: learner._nodes[-1]._optimizer.param_groups[0]["lr"],
    ],
    ids=["steps", "mean", "mean square", "rate"],
)
def test_recording_of_adamw_with_a_part_of_it_baked_in_is_rejected(find):
    programs.cache_clear()
    learner = learner_of(mutual(), training=training_config(**ADAMW), record=(record := Bakes()))
    assert mode_after_first_step(learner, record, find) == "eager"


@pytest.mark.parametrize("network", [NETWORK, ATTENTION_BRANCH])
def test_recording_of_adamw_that_differs_by_rounding_is_accepted(network):
    programs.cache_clear()
    graph = random_graph(np.random.default_rng(0), 2)
    learner = learner_of(graph, network=network, training=training_config(**ADAMW), record=(record := Rounds()))
    record.networks = learner.networks
    assert mode_after_first_step(learner, record, None) == "eager cudagraph"


@pytest.mark.parametrize("network", [NETWORK, ATTENTION_BRANCH])
def test_label_smoothing_reaches_a_node_as_torch_defines_it(network):
    learner = learner_of(ALONE, network=network, training=training_config(label_smoothing=0.2))
    batch = next(MemoryTrain().epoch(seed=0, epoch=1))
    other = build_network(network, num_classes=NUM_CLASSES, image_size=IMAGE_SIZE)
    other.load_state_dict(learner.networks[0].state_dict())
    output = other(batch.images)
    expected = sum(
        F.cross_entropy(logits, batch.labels, label_smoothing=0.2)
        for logits in (output.logits, *output.extra_hard_logits)
    )
    found = learner.step(batch, ScheduleStep(epoch=1, step=1, num_steps=8))
    torch.testing.assert_close(found[0], expected.detach(), rtol=1e-5, atol=1e-6)


def test_label_smoothing_reaches_one():
    def first_loss(**changes):
        setting = setting_of(training=training_config(**changes))
        model = OneMethod(num_branches=2).model(setting, seed=0)
        return model.losses(next(MemoryTrain().epoch(seed=0, epoch=1))).item()

    assert first_loss(label_smoothing=0.2) != first_loss()


def test_configs_with_the_defaults_are_those_of_before():
    assert TrainingConfig() == TrainingConfig(
        optimizer="sgd", nesterov=False, schedule="steps", warmup_epochs=0, min_learning_rate=0.0, label_smoothing=0.0
    )
