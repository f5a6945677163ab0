"""The self-teacher, against a reference in plain torch that is written out level by level."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kdhpc.config.schema import NetworkConfig
from kdhpc.errors import NetworkError
from kdhpc.networks.build import build_network
from kdhpc.networks.frskd import SelfTeacher, build_frskd, pool_same


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def batch_norm(values, norm):
    mean = values.mean(dim=(0, 2, 3), keepdim=True)
    variance = values.var(dim=(0, 2, 3), unbiased=False, keepdim=True)
    scale, shift = norm.weight[None, :, None, None], norm.bias[None, :, None, None]
    return (values - mean) / torch.sqrt(variance + norm.eps) * scale + shift


def pointwise(values, convolution):
    return torch.einsum("nchw,dc->ndhw", values, convolution.weight[:, :, 0, 0])


def depthwise(values, convolution):
    height, width = values.shape[2:]
    padded = F.pad(values, (1, 1, 1, 1))
    return sum(
        convolution.weight[:, 0, row, column][None, :, None, None]
        * padded[:, :, row : row + height, column : column + width]
        for row in range(3)
        for column in range(3)
    )


def project(values, layers):
    convolution, norm, _ = layers
    return batch_norm(pointwise(values, convolution), norm).clamp(min=0)


def block(values, layers):
    first, second, norm, _, third, fourth, last = layers
    inner = batch_norm(pointwise(depthwise(values, first), second), norm).clamp(min=0)
    return batch_norm(pointwise(depthwise(inner, third), fourth), last)


def doubled(values):
    return values.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def halved(values):
    """The maximum of windows that begin at every second pixel, where what lies outside is 0."""
    height, width = values.shape[2:]
    rows = []
    for top in range(0, height, 2):
        window = values[:, :, top : top + 3]
        rows.append([window[:, :, :, left : left + 3].amax(dim=(2, 3)) for left in range(0, width, 2)])
    return torch.stack([torch.stack(row, dim=2) for row in rows], dim=2)


def shares(fusion):
    return fusion.weight.clamp(min=0) / (fusion.weight.clamp(min=0).sum() + 1e-6)


def reference(teacher, f1, f2, f3):
    """Of three levels."""
    l1, l2, p3 = (project(values, layers) for values, layers in zip((f1, f2, f3), teacher.lateral, strict=True))
    m2, m3 = (project(values, layers) for values, layers in zip((f2, f3), teacher.lateral_again, strict=True))
    a = shares(teacher.down_fusion[1])
    p2 = block(a[0] * l2 + a[1] * project(doubled(p3), teacher.down[1]), teacher.down_block[1])
    a = shares(teacher.down_fusion[0])
    p1 = block(a[0] * l1 + a[1] * project(doubled(p2.clamp(min=0)), teacher.down[0]), teacher.down_block[0])
    t1 = p1.clamp(min=0)
    b = shares(teacher.up_fusion[0])
    t2 = block(
        b[0] * m2 + b[1] * p2.clamp(min=0) + b[2] * project(halved(t1), teacher.up[0]), teacher.up_block[0]
    ).clamp(min=0)
    b = shares(teacher.up_fusion[1])
    t3 = block(b[0] * m3 + b[1] * project(halved(t2), teacher.up[1]), teacher.up_block[1]).clamp(min=0)
    return (t1, t2, t3), t3.mean(dim=(2, 3)) @ teacher.fc.weight.T + teacher.fc.bias


def test_self_teacher_and_its_gradients_match_the_reference():
    torch.manual_seed(0)
    teacher = SelfTeacher((2, 3, 4), 5).double()
    for name, parameter in teacher.named_parameters():
        if "fusion" in name:
            parameter.data.uniform_(-0.3, 1)  # Some are below 0, and count nothing.
    found = []
    for run in (teacher, lambda features: reference(teacher, *features)):
        generator = torch.Generator().manual_seed(1)
        features = tuple(
            torch.rand(2, channels, side, side, dtype=torch.float64, generator=generator).requires_grad_()
            for channels, side in ((2, 8), (3, 4), (4, 2))
        )
        teacher.zero_grad()
        levels, logits = run(features)
        (logits.square().sum() + sum(level.pow(3).sum() for level in levels)).backward()
        gradients = [one.grad.clone() for one in (*features, *teacher.parameters())]
        found.append([*levels, logits, *gradients])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("side", [1, 2, 5, 7, 8])
def test_pool_same_gives_half_the_side_rounded_up(side):
    values = torch.rand(1, 1, side, side)
    pooled = pool_same(values)
    assert pooled.shape[2] == -(-side // 2)
    first = slice(0, 3) if side % 2 == 0 else slice(0, 2)  # An odd side has a zero before its first pixel.
    assert pooled[0, 0, 0, 0] == values[0, 0, first, first].max()


@pytest.mark.parametrize(
    ("channels", "num_classes", "auxiliary"),
    [((64, 128, 256, 512), 120, 6_396_294), ((16, 32, 64), 100, 113_325), ((32, 64, 128), 100, 411_885)],
)
def test_self_teacher_has_the_parameters_of_the_authors_bifpnc_256(channels, num_classes, auxiliary):
    with torch.device("meta"):
        assert count(SelfTeacher(channels, num_classes)) == auxiliary


@pytest.mark.parametrize(
    ("name", "side", "num_classes", "student", "auxiliary", "levels"),
    [
        ("resnet18", 32, 120, 11_238_072, 6_396_294, 4),
        ("resnet20", 28, 100, 275_572, 113_325, 3),
        ("wrn16_2", 32, 100, 703_284, 411_885, 3),
    ],
)
def test_frskd_network_of_either_family_has_a_level_for_each_stage(name, side, num_classes, student, auxiliary, levels):
    config = NetworkConfig(name=name, crops=(1,))
    network = build_frskd(config, num_classes=num_classes, image_size=side)
    assert (count(network.student), count(network.teacher)) == (student, auxiliary)
    output = network(torch.rand(2, 3, side, side))
    assert output.student_logits_NC.shape == output.teacher_logits_NC.shape == (2, num_classes)
    shapes = [tuple(one.shape) for one in output.student_maps]
    assert shapes == [tuple(one.shape) for one in output.teacher_maps]
    assert len(shapes) == levels


def test_frskd_network_maps_are_those_of_the_features_after_relu():
    network = build_frskd(NetworkConfig(name="resnet8", crops=(1,)), num_classes=5, image_size=12).eval()
    images = torch.rand(3, 3, 12, 12)
    output, plain = network(images), network.student(images)
    torch.testing.assert_close(output.student_logits_NC, plain.logits)
    torch.testing.assert_close(output.student_maps[-1], plain.attention_map)
    seen = network.student.lower.layer1(network.student.lower[:3](images))
    assert seen.min() == 0
    np.testing.assert_allclose(
        output.student_maps[0].detach().numpy(), (seen.detach().numpy() ** 2).mean(axis=1), rtol=1e-4, atol=1e-6
    )


def test_frskd_network_maps_of_a_wide_network_are_those_after_batch_norm_and_relu():
    """Those are the next stage's first layers; the batch norm sees a batch once. As in the authors' code."""
    network = build_frskd(NetworkConfig(name="wrn16_2", crops=(1,)), num_classes=5, image_size=12)
    plain = copy.deepcopy(network.student)
    images = torch.rand(3, 3, 12, 12)
    output, expected = network(images), plain(images)
    torch.testing.assert_close(output.student_logits_NC, expected.logits)
    torch.testing.assert_close(output.student_maps[-1], expected.attention_map)
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(network.student.state_dict()[name], tensor)
    lower, norm = plain.lower, plain.head.layer4[0].bn1
    sums = lower(images)
    seen = F.relu(F.batch_norm(sums, None, None, norm.weight, norm.bias, training=True))
    torch.testing.assert_close(output.student_maps[1], seen.square().mean(dim=1), rtol=1e-4, atol=1e-5)


def test_frskd_network_labels_of_the_self_teacher_also_train_the_network():
    network = build_frskd(NetworkConfig(name="resnet8", crops=(1,)), num_classes=5, image_size=12)
    network(torch.rand(3, 3, 12, 12)).teacher_logits_NC.square().sum().backward()
    assert all(one.grad.any() for name, one in network.student.named_parameters() if not name.startswith("head.fc"))
    assert network.student.head.fc.weight.grad is None


def test_build_frskd_begins_with_the_weights_of_a_plain_network_of_the_same_seed():
    config = NetworkConfig(name="resnet8", crops=(1,))
    built = []
    for build in (build_frskd, build_network):
        torch.manual_seed(3)
        built.append(build(config, num_classes=5, image_size=12))
    ours, plain = built[0].student.state_dict(), built[1].state_dict()
    assert all(torch.equal(ours[name], plain[name]) for name in plain)


def test_build_frskd_of_a_network_with_an_attention_branch_is_refused():
    with pytest.raises(
        NetworkError, match=r"FRSKD needs the stages of a plain residual network, which abn_resnet8 does"
    ):
        build_frskd(NetworkConfig(name="abn_resnet8", crops=(1,)), num_classes=5, image_size=12)
