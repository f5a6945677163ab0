import torch
from torch import nn

from kdhpc.training.node_trainer import NodeTrainer
from tests.training.memory_source import training_config


def node_of(*, scale_loss, seed=0):
    torch.manual_seed(seed)
    return NodeTrainer(nn.Linear(3, 2), training_config(learning_rate=0.1), scale_loss=scale_loss)


def learn(node, inputs, factor=1.0):
    loss = (node.network(inputs) * factor).square().mean()
    torch.autograd.backward([node.loss_to_differentiate(loss)])
    node.update((loss.detach() == 0).float())


def test_update_with_a_scaled_loss_is_the_same_as_without():
    scaled, plain = node_of(scale_loss=True), node_of(scale_loss=False)
    inputs = torch.rand(5, 3)
    for _ in range(4):
        learn(scaled, inputs)
        learn(plain, inputs)
    torch.testing.assert_close(scaled.network.weight, plain.network.weight)
    assert scaled.state().loss_scale["scale"] == 65536.0


def test_update_overflow_skips_the_step_and_lowers_only_its_own_scale():
    broken, healthy = node_of(scale_loss=True), node_of(scale_loss=True)
    before = broken.network.weight.detach().clone()
    inputs = torch.rand(5, 3)
    learn(broken, inputs, factor=1e18)
    learn(healthy, inputs)
    assert torch.equal(broken.network.weight, before)
    assert broken.state().loss_scale["scale"] == 32768.0
    assert healthy.state().loss_scale["scale"] == 65536.0
    assert not torch.equal(healthy.network.weight, before)


def test_update_zero_loss_with_a_scaler_takes_no_step():
    node = node_of(scale_loss=True)
    learn(node, torch.rand(5, 3))
    before = node.network.weight.detach().clone()
    learn(node, torch.rand(5, 3), factor=0.0)
    assert torch.equal(node.network.weight, before)
    assert node.state().loss_scale["scale"] == 65536.0


def test_restore_brings_back_weights_momentum_and_scale():
    first = node_of(scale_loss=True)
    inputs = torch.rand(5, 3)
    learn(first, inputs)
    learn(first, inputs, factor=1e18)
    state = first.state()
    learn(first, inputs)
    second = node_of(scale_loss=True, seed=1)
    second.check(state)
    second.restore(state)
    learn(second, inputs)
    assert torch.equal(first.network.weight, second.network.weight)
    assert first.state().loss_scale == second.state().loss_scale


def test_state_is_a_copy():
    node = node_of(scale_loss=False)
    state = node.state()
    before = {name: tensor.clone() for name, tensor in (state.tensors | state.momentum).items()}
    learn(node, torch.rand(5, 3))
    assert all(torch.equal(before[name], tensor) for name, tensor in (state.tensors | state.momentum).items())
