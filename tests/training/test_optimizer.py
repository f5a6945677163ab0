import copy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from kdhpc.networks.build import build_network
from kdhpc.training.optimizer import ZeroLossAdamW, ZeroLossSGD, optimizer_of
from tests.training.memory_source import IMAGE_SIZE, NETWORK, training_config


def pair_of_networks(memory_format=torch.channels_last):
    network = build_network(NETWORK, num_classes=4, image_size=IMAGE_SIZE).to(memory_format=memory_format)
    return network, copy.deepcopy(network)


def torch_sgd(network, config, *, fused):
    return torch.optim.SGD(
        network.parameters(),
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        fused=fused,
    )


def same_random_gradients(networks, generator, scale=1.0):
    for ours, theirs in zip(*(network.parameters() for network in networks), strict=True):
        gradient = torch.randn(ours.shape, generator=generator)
        # In the weights' memory format, as autograd leaves them: the fused kernel relies on it.
        ours.grad = torch.empty_like(ours).copy_(gradient * scale)
        theirs.grad = torch.empty_like(theirs).copy_(gradient)


def assert_same(ours, theirs, *, tolerance=0.0):
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, theirs.state_dict()[name], rtol=tolerance, atol=tolerance)


# Fused and plain SGD differ by a rounding in the last bit, whoever skips.
@pytest.mark.parametrize(("fused", "tolerance"), [(True, 0.0), (False, 1e-5)])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("momentum", [0.9, 0.0])
@pytest.mark.parametrize("skipped", [(), (0,), (0, 1, 2), (3, 4, 9), tuple(range(10))])
def test_zero_loss_sgd_is_sgd_behind_an_if(skipped, momentum, memory_format, fused, tolerance):
    config = training_config(momentum=momentum, learning_rate=0.1)
    networks = pair_of_networks(memory_format)
    before = copy.deepcopy(networks[0])
    ours, theirs = ZeroLossSGD(networks[0], config), torch_sgd(networks[1], config, fused=fused)
    generator = torch.Generator().manual_seed(0)
    for step in range(10):
        same_random_gradients(networks, generator)
        ours.skip = torch.tensor(float(step in skipped))
        ours.step()
        if step not in skipped:
            theirs.step()
    assert_same(*networks, tolerance=tolerance)
    if len(skipped) == 10:
        assert_same(networks[0], before)
    else:
        assert not torch.equal(networks[0].head.fc.weight, before.head.fc.weight)


def test_zero_loss_sgd_under_a_loss_scaler_skips_for_zero_losses_and_for_overflows():
    config = training_config(learning_rate=0.1)
    networks = pair_of_networks()
    ours, theirs = ZeroLossSGD(networks[0], config), torch_sgd(networks[1], config, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    generator = torch.Generator().manual_seed(0)
    for step in range(8):
        zero_loss, overflow = step in (0, 3), step in (3, 5)
        scaler.scale(torch.zeros(()))
        same_random_gradients(networks, generator, scale=scaler.get_scale())
        if overflow:
            networks[0].head.fc.weight.grad[0, 0] = float("inf")
        ours.skip = torch.tensor(float(zero_loss))
        scaler.step(ours)
        scaler.update()
        if not zero_loss and not overflow:
            theirs.step()
    assert_same(*networks)
    assert scaler.get_scale() == 256.0  # Halved by each overflow, by no zero loss.


def test_zero_loss_sgd_a_skip_is_not_remembered():
    layer = nn.Linear(2, 2)
    optimizer = ZeroLossSGD(layer, training_config())
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.ones(2, 2)
    layer.bias.grad = torch.ones(2)
    optimizer.skip = torch.ones(())
    optimizer.step()
    assert torch.equal(layer.weight, before)
    optimizer.skip = torch.zeros(())
    optimizer.step()
    assert not torch.equal(layer.weight, before)


@pytest.mark.parametrize("scales", [False, True])
def test_zero_loss_sgd_leaves_the_groups_that_it_is_told_to(scales):
    """A group that steps has the bits of SGD; one that does not, its own; an overflow anywhere stops all."""
    config = training_config(learning_rate=0.1)
    networks = pair_of_networks()
    names = [name for name, _ in networks[0].named_parameters()]
    groups = [[name for name in names if "fc" in name], [name for name in names if "fc" not in name]]
    ours, theirs = ZeroLossSGD(networks[0], config, groups=groups), torch_sgd(networks[1], config, fused=True)
    before = copy.deepcopy(networks[0].head.fc.state_dict())
    generator = torch.Generator().manual_seed(0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scales)
    scaler.scale(torch.zeros(()))
    for step in range(4):
        same_random_gradients(networks, generator, scale=scaler.get_scale() if scales else 1.0)
        overflow = scales and step == 2
        if overflow:
            networks[0].head.fc.weight.grad[0, 0] = float("inf")
        ours.skip = torch.tensor([1.0, 0.0])
        scaler.step(ours)
        scaler.update()
        if not overflow:
            theirs.step()
    assert all(torch.equal(before[name], tensor) for name, tensor in networks[0].head.fc.state_dict().items())
    assert all(ours.state[weight]["momentum_buffer"].abs().sum() == 0 for weight in networks[0].head.fc.parameters())
    networks[1].head.fc.load_state_dict(before)
    assert_same(*networks)
    assert len(ours.param_groups) == 2


def test_zero_loss_sgd_learning_rate_is_a_tensor_wherever_cuda_is():
    """Recorded steps need one, and the others must update with the same number."""
    with FakeTensorMode(), torch.device("cuda", 0):
        optimizer = ZeroLossSGD(nn.Linear(3, 2), training_config(learning_rate=0.1), groups=[["weight"], ["bias"]])
    first, second = (group["lr"] for group in optimizer.param_groups)
    assert first is second
    assert (first.device.type, first.dtype, first.shape) == ("cuda", torch.float32, ())
    on_cpu = ZeroLossSGD(nn.Linear(3, 2), training_config(learning_rate=0.1))
    assert on_cpu.param_groups[0]["lr"] == 0.1
    on_cpu = ZeroLossSGD(nn.Linear(3, 2), training_config(learning_rate=0.1), capturable=True)
    assert on_cpu.param_groups[0]["lr"] == torch.tensor(0.1)


RECIPES = {
    "nesterov": {"nesterov": True, "learning_rate": 0.1, "weight_decay": 5e-4},
    "adamw": {"optimizer": "adamw", "learning_rate": 1e-2, "weight_decay": 0.05, "betas": (0.8, 0.95), "eps": 1e-6},
}


def plain_optimizer(network, config):
    """torch's own, neither fused nor on lists of tensors."""
    options = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "fused": False, "foreach": False}
    if config.optimizer == "adamw":
        return torch.optim.AdamW(network.parameters(), betas=config.betas, eps=config.eps, **options)
    return torch.optim.SGD(network.parameters(), momentum=config.momentum, nesterov=config.nesterov, **options)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("skipped", [(), (0,), (0, 1, 4), tuple(range(8))])
