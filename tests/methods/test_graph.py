import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from kdhpc.config.schema import DeviceConfig, NetworkConfig
from kdhpc.errors import CheckpointError, NetworkError
from kdhpc.graph.spec import Design, Gate
from kdhpc.methods.graph import GraphModel
from kdhpc.training.compile import programs
from kdhpc.training.learner import Learner
from kdhpc.training.model import node_seed
from kdhpc.training.schedule import ScheduleStep, learning_rate
from tests.losses.paper_reference import random_graph
from tests.training.memory_source import (
    CPU,
    NETWORK,
    NUM_CLASSES,
    OBJECTIVE,
    MemoryEval,
    MemoryTrain,
    graph_of,
    mutual,
    runtime_of,
    setting_of,
    training_config,
)
from tools.benchmarks.peers_published import PerSampleLosses, PublishedLoop

THROUGH, CUTOFF, LINEAR, CORRECT = Gate.THROUGH, Gate.CUTOFF, Gate.LINEAR, Gate.CORRECT


def learner_of(
    graph,
    *,
    network=NETWORK,
    objective=OBJECTIVE,
    seed=0,
    training=None,
    device=CPU,
    backend=None,
    record=None,
    target="cpu",
    combines=False,
):
    computing = programs(backend, record, combines=True) if combines else programs(backend, record)
    runtime = runtime_of(device, target=target, programs=computing)
    setting = setting_of(network=network, objective=objective, training=training, runtime=runtime)
    return Learner(GraphModel(graph, setting, seed), setting.training)


def train(learner, *, num_steps=4, first_step=0):
    losses = []
    for step, batch in enumerate(MemoryTrain().epoch(seed=0, epoch=1, first_step=first_step)):
        if step == num_steps:
            break
        losses.append(learner.step(batch, ScheduleStep(epoch=1, step=first_step + step + 1, num_steps=8)))
    return torch.stack(losses)


def snapshot(network):
    return copy.deepcopy(network.state_dict())


def differing(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def is_statistic(name):
    return name.endswith(("running_mean", "running_var", "num_batches_tracked"))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("name", "crops", "num_nodes", "seed"),
    [("resnet8", (1, 3), 2, 0), ("resnet8", (1, 3), 3, 1), ("resnet8", (1, 3), 3, 2), ("abn_resnet8", (3, 5), 2, 3)],
)
def test_step_random_graphs_move_the_weights_as_the_published_style_does(name, crops, num_nodes, seed, channels_last):
    graph = random_graph(np.random.default_rng(seed), num_nodes)
    device = replace(CPU, channels_last=channels_last)
    learner = learner_of(graph, network=NetworkConfig(name=name, crops=crops), device=device)
    published = PublishedLoop(learner.networks, graph, training_config(), PerSampleLosses(crops))
    for step, batch in enumerate(MemoryTrain().epoch(seed=0, epoch=1)):
        schedule = ScheduleStep(epoch=1, step=step + 1, num_steps=8)
        losses = learner.step(batch, schedule)
        expected = published.step(batch, (step + 1) / 8, learning_rate(training_config(), schedule))
        np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(learner.networks, published.networks, strict=True):
        for key, tensor in ours.state_dict().items():
            torch.testing.assert_close(tensor, theirs.state_dict()[key], rtol=1e-3, atol=1e-4, msg=key)


def test_step_all_nodes_see_each_other_as_they_were_before_the_update():
    """Node 1 learns from node 0 alone: its gradient must not depend on what node 0 learned in the same step."""
    taught = graph_of([[CUTOFF, THROUGH], [CUTOFF, CUTOFF]], labels=[THROUGH, CUTOFF])
    quiet = graph_of([[CUTOFF, THROUGH], [CUTOFF, CUTOFF]], labels=[CUTOFF, CUTOFF])
    learners = [learner_of(taught), learner_of(quiet)]
    for learner in learners:
        train(learner, num_steps=1)
    assert differing(*(snapshot(learner.networks[0]) for learner in learners))
    assert not differing(*(snapshot(learner.networks[1]) for learner in learners))


