import subprocess
import sys

import pytest
import torch

from kdhpc.config.networks import NETWORKS
from kdhpc.config.schema import NetworkConfig
from kdhpc.errors import ConfigError, NetworkError
from kdhpc.networks.build import build_network
from kdhpc.networks.names import architecture, check_network, check_normalisation, map_side


def test_names_without_torch_are_importable():
    code = "import sys; import kdhpc.networks.names; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_networks_each_plain_name_has_an_attention_branch_network():
    plain = {name for name in NETWORKS if not name.startswith("abn_")}
    cifar = {"resnet8", "resnet14", "resnet20", "resnet26", "resnet32", "resnet44", "resnet56", "resnet110"}
    assert plain == cifar | {"wrn16_2", "wrn28_2", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"}
    assert set(NETWORKS) == plain | {f"abn_{name}" for name in plain}


@pytest.mark.parametrize(
    ("name", "image_size", "side"),
    [
        ("resnet18", 224, 7),
        ("abn_resnet18", 224, 14),
        ("resnet20", 32, 8),
        ("abn_resnet20", 32, 16),
        ("resnet20", 28, 7),
        ("abn_resnet20", 28, 14),
        ("resnet8", 30, 8),
        ("resnet50", 33, 2),
    ],
)
def test_map_side_of_known_sizes(name, image_size, side):
    assert map_side(name, image_size) == side


def test_check_network_crop_larger_than_the_map_names_both_sizes():
    with pytest.raises(NetworkError, match=r"crop is 11x11.*resnet20 at dataset.image_size=32 is 8x8"):
        check_network(NetworkConfig(name="resnet20", crops=(3, 11)), 32)


def test_check_network_unknown_name_gives_the_nearest():
    with pytest.raises(NetworkError, match="unknown network 'resnt20': did you mean 'resnet20'"):
        check_network(NetworkConfig(name="resnt20", crops=(3,)), 32)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet21", "did you mean 'resnet32', 'resnet26', 'resnet20'? allowed: abn_resnet101"),
        ("mobilenet_v3_small", "did you mean 'torchvision/mobilenet_v3_small'? allowed: "),
        ("TIMM/resnet18", "did you mean 'timm/resnet18'? allowed: torchvision/NAME, timm/NAME, module:Name"),
        ("torchvison/", "did you mean 'torchvision/NAME'? allowed: "),
        ("my_module.Net", "': allowed: abn_resnet101"),
    ],
)
def test_unknown_network_is_looked_for_in_the_right_library(name: str, said: str) -> None:
    with pytest.raises(NetworkError) as raised:
        check_network(NetworkConfig(name=name), 32)
    assert said in str(raised.value)


def test_check_network_attention_option_of_a_plain_network_is_refused():
    with pytest.raises(NetworkError, match="residual_attention=False has no meaning for resnet20"):
        check_network(NetworkConfig(name="resnet20", crops=(3,), residual_attention=False), 32)


@pytest.mark.parametrize(
    ("name", "size"), [("resnet18", 32), ("abn_resnet18", 32), ("resnet20", 4), ("abn_resnet8", 4)]
)
def test_check_normalisation_refuses_what_batch_norm_cannot_learn_from(name, size):
    """Against torch itself: a batch of one image, at that size and at the next one."""
    for batch_size, image_size in ((1, size), (2, size), (1, size + 1)):
        network = build_network(NetworkConfig(name=name, crops=(1,)), num_classes=2, image_size=image_size).train()
        images = torch.zeros(batch_size, 3, image_size, image_size)
        if (batch_size, image_size) == (1, size):
            with pytest.raises(ValueError, match="more than 1 value per channel"):
                network(images)
            with pytest.raises(ConfigError, match=rf"training\.batch_size=1 .* last stage of {name}, 1x1 at"):
                check_normalisation(name, image_size, batch_size)
        else:
            network(images)
            check_normalisation(name, image_size, batch_size)


def test_check_normalisation_of_one_needs_two_images():
    with pytest.raises(ConfigError, match="in the gate of ONE"):
        check_normalisation("resnet20", 32, 1, single_value="the gate of ONE")
    check_normalisation("resnet20", 32, 2, single_value="the gate of ONE")


def test_network_of_a_process_is_refused_with_the_way_on() -> None:
    with pytest.raises(NetworkError, match="is a user's own, which only the Python that has it knows: go on there"):
        architecture("MyNet-0123abcd")
