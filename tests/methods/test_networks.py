"""Ensembles whose nodes are different networks: what is compared, what is compiled, and how a trial follows another."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kdhpc.config.schema import NetworkConfig
from kdhpc.errors import CheckpointError, NetworkError
from kdhpc.graph.catalogue import DesignEntry, LossEntry, add_design
from kdhpc.graph.spec import Gate
from kdhpc.losses.coefficients import all_terms, graph_coefficients, needed_code, needed_terms
from kdhpc.losses.distillation import crop_windows
from kdhpc.losses.kinds import kinds_of
from kdhpc.losses.objective import EnsembleOutput, node_losses
from kdhpc.methods.graph import GraphMethod, GraphModel
from kdhpc.methods.stacking import OutputShape, Stacking
from kdhpc.networks.names import check_network
from kdhpc.networks.output import NetworkOutput
from kdhpc.networks.own import OWN_NETWORKS, OwnNetworks, copies_of, register
from kdhpc.training.compile import programs
from kdhpc.training.learner import Learner
from kdhpc.training.reach import weight_groups
from kdhpc.training.schedule import ScheduleStep
from tests.losses.paper_reference import random_graph
from tests.methods.test_graph import learner_of, snapshot, train
from tests.plugins import forget_plugins
from tests.training.memory_source import (
    CPU,
    OBJECTIVE,
    MemoryBatch,
    graph_of,
    images_of,
    runtime_of,
    setting_of,
)

# torch's tracing looks at inputs that are no leaves; it hides the warning from users, not from pytest's error filter.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
CROPS = (1, 3)
THROUGH, CUTOFF = Gate.THROUGH, Gate.CUTOFF


def networks(*names):
    return NetworkConfig(name="resnet8", crops=CROPS).for_nodes(names)


def random_graph_of(*names, seed=0):
    """A graph of all kinds of edges that names its networks."""
    return replace(random_graph(np.random.default_rng(seed), len(names)), networks=names)


def same_state(first, second):
    """Weights, statistics and momenta, to the bit."""
    return all(
        torch.equal(ours[name], theirs[name])
        for a, b in zip(first.state(), second.state(), strict=True)
        for ours, theirs in ((a.tensors, b.tensors), (a.momentum, b.momentum))
        for name in ours.keys() | theirs.keys()
    )


def output_of(rng, side, num_extra=0):
    """Of 5 images and 4 classes, in float64."""

    def random(*shape):
        return torch.from_numpy(rng.random(shape)).requires_grad_()

    return NetworkOutput(random(5, 4), random(5, side, side), tuple(random(5, 4) for _ in range(num_extra)))


def pooled(maps_NHW, side):
    """Averaged down by whole blocks, written independently."""
    factor = maps_NHW.shape[-1] // side
    return maps_NHW.reshape(len(maps_NHW), side, factor, side, factor).mean(dim=(2, 4))


def loss_of_pair(source, target, edge, ramp, labels):
    """What an edge adds to its target's loss, by maps of the smaller size of the two."""
    side = min(source.attention_map.shape[-1], target.attention_map.shape[-1])
    gates = [[CUTOFF, edge.gate], [CUTOFF, CUTOFF]]
    graph = graph_of(gates, labels=[CUTOFF, CUTOFF], design=edge.design)
    stacked = EnsembleOutput(
        torch.stack([source.logits, target.logits]),
        torch.stack([pooled(source.attention_map, side), pooled(target.attention_map, side)]),
    )
    windows = crop_windows(CROPS, height=side, width=side, reduction="mean", device="cpu", dtype=torch.float64)
    coefficients = graph_coefficients(graph, device="cpu", dtype=torch.float64)
    return node_losses(stacked, labels, coefficients, windows, ramp, terms=all_terms(2))[1]


def test_stacking_compares_each_pair_at_its_smaller_size():
    """Of three sizes and any graph, losses and gradients; a classifier that some nodes lack counts for the others."""
    rng = np.random.default_rng(1)
    shapes = [OutputShape(map_side=side, num_extra=extra) for side, extra in ((12, 1), (6, 0), (3, 0), (12, 0))]
    outputs = [output_of(rng, shape.map_side, shape.num_extra) for shape in shapes]
    labels, ramp = torch.tensor([0, 1, 2, 3, 0]), torch.tensor(0.25, dtype=torch.float64)
    stacking = Stacking(shapes, shapes, crops=CROPS, objective=OBJECTIVE, device=torch.device("cpu"))
    leaves = [tensor for one in outputs for tensor in (one.logits, one.attention_map, *one.extra_hard_logits)]
    for seed in range(3):
        graph = random_graph(np.random.default_rng(seed), 4)
        coefficients = graph_coefficients(graph, device="cpu", dtype=torch.float64)
        found_M = node_losses(stacking.stack(outputs), labels, coefficients, stacking.windows, ramp, terms=all_terms(4))
        expected_M = losses_by_pairs(outputs, graph, labels, ramp)
        torch.testing.assert_close(found_M, expected_M, rtol=1e-9, atol=1e-9)
        ours, theirs = (
            torch.autograd.grad(losses, leaves, allow_unused=True, retain_graph=True, materialize_grads=True)
            for losses in (found_M.sum(), expected_M.sum())
        )
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-7, atol=1e-9)