@pytest.mark.parametrize("capturable", [False, True])
def test_optimizer_of_a_recipe_is_torchs_behind_an_if_and_for_each_group(recipe, skipped, capturable):
    """In float64: two groups, the first one skipped at some steps, beside two plain optimisers; rates change."""
    config = training_config(**RECIPES[recipe])
    network = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    other = copy.deepcopy(network)
    before = copy.deepcopy(network[0].state_dict())
    groups = [["0.weight", "0.bias"], ["2.weight", "2.bias"]]
    ours = optimizer_of(network, config, groups=groups, capturable=capturable)
    theirs = [plain_optimizer(other[index], config) for index in (0, 2)]
    generator = torch.Generator().manual_seed(0)
    for step in range(8):
        same_random_gradients((network, other), generator)
        ours.set_learning_rate(rate := config.learning_rate / (step + 1))
        for optimizer in theirs:
            optimizer.param_groups[0]["lr"] = rate
        ours.skip = torch.tensor([float(step in skipped), 0.0])
        ours.step()
        for optimizer in theirs[1:] if step in skipped else theirs:
            optimizer.step()
    # A rate in a tensor is a float32.
    assert_same(network, other, tolerance=1e-6 if capturable else 1e-12)
    if recipe == "adamw":
        steps = [ours.state[parameter]["step"].item() for parameter in network.parameters()]
        assert steps == [8 - len(skipped)] * 2 + [8] * 2
    if len(skipped) == 8:
        assert all(torch.equal(before[name], tensor) for name, tensor in network[0].state_dict().items())
        assert all(not tensor.any() for weight in network[0].parameters() for tensor in ours.state[weight].values())


def test_zero_loss_adamw_under_a_loss_scaler_skips_for_zero_losses_and_for_overflows():
    config = training_config(**RECIPES["adamw"])
    networks = pair_of_networks()
    ours = ZeroLossAdamW(networks[0], config)
    theirs = torch.optim.AdamW(
        networks[1].parameters(),
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    generator = torch.Generator().manual_seed(0)
    for step in range(8):
        zero_loss, overflow = step in (0, 3), step in (3, 5)
        scaler.scale(torch.zeros(()))
        same_random_gradients(networks, generator, scale=scaler.get_scale())
        if overflow:
            networks[0].head.fc.weight.grad[0, 0] = float("inf")
        ours.skip = torch.tensor(float(zero_loss))
        scaler.step(ours)
        scaler.update()
        if not zero_loss and not overflow:
            theirs.step()
    assert_same(*networks)
    assert scaler.get_scale() == 256.0
    assert {ours.state[parameter]["step"].item() for parameter in networks[0].parameters()} == {5.0}


def test_zero_loss_adamw_learning_rate_and_counters_are_where_a_recorded_step_reads_them():
    with FakeTensorMode(), torch.device("cuda", 0):
        config = training_config(optimizer="adamw")
        optimizer = ZeroLossAdamW(nn.Linear(3, 2), config, groups=[["weight"], ["bias"]], capturable=True)
    first, second = optimizer.param_groups
    assert first["lr"] is second["lr"]
    assert all(group["capturable"] and group["fused"] for group in optimizer.param_groups)
    assert {state["step"].device.type for state in optimizer.state.values()} == {"cuda"}
