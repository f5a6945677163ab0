"""Weights that no active edge teaches stay as they are, bit for bit; all others learn as they always did."""

import copy

import pytest
import torch

from kdhpc.config.schema import NetworkConfig
from kdhpc.graph.spec import Design, Gate
from kdhpc.losses.coefficients import Knowledge, knowledge_taught
from kdhpc.methods.graph import GraphMethod
from kdhpc.networks.build import build_network
from kdhpc.training.compile import programs
from kdhpc.training.reach import weight_groups
from kdhpc.training.schedule import ScheduleStep
from kdhpc.training.step import TrainingStep
from tests.methods.test_graph import is_statistic, learner_of
from tests.training.memory_source import (
    ATTENTION_BRANCH,
    IMAGE_SIZE,
    NETWORK,
    NUM_CLASSES,
    MemoryTrain,
    graph_of,
    mutual,
    training_config,
)
from tests.training.test_recording import Recordings
from tools.benchmarks.peers_published import PerSampleLosses, PublishedLoop

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
THROUGH, CUTOFF, LINEAR, CORRECT = Gate.THROUGH, Gate.CUTOFF, Gate.LINEAR, Gate.CORRECT
EVERYTHING = ("lower.", "head.")
# What of node 2 stays if its label edge is cut off and node 1 teaches it by that design.
STAYING = {
    ("plain", Design.ATTENTION_CLOSER): ("head.fc.",),
    ("plain", Design.ATTENTION_APART): ("head.fc.",),
    ("plain", Design.PROB_CLOSER): (),
    ("branch", Design.ATTENTION_CLOSER): ("head.fc.", "head.layer4.", "head.attention_fc."),
    ("branch", Design.ATTENTION_APART): ("head.fc.", "head.layer4.", "head.attention_fc."),
    ("branch", Design.PROB_APART): ("head.attention_fc.",),
    ("branch", Design.BOTH_CLOSER): ("head.attention_fc.",),
}
NETWORKS = {"plain": NETWORK, "branch": ATTENTION_BRANCH}


def taught_by(design, gate=THROUGH, label=CUTOFF):
    return graph_of([[CUTOFF, gate], [CUTOFF, CUTOFF]], labels=[THROUGH, label], design=design)


def steps(learner, num_steps=5):
    """As the training loop makes them: tried, compiled or recorded."""
    train = MemoryTrain(num_images=4 * num_steps)
    step = TrainingStep(learner, lambda spec: learner.learn(train.make(spec)))
    for number, spec in enumerate(train.specs(seed=0, epoch=1), start=1):
        learner.set_schedule(ScheduleStep(epoch=1, step=number, num_steps=2 * num_steps))
        step(spec)


def moved(before, after):
    """Weights and momenta of which a bit differs; batch norm's statistics are no weights."""
    return {
        (kind, name)
        for kind in ("tensors", "momentum")
        for name, tensor in getattr(before, kind).items()
        if not torch.equal(tensor, getattr(after, kind)[name]) and not is_statistic(name)
    }


def all_weights(state):
    return {("tensors", name) for name in state.tensors if not is_statistic(name)} | {
        ("momentum", name) for name in state.momentum
    }


def assert_only_these_stay(before, after, prefixes):
    staying = {(kind, name) for kind, name in all_weights(before) if name.startswith(tuple(prefixes))}
    assert all_weights(before) - moved(before, after) == staying
    assert bool(staying) == bool(prefixes)


@pytest.mark.parametrize(("network", "design"), STAYING)
def test_weights_that_no_active_edge_reaches_stay_for_five_steps(network, design):
    learner = learner_of(taught_by(design), network=NETWORKS[network])
    before = learner.state()
    steps(learner)
    after = learner.state()
    assert_only_these_stay(before[1], after[1], STAYING[network, design])
    assert_only_these_stay(before[0], after[0], ())
    # The forward pass ran in training mode all the same, as in the authors' code.
    statistics = [name for name in before[1].tensors if name.endswith("running_mean")]
    assert not any(torch.equal(before[1].tensors[name], after[1].tensors[name]) for name in statistics)


@pytest.mark.parametrize("gate", [LINEAR, CORRECT])
def test_an_edge_is_active_whatever_its_gate_lets_through(gate):
    assert knowledge_taught(taught_by(Design.BOTH_APART, gate)) == (
        {Knowledge.LABEL},
        {Knowledge.PROBABILITY, Knowledge.ATTENTION},
    )
    learner = learner_of(taught_by(Design.ATTENTION_CLOSER, gate, label=LINEAR))
    before = learner.state()
    steps(learner)
    assert_only_these_stay(before[1], learner.state()[1], ())


@pytest.mark.parametrize("network", NETWORKS)
def test_a_node_that_nothing_teaches_stays_whole(network):
    learner = learner_of(taught_by(Design.BOTH_CLOSER, CUTOFF), network=NETWORKS[network])
    before = learner.state()
    steps(learner)
    assert_only_these_stay(before[1], learner.state()[1], EVERYTHING)