def test_design_of_ones_own_compares_each_pair_at_its_smaller_size(monkeypatch):
    """Called once for each size, with the maps of all nodes at that size; losses and gradients are those of pairs."""
    forget_plugins(monkeypatch)
    seen = []

    def distance(source, target):
        seen.append((tuple(source.shape), tuple(target.shape)))
        return (source.unsqueeze(2) - 2 * target.unsqueeze(1)).square().mean(dim=(3, 4))

    loss = LossEntry(name="distance", compares="attention", function=distance)
    design = add_design(DesignEntry(name="maps", losses=(loss,), colour="#000000", meaning="m"))
    kinds = kinds_of([design])
    sides = (12, 6, 3, 6)
    outputs = [output_of(np.random.default_rng(side), side) for side in sides]
    graph = graph_of([[THROUGH] * 4] * 4, labels=[CUTOFF] * 4, design=design)
    shapes = [OutputShape(map_side=side) for side in sides]
    stacking = Stacking(shapes, shapes, crops=CROPS, objective=OBJECTIVE, device=torch.device("cpu"))
    coefficients = graph_coefficients(graph, device="cpu", dtype=torch.float64, kinds=kinds)
    labels, ramp = torch.zeros(5, dtype=torch.long), torch.tensor(0.0, dtype=torch.float64)
    seen.clear()
    found_M = node_losses(
        stacking.stack(outputs),
        labels,
        coefficients,
        stacking.windows,
        ramp,
        terms=needed_terms(graph),
        code=needed_code(graph, kinds),
    )
    assert seen == [((5, 4, side, side), (5, 4, side, side)) for side in (12, 6, 3)]
    maps = [output.attention_map for output in outputs]
    expected_M = torch.stack(
        [
            sum(
                (pooled(maps[source].detach(), side) - 2 * pooled(maps[target], side)).square().mean()
                for source in range(4)
                if source != target and (side := min(sides[source], sides[target]))
            )
            for target in range(4)
        ]
    )
    torch.testing.assert_close(found_M, expected_M, rtol=1e-12, atol=0)
    for ours, theirs in zip(
        *(torch.autograd.grad(losses.sum(), maps) for losses in (found_M, expected_M)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def detached(output):
    return NetworkOutput(output.logits.detach().double(), output.attention_map.detach().double())


def losses_by_pairs(outputs, graph, labels, ramp):
    """(M,): every edge by itself."""
    label_weight = {Gate.CUTOFF: 0.0, Gate.LINEAR: float(ramp), Gate.THROUGH: 1.0, Gate.CORRECT: 1.0}
    losses = []
    for node, (output, gate) in enumerate(zip(outputs, graph.label_gates, strict=True)):
        logits = (output.logits, *output.extra_hard_logits)
        label = sum(torch.nn.functional.cross_entropy(one, labels) for one in logits)
        taught = [
            loss_of_pair(detached(outputs[edge.source]), output, edge, ramp, labels)
            for edge in graph.edges
            if edge.target == node and edge.gate is not CUTOFF
        ]
        losses.append(label_weight[gate] * label + sum(taught))
    return torch.stack(losses)


class TwoLayers(torch.nn.Module):
    """The map is that of the last layer called: of both layers, or of the second one beside the first."""

    def __init__(self, stride, in_a_row):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 3, 3, stride=stride if in_a_row else 2, padding=1)
        self.second = torch.nn.Conv2d(3, 3, 3, stride=1 if in_a_row else stride, padding=1)
        self.fc = torch.nn.Linear(3, 4)
        self.in_a_row = in_a_row

    def forward(self, images):
        first = self.first(images)
        second = self.second(first if self.in_a_row else images)
        return self.fc(first.mean(dim=(2, 3)) + second.mean(dim=(2, 3)))


@pytest.fixture
def listed():
    """A name of four modules with maps of 6, 6, 12 and 3 pixels on 12, whose weights have the same names."""
    modules = [TwoLayers(*how) for how in ((2, True), (2, False), (1, True), (4, True))]
    register("listed", OwnNetworks(copies_of(modules), label="listed"))
    yield NetworkConfig(name="listed", crops=CROPS)
    del OWN_NETWORKS["listed"]


def test_modules_of_a_list_are_compared_as_named_networks_are(listed):
    """Each pair at its smaller size, not all at the smallest; and each node's weights by what reaches them."""
    images, labels = images_of(6)
    for seed in range(2):
        graph = random_graph(np.random.default_rng(seed), 4)
        model = GraphModel(graph, setting_of(network=listed), 0)
        assert [network(images).attention_map.shape[-1] for network in model.networks] == [6, 6, 12, 3]
        outputs = [detached(network(images)) for network in model.networks]
        model.set_schedule(ScheduleStep(epoch=1, step=1, num_steps=4))
        expected_M = losses_by_pairs(outputs, graph, labels, torch.tensor(0.25, dtype=torch.float64))
        found_M = model.losses(MemoryBatch(images, labels))
        torch.testing.assert_close(found_M.double(), expected_M, rtol=1e-4, atol=1e-5)
    for network, groups in zip(model.networks, model.weight_groups, strict=True):
        alone = {group.names for group in weight_groups(network, 12)}
        assert alone == {names for names in groups if names}
    assert model.weight_groups[0] != model.weight_groups[1]


def test_learner_of_a_list_of_equal_names_learns_as_of_one_name():
    graph = random_graph(np.random.default_rng(0), 2)
    alone, listed = learner_of(graph), learner_of(graph, network=networks("resnet8", "resnet8"))
    assert torch.equal(train(alone), train(listed))
    assert same_state(alone, listed)


def test_learner_node_starts_as_it_does_among_equals():
    mixed = learner_of(random_graph_of("resnet14", "resnet8"))
    equal = learner_of(random_graph(np.random.default_rng(0), 2))
    assert all(torch.equal(*two) for two in zip(*(one.networks[1].parameters() for one in (mixed, equal)), strict=True))


class Counted:
    """A backend of torch.compile that counts what it is given."""

    def __init__(self):
        self.count = 0

    def __call__(self, module, inputs):
        self.count += 1
        return module


@pytest.mark.parametrize("combines", [False, True])
def test_compiled_programs_of_different_networks_serve_other_graphs(combines):
    torch._dynamo.reset()
    backend, names = Counted(), ("abn_resnet8", "resnet8", "resnet8")
    learner = learner_of(random_graph_of(*names), backend=backend, combines=combines)
    compiled = [train(learner)]
    # A program of each of the two networks, or one of all three; and one of the losses.
    assert backend.count == (2 if combines else 3)
    other = random_graph_of(*names, seed=1)
    learner.restart(GraphMethod(graph=other), 1)
    compiled.append(train(learner))
    assert backend.count == (2 if combines else 3)
    plain = [train(learner_of(random_graph_of(*names))), train(learner_of(other, seed=1))]
    torch.testing.assert_close(torch.stack(compiled), torch.stack(plain), rtol=1e-4, atol=1e-5)


def searching(graph, *, seed=0, backend=None, names=("abn_resnet8", "resnet8")):
    """A learner of a search that chooses networks."""
    runtime = runtime_of(CPU, target="cpu", programs=programs(backend, None))
    setting = replace(setting_of(runtime=runtime), possible_networks=tuple(networks(name) for name in names))
    return Learner(GraphModel(graph, setting, seed), setting.training)


def test_restart_with_other_networks_is_a_new_training_and_compiles_nothing_more():
    torch._dynamo.reset()
    backend = Counted()
    learner = searching(random_graph_of("abn_resnet8", "resnet8"), backend=backend)
    train(learner)
    count = backend.count
    assert count == 3
    for seed, names in enumerate(
        [("resnet8", "resnet8"), ("resnet8", "abn_resnet8"), ("abn_resnet8", "resnet8"), ()], 1
    ):
        graph = replace(random_graph(np.random.default_rng(seed), 2), networks=names)
        learner.restart(GraphMethod(graph=graph), seed)
        losses = train(learner)
        assert backend.count == count
        fresh = searching(graph, seed=seed, backend=backend)
        assert torch.equal(train(fresh), losses)
        assert same_state(learner, fresh)


def test_restore_state_of_other_networks_is_refused_and_changes_nothing():
    ours, theirs = (learner_of(random_graph_of(*names)) for names in (("resnet8", "resnet14"), ("resnet14", "resnet8")))
    before = snapshot(ours.networks[0])
    with pytest.raises(CheckpointError, match="written with another network"):
        ours.restore(theirs.state())
    assert all(torch.equal(before[name], tensor) for name, tensor in ours.networks[0].state_dict().items())


def test_learner_crops_larger_than_the_smallest_map_are_refused():
    """At 12 pixels, maps of 3 and of 6."""
    with pytest.raises(NetworkError, match=r"map of resnet8 at dataset\.image_size=12 is 3x3"):
        learner_of(random_graph_of("abn_resnet8", "resnet8"), network=NetworkConfig(name="abn_resnet8", crops=(3, 5)))
    mixed = NetworkConfig(name="resnet8", crops=(1,), residual_attention=True).for_nodes(("resnet8", "resnet14"))
    with pytest.raises(NetworkError, match="residual_attention=True has no meaning for resnet8, resnet14"):
        check_network(replace(mixed, residual_attention=True), 12)
    with pytest.raises(NetworkError, match="layer=conv has no meaning for resnet8, resnet14, whose maps are made by"):
        check_network(replace(mixed, residual_attention=None, layer="conv"), 12)


def test_network_config_of_a_node_has_only_its_own_options():
    mixed = NetworkConfig(name="abn_resnet8", crops=CROPS, residual_attention=True).for_nodes(
        ("abn_resnet8", "resnet8")
    )
    assert [mixed.of(node).residual_attention for node in (0, 1)] == [True, None]
    assert (mixed.name, mixed.distinct) == ("abn_resnet8+resnet8", ("abn_resnet8", "resnet8"))
