"""Each format gives what the run gives, read by nothing but the packages that it says it needs."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from kdhpc.bundle.formats import FORMATS
from kdhpc.config.schema import NetworkConfig
from kdhpc.networks.build import build_network, exported_weights
from tests.bundle.conftest import expected, export

_SITE = next(path for path in sys.path if path.endswith("site-packages"))
# Without site, nothing that is installed as a link to its sources can be imported.
_ALONE = f"""
import sys
sys.path.append({_SITE!r})
import importlib.util, runpy
assert importlib.util.find_spec("kdhpc.errors") is None
import numpy as np
program = runpy.run_path(sys.argv[1])
model, images = program["load"](), np.load(sys.argv[2])
found = [program["run"](model, part) for part in (images[:1], images)]
np.savez(sys.argv[3], logits=found[1][0], probabilities=found[1][1], one=found[0][0])
unwanted = [name for name in sys.modules if name in sys.argv[4:] or name.startswith("kdhpc.")]
assert not unwanted, unwanted
"""


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def run_alone(folder: Path, images: torch.Tensor, *unwanted: str) -> dict[str, np.ndarray]:
    """What ``use.py`` of a bundle gives in a Python that has never heard of kdhpc, in another folder."""
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    np.save(elsewhere / "images.npy", images.numpy())
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "KDHPC"))}
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _ALONE, folder / "use.py", "images.npy", "found.npz", *unwanted],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(np.load(elsewhere / "found.npz"))


def same(found: np.ndarray, wanted: torch.Tensor) -> bool:
    assert found.shape == tuple(wanted.shape)
    return bool(np.abs(found - wanted.numpy()).max() <= 1e-5)


def test_torch_bundle_runs_with_torch_alone(runs, tmp_path, images):
    """An ABN and a plain network. The folder is whole, and says nothing of where it was made."""
    bundle = export(runs / "mixed/seed0", "torch", tmp_path / "bundle")
    names = {path.name for path in bundle.files}
    assert names == {
        *("README.md", "classes.json", "graph.json", "graph.png", "graph.svg", "model.pt2", "preprocessing.json"),
        *("provenance.json", "use.py"),
    }
    assert all(path.is_file() for path in bundle.files)
    logits, probabilities = expected(runs / "mixed/seed0", images)
    found = run_alone(tmp_path / "bundle", images, "torchvision", "timm", "onnxruntime")
    assert same(found["logits"], logits)
    assert same(found["probabilities"], probabilities)
    assert same(found["one"], logits[:1])
    here = (str(tmp_path).encode(), str(Path(__file__).parents[2]).encode())
    assert not any(place in path.read_bytes() for path in bundle.files for place in here)
    head = yaml.safe_load((tmp_path / "bundle/README.md").read_text(encoding="utf-8").split("---\n")[1])
    assert head["pipeline_tag"] == "image-classification"
    assert "license" not in head
    origin = json.loads((tmp_path / "bundle/provenance.json").read_text(encoding="utf-8"))
    assert origin["checked"]["kind"] == "test"
    assert origin["networks"] == ["abn_resnet8", "resnet8"]


def test_onnx_bundle_runs_without_torch(runs, tmp_path, images):
    """A branched network, whose ensemble is no mean of its nodes."""
    bundle = export(runs / "branched/seed0", "onnx", tmp_path / "bundle")
    logits, probabilities = expected(runs / "branched/seed0", images)
    found = run_alone(tmp_path / "bundle", images, "torch", "timm", "onnx")
    assert same(found["logits"], logits)
    assert same(found["probabilities"], probabilities)
    assert same(found["one"], logits[:1])
    model = (tmp_path / "bundle/model.onnx").read_bytes()
    assert str(Path(__file__).parents[2]).encode() not in model
    assert "graph.json" not in {path.name for path in bundle.files}


@pytest.mark.parametrize("name", ["mixed", "branched", "rotated", "theirs"])
def test_safetensors_bundle_says_how_to_build_each_network(name, runs, tmp_path, images):
    """use.py builds networks of libraries by these libraries, and others by kdhpc."""
    export(runs / name / "seed0", "safetensors", tmp_path / "bundle")
    program = runpy.run_path(str(tmp_path / "bundle/use.py"))
    found = program["run"](program["load"](), images.numpy())
    for one, wanted in zip(found, expected(runs / name / "seed0", images), strict=True):
        assert same(one, wanted)
    networks = json.loads((tmp_path / "bundle/config.json").read_text(encoding="utf-8"))["networks"]
    assert [one["library"] and one["library"]["package"] for one in networks] == {
        "mixed": [None, None],
        "branched": [None],
        "rotated": [None],
        "theirs": ["timm", "timm"],
    }[name]
    needed = "timm" if name == "theirs" else "kdhpc"
    card = (tmp_path / "bundle/README.md").read_text(encoding="utf-8")
    assert f"It needs torch and safetensors, and of its networks {needed}. `use.py`" in card


def test_use_file_names_what_it_cannot_read_and_goes_on(runs, tmp_path):
    export(runs / "theirs/seed0", "torch", tmp_path / "bundle")
    Image.new("RGB", (20, 20), "red").save(tmp_path / "good.png")
    Image.fromarray(np.full((20, 20), 3000, dtype=np.uint16)).save(tmp_path / "dark.png")
    (tmp_path / "text.jpg").write_text("no image", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "bundle/use.py", "nosuch.jpg", "text.jpg", "dark.png", ".", "good.png"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},  # torch 2.11 has some on loading.
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout.splitlines()[0] == "good.png"
    said = [line.split(": ")[:2] for line in done.stderr.splitlines()]
    assert said == [
        ["nosuch.jpg", "FileNotFoundError"],
        ["text.jpg", "UnidentifiedImageError"],
        ["dark.png", "ValueError"],
        [".", "IsADirectoryError"],
    ]


def test_timm_bundle_is_read_by_timm(runs, tmp_path, images):
    timm = pytest.importorskip("timm")
    export(runs / "theirs/seed0", "timm", tmp_path / "both")
    export(runs / "theirs/seed0", "timm", tmp_path / "vit", node=1)
    logits, _ = expected(runs / "theirs/seed0", images)
    for folder, node in ((tmp_path / "both/node1", 0), (tmp_path / "both/node2", 1), (tmp_path / "vit", 1)):
        network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        with torch.no_grad():
            assert same(network(images).numpy(), logits[:, node])
        assert list(network.pretrained_cfg["std"]) == [0.2, 0.2, 0.2]
        assert tuple(network.pretrained_cfg["input_size"]) == (3, 16, 16)
    # Of images so small, neither makes an attention map.
    assert export(runs / "theirs/seed0", "torch", tmp_path / "program").checked.logits == 0


def test_residual_networks_of_kdhpc_and_torchvision_are_those_of_timm(images):
    """Checked by their logits, as each export does again."""
    timm = pytest.importorskip("timm")
    for name in ("resnet18", "torchvision/resnet50"):
        network = build_network(NetworkConfig(name=name), num_classes=3, image_size=32).eval()
        theirs = timm.create_model(name.rpartition("/")[2], num_classes=3).eval()
        theirs.load_state_dict(exported_weights(network))
        with torch.no_grad():
            assert torch.allclose(network(images).logits, theirs(images), atol=1e-5)


def test_one_node_alone_has_its_own_logits_and_softmax(runs, tmp_path, images):
    export(runs / "mixed/seed0", "safetensors", tmp_path / "bundle", node=1)
    assert not (tmp_path / "bundle/node1.safetensors").exists()
    assert (
        load_file(tmp_path / "bundle/node2.safetensors").keys()
        == load_file(runs / "mixed/seed0/node2.safetensors").keys()
    )
    program = runpy.run_path(str(tmp_path / "bundle/use.py"))
    found = program["run"](program["load"](), images.numpy())
    logits, _ = expected(runs / "mixed/seed0", images)
    assert same(found[0], logits[:, 1:])
    assert same(found[1], logits[:, 1].softmax(dim=1))
    assert "node 2 of 2" in (tmp_path / "bundle/README.md").read_text(encoding="utf-8").lower()


def test_every_format_has_an_extra_of_its_name_or_needs_none():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    for name, one in FORMATS.items():
        assert not one.packages or f"\n{name} = [" in text
