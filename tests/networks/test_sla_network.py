import pytest
import torch

from kdhpc.config.schema import NetworkConfig
from kdhpc.errors import NetworkError
from kdhpc.networks.build import build_network
from kdhpc.networks.sla import build_sla, rotated


@pytest.mark.parametrize("channels_last", [False, True])
def test_rotated_rows_are_interleaved_in_the_images_own_memory_format(channels_last):
    layout = torch.channels_last if channels_last else torch.contiguous_format
    images = torch.rand(2, 3, 4, 4).contiguous(memory_format=layout)
    turns = rotated(images)
    for row, turned in enumerate(turns):
        expected = images[row // 4].clone()
        for _ in range(row % 4):  # A quarter turn: the last column becomes the first row.
            expected = expected.transpose(1, 2).flip(1)
        torch.testing.assert_close(turned, expected, rtol=0, atol=0)
    assert turns.is_contiguous(memory_format=layout)


@pytest.mark.parametrize(
    ("name", "num_classes", "joint"), [("resnet18", 120, 246_240), ("resnet20", 100, 26_000), ("wrn28_2", 100, 51_600)]
)
def test_build_sla_adds_the_parameters_of_the_joint_head(name, num_classes, joint):
    with torch.device("meta"):
        network = build_sla(NetworkConfig(name=name, crops=(1,)), num_classes=num_classes, image_size=32)
        plain = build_network(NetworkConfig(name=name, crops=(1,)), num_classes=num_classes, image_size=32)
    counts = [sum(one.numel() for one in module.parameters()) for module in (network, network.student, plain)]
    assert counts[0] - counts[1] == joint
    assert counts[1] == counts[2]


@pytest.mark.parametrize("name", ["resnet8", "wrn16_2"])
def test_sla_network_heads_see_the_same_features_and_the_kept_one_the_images_as_they_are(name):
    network = build_sla(NetworkConfig(name=name, crops=(1,)), num_classes=5, image_size=12).eval()
    images = torch.rand(3, 3, 12, 12)
    output = network(images)
    assert output.joint_logits_RJ.shape == (12, 20)
    torch.testing.assert_close(output.single_logits_NC, network.student(images).logits)
    features = network.student.head.layer4(network.student.lower(rotated(images))).mean(dim=(2, 3))
    torch.testing.assert_close(output.joint_logits_RJ, features @ network.joint.weight.T + network.joint.bias)


@pytest.mark.parametrize("name", ["abn_resnet8", "abn_resnet18"])
def test_build_sla_of_a_network_with_an_attention_branch_is_refused(name):
    with pytest.raises(NetworkError, match=f"SLA needs the stages of a plain residual network, which {name} does not"):
        build_sla(NetworkConfig(name=name, crops=(1,)), num_classes=5, image_size=32)
