import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from kdhpc.config.networks import NETWORKS
from kdhpc.config.schema import NetworkConfig
from kdhpc.errors import NetworkError
from kdhpc.networks.backbone import SubsampleAndPad
from kdhpc.networks.build import build_network
from kdhpc.networks.names import map_side


def built(name, *, num_classes=10, image_size=32, residual_attention=None):
    config = NetworkConfig(name=name, crops=(1,), residual_attention=residual_attention)
    return build_network(config, num_classes=num_classes, image_size=image_size)


def on_meta(name, **options):
    """Shapes without numbers: even ResNet-152 costs nothing."""
    with torch.device("meta"):
        return built(name, **options)


def num_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def conv(channels_in, channels_out, kernel):
    return channels_in * channels_out * kernel**2


def batch_norm(channels):
    return 2 * channels


def basic_block(channels_in, channels_out):
    return conv(channels_in, channels_out, 3) + conv(channels_out, channels_out, 3) + 2 * batch_norm(channels_out)


def basic_stage(channels_in, channels_out, num_blocks):
    return basic_block(channels_in, channels_out) + (num_blocks - 1) * basic_block(channels_out, channels_out)


def shortcut(channels_in, channels_out):
    return conv(channels_in, channels_out, 1) + batch_norm(channels_out)


def attention_branch(stage, channels, num_classes):
    """Copy of the last stage, BN, 1x1 conv, BN; 1x1 conv to logits; 3x3 conv and BN to the map. No biases."""
    evidence = stage + batch_norm(channels) + conv(channels, num_classes, 1) + batch_norm(num_classes)
    return evidence + conv(num_classes, num_classes, 1) + conv(num_classes, 1, 3) + batch_norm(1)


def cifar_plain(num_blocks, num_classes):
    stem = conv(3, 16, 3) + batch_norm(16)
    stages = basic_stage(16, 16, num_blocks) + basic_stage(16, 32, num_blocks) + basic_stage(32, 64, num_blocks)
    return stem + stages + 64 * num_classes + num_classes


def cifar_abn(num_blocks, num_classes):
    projected = cifar_plain(num_blocks, num_classes) + shortcut(16, 32) + shortcut(32, 64)
    last = basic_stage(32, 64, num_blocks) + shortcut(32, 64)
    return projected + attention_branch(last, 64, num_classes)


def resnet18_last_stage():
    return basic_stage(256, 512, 2) + shortcut(256, 512)


def resnet18_plain(num_classes):
    stem = conv(3, 64, 7) + batch_norm(64)
    middle = basic_stage(64, 128, 2) + shortcut(64, 128) + basic_stage(128, 256, 2) + shortcut(128, 256)
    return stem + basic_stage(64, 64, 2) + middle + resnet18_last_stage() + 512 * num_classes + num_classes


@pytest.mark.parametrize(
    ("name", "num_classes", "by_hand", "known"),
    [
        ("resnet20", 10, cifar_plain(3, 10), 269_722),
        ("resnet18", 120, resnet18_plain(120), 11_238_072),
        ("abn_resnet20", 10, cifar_abn(3, 10), 479_150),
        ("abn_resnet20", 100, cifar_abn(3, 100), 501_650),
        ("abn_resnet18", 120, resnet18_plain(120) + attention_branch(resnet18_last_stage(), 512, 120), 19_709_986),
    ],
)
def test_build_network_parameters_are_as_many_as_derived_by_hand(name, num_classes, by_hand, known):
    assert by_hand == known
    assert num_parameters(on_meta(name, num_classes=num_classes)) == known


