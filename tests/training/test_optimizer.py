import copy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from kdhpc.networks.build import build_network
from kdhpc.training.optimizer import ZeroLossSGD
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
