"""Networks that are not kdhpc's own learn, go on bit for bit, and do not disturb each other in one process."""

import logging

import pytest
import torch

from kdhpc.config.schema import NetworkConfig
from kdhpc.errors import NetworkError
from kdhpc.graph.presets import dml
from kdhpc.graph.spec import Design
from kdhpc.methods.graph import GraphMethod
from kdhpc.training.compile import programs
from kdhpc.training.loop import TrainingLoop
from tests.training.memory_source import mutual, runtime_of, setting_of, training_config
from tests.training.test_loop import StopAfter, assert_same_state, never, without_time

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
DROPS = "tests.networks.toys:Small"
"""Has dropout."""


def training_of(name, graph, *, seed=3, **changes):
    setting = setting_of(network=NetworkConfig(name=name), training=training_config(epochs=2), **changes)
    return TrainingLoop(GraphMethod(graph=graph), setting, seed)


@pytest.mark.parametrize(
    ("name", "graph"),
    [
        (DROPS, mutual()),
        ("timm/test_byobnet", dml(2)),
    ],
)
def test_training_that_was_stopped_ends_in_the_same_bits(name, graph):
    """Dropout draws what it would have drawn, whatever has drawn numbers in between."""
    whole = training_of(name, graph)
    reports = list(whole.epochs(never))
    first = training_of(name, graph)
    begun = list(first.epochs(StopAfter(3)))
    torch.rand(7)
    second = training_of(name, graph)
    second.restore(first.state())
    assert without_time(begun + list(second.epochs(never))) == without_time(reports)
    assert_same_state(second.state(), whole.state())


def test_trainings_that_take_turns_draw_as_each_alone():
    alone = training_of(DROPS, dml(2))
    list(alone.epochs(never))
    one, other = (training_of(DROPS, dml(2), seed=seed) for seed in (3, 4))
    for _ in zip(one.steps(), other.steps(), strict=True):
        pass
    assert_same_state(one.state(), alone.state())


def test_restarted_training_is_as_a_new_one():
    trial = training_of(DROPS, dml(2), seed=1)
    next(trial.steps())
    trial.restart(GraphMethod(graph=dml(2)), 3)
    list(trial.epochs(never))
    alone = training_of(DROPS, dml(2))
    list(alone.epochs(never))
    assert_same_state(trial.state(), alone.state())


def test_graph_that_compares_maps_is_refused_where_there_are_none():
    probabilities, attention = dml(2), mutual(Design.ATTENTION_CLOSER)
    training = training_of("timm/test_byobnet", probabilities)
    with pytest.raises(NetworkError, match="timm/test_byobnet makes no attention map on images of 12x12"):
        training.restart(GraphMethod(graph=attention), 1)


def test_network_that_cannot_be_compiled_runs_as_it_is(caplog):
    """The step is done again, from the state before it, and nothing else is lost."""
    caplog.set_level(logging.WARNING)

    def refusing(graph, inputs):
        raise RuntimeError("no kernels for it")

    compiled = training_of(DROPS, mutual(), runtime=runtime_of(programs=programs(refusing)))
    list(compiled.epochs(StopAfter(2)))
    assert compiled.mode == "eager"
    assert "torch.compile failed, going on without" in caplog.text
    eager = training_of(DROPS, mutual())
    list(eager.epochs(StopAfter(2)))
    for ours, theirs in zip(compiled.state().nodes, eager.state().nodes, strict=True):
        torch.testing.assert_close(ours.tensors, theirs.tensors)


def test_network_is_traced_whole_for_compiling():
    """The hook that keeps features, and a transformer's tokens, are no reason to give up."""
    compiled = training_of("tests.networks.toys:KnownTokens", mutual(), runtime=runtime_of(programs=programs("eager")))
    list(compiled.epochs(StopAfter(2)))
    assert compiled.mode == "compile"
    plain = training_of("tests.networks.toys:KnownTokens", mutual())
    list(plain.epochs(StopAfter(2)))
    for ours, theirs in zip(compiled.state().nodes, plain.state().nodes, strict=True):
        torch.testing.assert_close(ours.tensors, theirs.tensors, rtol=1e-3, atol=1e-5)
