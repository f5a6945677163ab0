"""Networks of libraries and of users' own: which are taken, what makes their maps, and what is refused."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from kdhpc.config import library_names
from kdhpc.config.schema import NetworkConfig
from kdhpc.errors import NetworkError
from kdhpc.networks.build import build_network, exported_weights
from kdhpc.networks.names import check_network, crops_of, map_side
from kdhpc.networks.own import OwnNetworks, own_networks
from kdhpc.training.device import place as placed

SIZE = 12


def place(name):
    return f"tests.networks.toys:{name}"


def built(name, *, image_size=SIZE, layer=None, num_classes=4):
    config = NetworkConfig(name=name, layer=layer)
    return build_network(config, num_classes=num_classes, image_size=image_size)


def check(name, *, image_size=SIZE, compares_maps=False, num_classes=4, **options):
    config = NetworkConfig(name=name, **options)
    check_network(config, image_size, num_classes=num_classes, compares_maps=compares_maps)


def features_of(network, layer, images):
    seen = []
    network.module.get_submodule(layer).register_forward_hook(lambda part, inputs, output: seen.append(output))
    output = network(images)
    return seen[0], output.attention_map


@pytest.mark.parametrize(
    ("name", "image_size", "layer", "side"),
    [
        ("torchvision/mobilenet_v3_small", 28, None, 1),
        ("torchvision/mobilenet_v3_small", 64, "features", 2),
        ("torchvision/vgg11", 32, None, 1),
        ("timm/test_convnext", 96, "norm_pre", 3),
        (place("Small"), SIZE, "norm", 6),
        (place("SharedRelu"), SIZE, "norm", 6),
        (place("Oblong"), SIZE, None, 1),
        (place("Resizing"), SIZE, "norm", 8),
    ],
)
def test_map_comes_from_the_last_spatial_features(name, image_size, layer, side):
    """Not from an earlier layer where those are a single pixel, and not from what pooling blows up."""
    found = own_networks(name).probe(0, image_size, num_classes=4)
    assert (found.num_logits, found.layer, map_side(name, image_size)) == (4, layer, side)


def test_map_of_a_transformer_is_its_grid_of_patches():
    images = torch.rand(2, 3, 48, 48)
    network = built("timm/test_vit", image_size=48).eval()
    tokens, maps = features_of(network, "norm", images)
    assert tokens.shape[1] == 1 + 9
    assert maps.shape == (2, 3, 3)
    torch.testing.assert_close(maps[:, 1, 2], tokens[:, 1 + 3 + 2].square().mean(dim=1))


def test_map_of_channels_last_features_has_their_rows_and_columns():
    network = built("torchvision/swin_t", image_size=64, layer="norm").eval()
    features, maps = features_of(network, "norm", torch.rand(1, 3, 64, 64))
    assert features.shape == (1, 2, 2, 768)
    torch.testing.assert_close(maps, features.square().mean(dim=3))


def test_named_layer_makes_the_map():
    network = built("torchvision/mobilenet_v3_small", image_size=28, layer="features.3").eval()
    features, maps = features_of(network, "features.3", torch.rand(1, 3, 28, 28))
    assert maps.shape == (1, 4, 4)
    torch.testing.assert_close(maps, features.square().mean(dim=1))
    check("torchvision/mobilenet_v3_small", image_size=28, layer="features.3", compares_maps=True)


def test_tokens_without_a_certain_grid_make_no_map():
    """A transformer of one size: whether a token is none of a patch, only its author can say."""
    assert own_networks(place("Tokens")).probe(0, SIZE).source is None
    source = own_networks(place("KnownTokens")).probe(0, SIZE).source
    assert (source.layout, source.side, source.prefix) == ("tokens", 3, 1)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise RuntimeError('no\\nluck')", "RuntimeError: no luck"),
        ("def f(:", "SyntaxError"),
        ("exit(3)", "SystemExit"),
    ],
)
def test_module_that_fails_at_its_import_is_refused_in_one_line(tmp_path, monkeypatch, source, said):
    (tmp_path / "failing_networks.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(NetworkError, match=rf"'failing_networks:Net' cannot be imported \({said}") as raised:
        check("failing_networks:Net")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("torchvision/mobilenet_v3_smal", {}, r"unknown network .* of torchvision: did you mean 'mobilenet_v3_small'"),
        ("timm/resnet10", {}, r"unknown network 'timm/resnet10' of timm: did you mean '\w+'"),
        ("timm/resnet18.nothing", {}, "has no such tag: leave it out"),
        ("keras/resnet18", {}, r"unknown network 'keras/resnet18': .*torchvision/NAME, timm/NAME, module:Name"),
        ("no_such_module:Net", {}, "cannot be imported .*No module named 'no_such_module'"),
        (place("Nothing"), {}, "cannot be imported .*has no attribute 'Nothing'"),
        (place("Smal"), {}, r"has no attribute 'Smal'; did you mean 'Small'"),
        (place("not_callable"), {}, "is a int: name a callable"),
        (
            "torchvision/inception_v3",
            {"image_size": 32},
            r"cannot run on images \(2, 3, 32, 32\): .*(Kernel|Output) size",
        ),
        ("torchvision/maxvit_t", {"image_size": 64}, "cannot be made for images of 64x64: .*not divisible"),
        ("torchvision/vit_b_16", {"image_size": 28}, "cannot be made for images of 28x28|cannot run"),
        (
            place("Counting"),
            {},
            r"changes steps in its forward pass, which a checkpoint does not hold.*register_buffer",
        ),
        (place("HiddenBuffer"), {}, "changes mean in its forward pass"),
        (place("OtherRandom"), {}, "gives other logits for the same images.*draw random numbers with torch alone"),
        (place("TwoOutputs"), {}, r"gives a tuple in training mode: it must give logits, \(2, classes\) for 2 images"),
        (place("Remembering"), {}, "changes mean in evaluation mode, .*change it only if self.training"),
        (place("Grey"), {}, r"\(2, 3, 12, 12\): .*; of grey images, too, a network is given 3 channels"),
        (place("Lazy"), {}, r"has a lazy layer, fc\.weight has no shape yet: give its size"),
        (place("Half"), {}, r"has weights in float16 \(fc\.weight\): make them float32"),
        (place("Extra"), {}, "keeps _extra_state, a int, in its state_dict: .*register_buffer"),
        (place("PixelLogits"), {}, r"gives float32 \(2, 6, 6, 6\) for 2 images: it must give logits"),
        ("torch.nn:Flatten", {}, "has no weights"),
        ("torch.nn:Linear", {}, "cannot be made: .*missing"),
        (place("Small"), {"layer": "convv"}, "network.layer=convv is no layer of .*did you mean 'conv'"),
        (place("Small"), {"layer": "fc"}, "network.layer=fc of .* makes no attention map: it puts out no features"),
        (place("Oblong"), {"layer": "norm"}, r"puts out \(6, 12, 6\) for each image, which is no square"),
        ("resnet20", {"layer": "conv1"}, "network.layer=conv1 has no meaning for resnet20"),
        (place("Small"), {"residual_attention": True}, "has no meaning for .*use an abn_ network"),
        (
            "torchvision/mobilenet_v3_small",
            {"image_size": 32, "compares_maps": True},
            "makes no attention map on images of 32x32",
        ),
        (place("Small"), {"crops": (7,), "compares_maps": True}, r"the largest crop is 7x7, .* is 6x6"),
    ],
)
def test_check_network_says_in_one_line_what_is_wrong(name, options, said):
    with pytest.raises(NetworkError, match=said) as error:
        check(name, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["Small", "Caching"])
def test_network_with_dropout_or_a_cache_is_taken(name):
    check(place(name), compares_maps=True)


@pytest.mark.parametrize(("name", "takes"), [("Viewed", False), ("Small", True)])
def test_network_that_needs_contiguous_memory_gets_it(name, takes):
    """Trainings have images and weights in channels_last, if nothing else is asked for."""
    network = placed(built(place(name)), torch.device("cpu"), channels_last=True)
    assert network.takes_channels_last is takes
    assert network.module.conv.weight.is_contiguous() is not takes
    images = torch.rand(2, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    output = network(images)
    output.logits.sum().backward()
    torch.testing.assert_close(network.eval()(images).logits, network(images.contiguous()).logits)


def test_layer_of_the_map_that_is_not_run_is_named():
    network = built(place("Skipping"))
    with pytest.raises(NetworkError, match="layer norm of Skipping makes the attention map, and was not run in this"):
        network(torch.rand(2, 3, SIZE, SIZE))


def test_dry_run_of_a_library_has_no_numbers_even_if_it_fails():
    """A network may be larger than the memory of who asks."""
    devices = []

    def make(num_classes, image_size):
        module = nn.Sequential(nn.Conv2d(3, 2, image_size), nn.Conv2d(2, 2, 3))
        devices.append(module[0].weight.device.type)
        return module

    networks = OwnNetworks([make], label="huge", of_library=True)
    with pytest.raises(NetworkError, match=r"huge cannot run on images \(2, 3, 12, 12\)"):
        networks.probe(0, SIZE)
    assert devices == ["meta"]


def test_callable_is_given_the_number_of_classes():
    assert built(place("Small"), num_classes=7)(torch.rand(2, 3, SIZE, SIZE)).logits.shape == (2, 7)
    with pytest.raises(NetworkError, match="gives 1000 logits, the data set has 4 classes"):
        check("torchvision.models:squeezenet1_1", image_size=64)


def test_crops_are_the_usual_ones_that_fit():
    assert crops_of(NetworkConfig(name=place("Small")), SIZE) == (3, 5)
    assert crops_of(NetworkConfig(name="torchvision/mobilenet_v3_small"), 64) == (2,)
    assert crops_of(NetworkConfig(name="abn_resnet20"), 32) == (3, 7, 11)


def test_crops_do_not_matter_where_no_map_is_compared():
    check("resnet18", image_size=32, crops=(7,))
    with pytest.raises(NetworkError, match="largest crop is 7x7"):
        check("resnet18", image_size=32, crops=(7,), compares_maps=True)


def test_weights_of_a_library_network_keep_its_names():
    network = built("torchvision/mobilenet_v3_small", image_size=28)
    assert exported_weights(network).keys() == network.module.state_dict().keys()


def test_names_of_libraries_are_theirs():
    timm, models = pytest.importorskip("timm"), pytest.importorskip("torchvision").models
    assert set(library_names.library_names("timm")) >= set(timm.list_models())
    assert set(library_names.library_names("torchvision")) == set(models.list_models(module=models))


def test_library_that_is_not_installed_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setattr(library_names, "_models", lambda library: None)
    with pytest.raises(NetworkError, match=r"need timm, which is not installed: pip install 'kdhpc\[timm\]'"):
        library_names.check_library_name("timm/resnet18")


def test_names_are_checked_without_torch():
    code = (
        "import sys\n"
        "from kdhpc.config.compose import compose_train\n"
        "from kdhpc.networks.names import check_network\n"
        "words = ['dataset=cifar10', 'run.graph=dml', 'network=timm/resnet10t']\n"
        "check_network(compose_train(words).network, 32)\n"
        "assert not {'torch', 'timm', 'torchvision'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_batch_norm_that_needs_its_counter_keeps_it():
    from kdhpc.training.counters import BatchCounters

    network = nn.Sequential(
        nn.Linear(2, 3), nn.BatchNorm1d(3, momentum=None), nn.BatchNorm1d(3, track_running_stats=False)
    )
    BatchCounters([network])
    network(torch.rand(4, 2))
    assert network[1].num_batches_tracked == 1
