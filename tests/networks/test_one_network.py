import pytest
import torch
import torch.nn.functional as F

from kdhpc.config.schema import NetworkConfig
from kdhpc.errors import NetworkError
from kdhpc.networks.one import build_one


def one(name, num_branches=3):
    return build_one(NetworkConfig(name=name, crops=(3,)), num_branches=num_branches, num_classes=10)


def test_build_one_parameters_are_as_many_as_derived_by_hand():
    stem = 3 * 16 * 9 + 32
    first = 3 * (2 * 16 * 16 * 9 + 64)
    second = (16 * 32 * 9 + 32 * 32 * 9 + 128) + 2 * (2 * 32 * 32 * 9 + 128)
    last = (32 * 64 * 9 + 64 * 64 * 9 + 256) + 2 * (2 * 64 * 64 * 9 + 256)
    classifier = 64 * 10 + 10
    gate = 32 * 3 + 3 + 2 * 3
    by_hand = stem + first + second + 3 * (last + classifier) + gate
    assert sum(parameter.numel() for parameter in one("resnet20").parameters()) == by_hand == 678_167


@pytest.mark.parametrize(("name", "num_extra"), [("resnet8", 0), ("abn_resnet8", 1), ("resnet18", 0)])
def test_one_network_each_family_gives_branches_and_ensemble(name, num_extra):
    network = one(name)
    output = network(torch.rand(4, 3, 32, 32))
    assert output.branch_logits_BNC.shape == (3, 4, 10)
    assert output.ensemble_logits_NC.shape == (4, 10)
    assert [logits.shape for logits in output.extra_hard_logits_BNC] == [(3, 4, 10)] * num_extra
    assert not torch.equal(output.branch_logits_BNC[0], output.branch_logits_BNC[1])


def test_one_network_ensemble_is_weighted_by_the_gate():
    network = one("resnet8").eval()
    images = torch.rand(4, 3, 32, 32)
    output = network(images)
    linear, norm, _, _ = network.gate
    pooled = F.adaptive_avg_pool2d(network.lower(images), 1).flatten(1)
    weights = F.softmax(F.relu(norm(pooled @ linear.weight.T + linear.bias)), dim=1)
    expected = sum(weights[:, b : b + 1] * output.branch_logits_BNC[b] for b in range(3))
    torch.testing.assert_close(output.ensemble_logits_NC, expected)


def test_build_one_without_branches_is_refused():
    with pytest.raises(NetworkError, match="at least 1 branch"):
        one("resnet8", num_branches=0)