@pytest.mark.parametrize("precision", ["tf32", "float32"])
def test_learner_computes_in_its_precision_whoever_makes_it(monkeypatch, precision):
    monkeypatch.setattr("kdhpc.training.device._why_not", lambda precision, device: None)
    torch.backends.cudnn.allow_tf32 = precision != "tf32"
    learner_of(mutual(), device=DeviceConfig(precision=precision))
    assert torch.backends.cudnn.allow_tf32 == (precision == "tf32")


def test_step_losses_of_a_learnable_task_fall():
    learner = learner_of(mutual(), training=training_config(learning_rate=0.05))
    losses = torch.cat([train(learner) for _ in range(6)])
    assert losses.shape == (24, 2)
    assert losses[-4:].mean() < 0.7 * losses[:4].mean()


def test_step_unlearned_node_keeps_its_weights_and_moves_its_statistics():
    graph = graph_of([[CUTOFF, CUTOFF], [CUTOFF, CUTOFF]], labels=[THROUGH, CUTOFF])
    assert graph.unlearned_nodes == (1,)
    learner = learner_of(graph)
    before = snapshot(learner.networks[1])
    losses = train(learner)
    assert losses[:, 1].tolist() == [0, 0, 0, 0]
    changed = differing(before, snapshot(learner.networks[1]))
    assert changed == {name for name in before if is_statistic(name)}


def test_step_graph_in_which_nobody_learns_changes_no_weight():
    learner = learner_of(graph_of([[CUTOFF] * 2] * 2, labels=[CUTOFF, CUTOFF]))
    before = [snapshot(network) for network in learner.networks]
    assert train(learner).abs().sum() == 0
    for old, network in zip(before, learner.networks, strict=True):
        assert all(is_statistic(name) for name in differing(old, snapshot(network)))


def test_step_zero_loss_takes_no_step_although_momentum_is_running():
    """Node 1 learns only where node 0 is right, which it never is in the second step."""
    graph = graph_of([[CUTOFF, CORRECT], [CUTOFF, CUTOFF]], labels=[THROUGH, CUTOFF])
    learner = learner_of(graph)
    batch = next(MemoryTrain().epoch(seed=0, epoch=1))
    head = learner.networks[0].head
    with torch.no_grad():  # Node 0 answers with the first label, whatever it is shown.
        head.fc.weight.zero_()
        head.fc.bias.copy_(50.0 * torch.nn.functional.one_hot(batch.labels[0], NUM_CLASSES))
    start = snapshot(learner.networks[1])
    losses = learner.step(batch, ScheduleStep(epoch=1, step=1, num_steps=8))
    assert losses[1] > 0
    moved = snapshot(learner.networks[1])
    assert {name for name in differing(start, moved) if not is_statistic(name)}
    momentum = copy.deepcopy(learner.state()[1].momentum)
    assert any(buffer.abs().sum() > 0 for buffer in momentum.values())

    first = batch.labels[0]
    wrong = replace(batch, labels=torch.where(batch.labels == first, (first + 1) % NUM_CLASSES, batch.labels))
    with torch.no_grad():
        head.fc.weight.zero_()
        head.fc.bias.copy_(50.0 * torch.nn.functional.one_hot(batch.labels[0], NUM_CLASSES))
    assert learner.step(wrong, ScheduleStep(epoch=1, step=2, num_steps=8))[1] == 0
    assert all(is_statistic(name) for name in differing(moved, snapshot(learner.networks[1])))
    assert not differing(momentum, learner.state()[1].momentum)


def test_step_node_that_broke_down_breaks_only_those_that_it_teaches():
    graph = graph_of([[CUTOFF, THROUGH, CUTOFF], [CUTOFF] * 3, [CUTOFF] * 3], labels=[THROUGH] * 3)
    learner = learner_of(graph)
    with torch.no_grad():
        learner.networks[0].head.fc.bias.fill_(float("nan"))
    losses = train(learner, num_steps=2)
    assert losses[:, 0].isnan().all()
    assert losses[:, 1].isnan().all()
    assert losses[:, 2].isfinite().all()
    assert all(tensor.isfinite().all() for tensor in learner.networks[2].state_dict().values())