@pytest.mark.parametrize("graph", [taught_by(Design.PROB_CLOSER, CUTOFF, label=THROUGH), mutual(num_nodes=2)])
def test_independent_and_mutual_nodes_learn_all_over(graph):
    learner = learner_of(graph, network=ATTENTION_BRANCH)
    before = learner.state()
    steps(learner)
    for old, new in zip(before, learner.state(), strict=True):
        assert_only_these_stay(old, new, ())


@pytest.mark.parametrize(("network", "recorded"), [("plain", False), ("branch", True)])
def test_another_graph_needs_no_other_program(network, recorded):
    """The same compiled programs, or the same recording, serve graphs that leave other weights alone."""
    torch._dynamo.reset()
    programs.cache_clear()
    recordings = Recordings() if recorded else None
    backend = None if recorded else "aot_eager"
    learner = learner_of(mutual(), network=NETWORKS[network], backend=backend, record=recordings)
    train = MemoryTrain(num_images=12)
    step = TrainingStep(learner, lambda spec: learner.learn(train.make(spec)))
    designs = [design for other, design in STAYING if other == network]
    graphs = [(taught_by(design), STAYING[network, design]) for design in designs]
    compiled = []
    for graph, staying in [(mutual(), ()), *graphs, (taught_by(Design.PROB_CLOSER, CUTOFF), EVERYTHING)]:
        learner.restart(GraphMethod(graph=graph), seed=3)
        before = learner.state()
        for number, spec in enumerate(train.specs(seed=0, epoch=1), start=1):
            learner.set_schedule(ScheduleStep(epoch=1, step=number, num_steps=6))
            step(spec)
        assert_only_these_stay(before[1], learner.state()[1], staying)
        compiled.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert learner.programs.mode == ("eager cudagraph" if recorded else "compile")
    assert recordings is None or recordings.made == 1
    assert len(set(compiled)) == 1


@pytest.mark.parametrize("network", NETWORKS)
def test_a_resumed_node_keeps_its_bits(network):
    graph = taught_by(Design.ATTENTION_CLOSER)
    whole, first, second = (learner_of(graph, network=NETWORKS[network], seed=seed) for seed in (0, 0, 1))
    batches = list(MemoryTrain(num_images=24).epoch(seed=0, epoch=1))

    def learn(learner, numbers):
        for number in numbers:
            learner.step(batches[number], ScheduleStep(epoch=1, step=number + 1, num_steps=6))

    learn(whole, range(6))
    learn(first, range(3))
    second.restore(first.state())
    learn(second, range(3, 6))
    for ours, theirs in zip(second.state(), whole.state(), strict=True):
        assert not moved(ours, theirs)


@pytest.mark.parametrize("network", NETWORKS)
def test_weights_move_as_in_the_published_style(network):
    graph, config = taught_by(Design.ATTENTION_APART), training_config(weight_decay=0.1)
    learner = learner_of(graph, network=NETWORKS[network], training=config)
    published = PublishedLoop(learner.networks, graph, config, PerSampleLosses(NETWORKS[network].crops))
    for number, batch in enumerate(MemoryTrain().epoch(seed=0, epoch=1), start=1):
        learner.step(batch, ScheduleStep(epoch=1, step=number, num_steps=8))
        published.step(batch, number / 8, config.learning_rate)
    for ours, theirs in zip(learner.networks, published.networks, strict=True):
        for name, tensor in ours.state_dict().items():
            torch.testing.assert_close(tensor, theirs.state_dict()[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("name", ["resnet8", "abn_resnet8", "abn_resnet18"])
def test_weight_groups_are_those_that_gradients_tell_apart(name):
    config = NetworkConfig(name=name, crops=(1,))
    network = build_network(config, num_classes=NUM_CLASSES, image_size=IMAGE_SIZE)
    before = copy.deepcopy(network.state_dict())
    groups = weight_groups(network, IMAGE_SIZE)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert all(part.training for part in network.modules())
    weights = dict(network.named_parameters())
    assert sorted(name for group in groups for name in group.names) == sorted(weights)
    output = network(torch.rand(2, 3, IMAGE_SIZE, IMAGE_SIZE))
    losses = {
        Knowledge.LABEL: sum(logits.square().sum() for logits in (output.logits, *output.extra_hard_logits)),
        Knowledge.PROBABILITY: output.logits.square().sum(),
        Knowledge.ATTENTION: output.attention_map.square().sum(),
    }
    for knowledge, loss in losses.items():
        gradients = torch.autograd.grad(loss, list(weights.values()), retain_graph=True, allow_unused=True)
        with_gradient = {name for name, gradient in zip(weights, gradients, strict=True) if gradient is not None}
        assert with_gradient == {name for group in groups if knowledge in group.reached_by for name in group.names}


def test_weights_without_gradients_are_no_edges_to_teach():
    network = build_network(NETWORK, num_classes=NUM_CLASSES, image_size=IMAGE_SIZE)
    network.lower.requires_grad_(False)
    reached = {name: group.reached_by for group in weight_groups(network, IMAGE_SIZE) for name in group.names}
    assert {by for name, by in reached.items() if name.startswith("lower.")} == {frozenset()}