@pytest.mark.parametrize("depth", [8, 14, 20, 26, 32, 44, 56, 110])
def test_build_network_cifar_depth_has_as_many_weighted_layers(depth):
    network = on_meta(f"resnet{depth}")
    layers = [part for part in network.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth
    assert num_parameters(network) == cifar_plain((depth - 2) // 6, 10)
    assert num_parameters(on_meta(f"abn_resnet{depth}")) == cifar_abn((depth - 2) // 6, 10)


def test_build_network_wide_has_the_published_number_of_parameters():
    assert num_parameters(on_meta("wrn16_2", num_classes=100)) == 703_284
    assert num_parameters(on_meta("wrn28_2", num_classes=10)) == 1_467_610


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"])
def test_build_network_imagenet_family_has_the_tensors_of_torchvision(name):
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)(num_classes=120)
    shapes = [tensor.shape for tensor in on_meta(name, num_classes=120, image_size=224).state_dict().values()]
    assert shapes == [tensor.shape for tensor in theirs.state_dict().values()]


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_build_network_with_weights_of_torchvision_gives_its_logits(name):
    theirs = getattr(torchvision.models, name)(num_classes=7)
    ours = built(name, num_classes=7, image_size=64)
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(ours(images).logits, theirs(images))


@pytest.mark.parametrize("name", list(NETWORKS))
@pytest.mark.parametrize("image_size", [28, 96])
def test_build_network_any_name_and_size_gives_logits_and_map(name, image_size):
    with FakeTensorMode():  # Shapes without numbers, that autocast knows.
        network = built(name, num_classes=7, image_size=image_size)
        output = network(torch.zeros(4, 3, image_size, image_size))
    side = map_side(name, image_size)
    assert output.logits.shape == (4, 7)
    assert output.attention_map.shape == (4, side, side)
    assert output.attention_map.dtype == torch.float32
    assert [logits.shape for logits in output.extra_hard_logits] == [(4, 7)] * name.startswith("abn_")


def test_network_plain_map_is_the_mean_square_of_the_last_stage():
    network = built("resnet8")
    seen = []
    network.head.layer4.register_forward_hook(lambda module, inputs, features: seen.append(features))
    output = network(torch.rand(2, 3, 32, 32))
    (features,) = seen
    expected = sum(features[:, channel] ** 2 for channel in range(64)) / 64
    torch.testing.assert_close(output.attention_map, expected)
    pooled = features.flatten(2).mean(dim=2)
    torch.testing.assert_close(output.logits, network.head.fc(pooled))


@pytest.mark.parametrize(
    ("name", "option", "residual"),
    [
        ("abn_resnet8", None, True),
        ("abn_resnet8", False, False),
        ("abn_resnet18", None, False),
        ("abn_resnet18", True, True),
    ],
)
def test_network_attention_branch_weights_what_enters_the_last_stage(name, option, residual):
    network = built(name, residual_attention=option).eval()
    seen = []
    network.lower.register_forward_hook(lambda module, inputs, features: seen.append(features))
    network.head.layer4.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    output = network(torch.rand(2, 3, 32, 32))
    shared, entering = seen
    attention = output.attention_map.unsqueeze(1)
    torch.testing.assert_close(entering, shared * attention + (shared if residual else 0))
    # Closed: a sigmoid rounds to 1.
    assert ((output.attention_map >= 0) & (output.attention_map <= 1)).all()


def test_network_attention_branch_is_computed_as_described():
    network = built("abn_resnet8", num_classes=5).eval()
    images = torch.rand(2, 3, 32, 32)
    head = network.head
    shared = network.lower(images)
    stage, norm, to_classes, class_norm, _ = head.evidence
    evidence = F.relu(class_norm(F.conv2d(norm(stage(shared)), to_classes.weight)))
    to_map, map_norm = head.attention_map
    expected_map = torch.sigmoid(map_norm(F.conv2d(evidence, to_map.weight, padding=1)))[:, 0]
    pooled = F.adaptive_avg_pool2d(F.conv2d(evidence, head.attention_fc.weight), 1).flatten(1)
    output = network(images)
    torch.testing.assert_close(output.attention_map, expected_map)
    torch.testing.assert_close(output.extra_hard_logits[0], pooled)


def test_build_network_convolutions_are_he_normal_by_fan_out():
    torch.manual_seed(0)
    for name in ("resnet20", "abn_resnet20", "resnet18"):
        for part in built(name).modules():
            if isinstance(part, nn.Conv2d) and part.weight.numel() > 4000:
                fan_out = part.out_channels * part.kernel_size[0] ** 2
                assert part.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.06)
                assert abs(part.weight.mean().item()) < 0.1 * (2 / fan_out) ** 0.5
            if isinstance(part, nn.Conv2d):
                assert part.bias is None


def test_shortcut_option_a_subsamples_and_pads_both_sides_with_zeros():
    features = torch.rand(2, 16, 5, 5)
    out = SubsampleAndPad(16, 32, 2)(features)
    assert out.shape == (2, 32, 3, 3)
    assert torch.equal(out[:, 8:24], features[:, :, ::2, ::2])
    assert out[:, :8].abs().sum() == out[:, 24:].abs().sum() == 0


def test_build_network_the_same_seed_gives_the_same_weights():
    networks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        networks.append(built("resnet8").state_dict())
    key = "lower.conv1.weight"
    assert torch.equal(networks[0][key], networks[1][key])
    assert not torch.equal(networks[0][key], networks[2][key])


def test_build_network_without_classes_is_refused():
    with pytest.raises(NetworkError, match="at least 1 class"):
        built("resnet8", num_classes=0)


@pytest.mark.parametrize("name", ["resnet8", "abn_resnet8"])
def test_network_classifiers_are_computed_in_float32_under_autocast(name):
    network = built(name).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        output = network(images)
    for logits in (output.logits, *output.extra_hard_logits):
        assert logits.dtype == torch.float32
        assert not torch.equal(logits, logits.bfloat16().float())