def test_step_first_node_of_any_ensemble_size_starts_and_learns_the_same():
    """Without distillation, nodes are strangers."""
    alone = learner_of(graph_of([[CUTOFF]], labels=[THROUGH]))
    together = learner_of(graph_of([[CUTOFF] * 3] * 3, labels=[THROUGH] * 3))
    losses = train(alone)[:, 0], train(together)[:, 0]
    torch.testing.assert_close(*losses)


def test_initial_weights_follow_from_seed_and_node_alone():
    weights = {}
    for seed in (0, 1):
        torch.manual_seed(123 + seed)
        learner = learner_of(mutual(num_nodes=3), seed=seed)
        for node, network in enumerate(learner.networks):
            weights[seed, node] = network.lower.conv1.weight.detach().clone()
    again = learner_of(mutual(num_nodes=2, gate=CUTOFF), seed=1)
    assert torch.equal(again.networks[1].lower.conv1.weight, weights[1, 1])
    distinct = {tuple(weight.flatten().tolist()) for weight in weights.values()}
    assert len(distinct) == 6


def test_initial_weights_building_leaves_the_global_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    learner_of(mutual())
    assert torch.equal(torch.rand(3), expected)


def test_node_seed_neighbours_do_not_collide():
    seeds = {node_seed(seed, node) for seed in range(50) for node in range(8)}
    assert len(seeds) == 400
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_evaluate_changes_nothing_and_returns_to_training():
    learner = learner_of(mutual())
    train(learner)
    before = [snapshot(network) for network in learner.networks]
    accuracies = learner.evaluate(MemoryEval())
    for old, network in zip(before, learner.networks, strict=True):
        assert not differing(old, snapshot(network))
        assert all(part.training for part in network.modules())
    assert len(accuracies.nodes) == 2
    assert accuracies == learner.evaluate(MemoryEval(batch_size=10))


def test_evaluate_ensemble_is_the_argmax_of_the_mean_of_logits():
    learner = learner_of(mutual(num_nodes=3))
    train(learner)
    accuracies = learner.evaluate(MemoryEval())
    source = MemoryEval()
    with torch.no_grad():
        logits = torch.stack([network.eval()(source.images).logits for network in learner.networks])
    right = (logits.sum(dim=0).argmax(dim=1) == source.labels).float().mean()
    assert accuracies.ensemble == pytest.approx(100 * right.item())
    for node in range(3):
        right = (logits[node].argmax(dim=1) == source.labels).float().mean()
        assert accuracies.nodes[node] == pytest.approx(100 * right.item())


def test_bf16_networks_learn_with_losses_in_float32():
    learner = learner_of(mutual(design=Design.BOTH_APART), device=DeviceConfig(device="cpu", precision="bf16"))
    losses = train(learner)
    assert losses.dtype == torch.float32
    exact = train(learner_of(mutual(design=Design.BOTH_APART)))
    torch.testing.assert_close(losses, exact, rtol=0.1, atol=0.1)
    assert not torch.equal(losses, exact)
    assert all(p.dtype == torch.float32 for network in learner.networks for p in network.parameters())


def test_learner_crops_larger_than_the_map_are_refused():
    with pytest.raises(NetworkError, match=r"crop is 5x5.*is 3x3"):
        learner_of(mutual(), network=NetworkConfig(name="resnet8", crops=(5,)))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: learner_of(mutual(num_nodes=3)), "holds 3 networks, this training has 2"),
        (lambda: learner_of(mutual(), network=NetworkConfig(name="resnet14", crops=(1,))), "has .* for network tensor"),
        (lambda: learner_of(mutual(), training=training_config(momentum=0.0)), "has nothing for momentum tensor"),
    ],
)
def test_restore_state_of_another_ensemble_is_refused_and_changes_nothing(other, message):
    learner = learner_of(mutual())
    before = [snapshot(network) for network in learner.networks]
    state = other().state()
    with pytest.raises(CheckpointError, match=message):
        learner.restore(state)
    for old, network in zip(before, learner.networks, strict=True):
        assert not differing(old, snapshot(network))
