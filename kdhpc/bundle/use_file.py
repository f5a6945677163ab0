"""The text of ``use.py``: a bundle's own program, which classifies image files without kdhpc.

It has two halves. The first makes a network's input from an image, and is the same in every bundle. The second loads
and runs the networks. A bundle is checked with the functions ``load`` and ``run`` of its own ``use.py``.
"""

_HEAD = '''\
"""Classify images with the networks in this folder: python use.py IMAGE [IMAGE ...]

It needs NEEDS, and for reading images numpy and pillow. README.md says what the networks are.
"""

import json
import sys
from pathlib import Path

import numpy as np
'''

_IMAGES = '''
HERE = Path(__file__).resolve().parent
CLASSES = json.loads((HERE / "classes.json").read_text(encoding="utf-8"))
STEPS = json.loads((HERE / "preprocessing.json").read_text(encoding="utf-8"))


def preprocess(path):
    """The networks' input of an image file, float32 (3, S, S). preprocessing.json says each step in words."""
    from PIL import Image, ImageOps

    with Image.open(path) as opened:
        if opened.width * opened.height > 1 << 27:
            raise ValueError("it has more than 134,217,728 pixels")
        image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I"):  # Grey with 16 bits: 0 is black, 65,535 white.
        if np.asarray(image).max() < 4096:
            raise ValueError("its 16-bit pixels are all below 4,096 of 65,535, which is black: scale them")
        image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert(STEPS["mode"])
    original = (image.height, image.width)
    stored = (STEPS["stored"]["height"], STEPS["stored"]["width"])
    if original != stored:
        image = image.resize(stored[::-1], Image.Resampling.BICUBIC)
    pixels = np.asarray(image, dtype=np.float64).reshape(*stored, -1)
    side = STEPS["crop"]["side"]
    if STEPS["crop"]["kind"] == "centre_of_resized":
        short = STEPS["crop"]["short_side"]
        resized = [short * extent // min(original) for extent in original]
        rows, columns = (
            _filter(round((new - side) / 2) * old / new, side * old / new, old, side)
            for new, old in zip(resized, stored)
        )
        pixels = np.einsum("sh,tw,hwc->stc", rows, columns, pixels, optimize=True)
    else:
        first = [(extent - side) // 2 for extent in stored]
        outside = [(max(0, -at), max(0, side + at - extent)) for at, extent in zip(first, stored)]
        pixels = np.pad(pixels, [*outside, (0, 0)], mode=STEPS["crop"]["outside"])
        top, left = (max(0, at) for at in first)
        pixels = pixels[top : top + side, left : left + side]
    values = (pixels / STEPS["divide_by"] - STEPS["mean"]) / STEPS["std"]  # One channel becomes three.
    return np.ascontiguousarray(values.transpose(2, 0, 1), dtype=np.float32)


def _filter(start, extent, size, side):
    """How much each of `size` pixels counts in each of `side` new ones: bilinear with antialiasing, (side, size)."""
    zoom = extent / side
    centres = start + (np.arange(side) + 0.5) * zoom
    distances = np.abs(np.arange(size) + 0.5 - centres[:, None]) / max(1.0, zoom)
    weights = np.clip(1 - distances, 0, None)
    return weights / weights.sum(axis=1, keepdims=True)
'''

_LOADING = {
    "torch": '''
import torch


def load():
    """The networks: a module, from images to the logits of each node and the probabilities of the ensemble."""
    return torch.export.load(str(HERE / "model.pt2")).module()


def run(model, images):
    """From float32 (N, 3, S, S) to logits (N, M, C) of the M nodes, and probabilities (N, C) of the ensemble."""
    with torch.no_grad():
        logits, probabilities = model(torch.as_tensor(images))
    return logits.numpy(), probabilities.numpy()
''',
    "onnx": '''
import onnxruntime


def load():
    """The networks: a session, from images to the logits of each node and the probabilities of the ensemble."""
    return onnxruntime.InferenceSession(str(HERE / "model.onnx"), providers=["CPUExecutionProvider"])


def run(model, images):
    """From float32 (N, 3, S, S) to logits (N, M, C) of the M nodes, and probabilities (N, C) of the ensemble."""
    logits, probabilities = model.run(["logits", "probabilities"], {"images": np.asarray(images, dtype=np.float32)})
    return logits, probabilities
''',
    "safetensors": '''
import torch
from safetensors.torch import load_file

CONFIG = json.loads((HERE / "config.json").read_text(encoding="utf-8"))


def load():
    """The networks, each with its weights."""
    return [_network(one) for one in CONFIG["networks"]]


def _network(one):
    weights = load_file(HERE / one["file"])
    library = one["library"]
    if library is None:
        return _network_of_kdhpc(one, weights)
    options = {"num_classes": CONFIG["num_classes"], **library["options"]}
    if library["package"] == "torchvision":
        import torchvision

        network = torchvision.models.get_model(library["name"], weights=None, **options)
    else:
        import timm

        network = timm.create_model(library["name"], pretrained=False, **options)
    network.load_state_dict(weights)
    return network.eval()


def _network_of_kdhpc(one, weights):
    from kdhpc.config.schema import NetworkConfig
    from kdhpc.networks.build import build_network, named_for
    from kdhpc.networks.one import build_one

    config = NetworkConfig(**one["kdhpc"])
    if one["branches"]:
        network = build_one(config, num_branches=one["branches"], num_classes=CONFIG["num_classes"])
    else:
        network = build_network(config, num_classes=CONFIG["num_classes"], image_size=CONFIG["image_size"])
    network.load_state_dict(named_for(network, weights))
    return network.eval()


def run(model, images):
    """From float32 (N, 3, S, S) to logits (N, M, C) of the M nodes, and probabilities (N, C) of the ensemble."""
    images = torch.as_tensor(images)
    with torch.no_grad():
        outputs = [network(images) for network in model]
    if hasattr(outputs[0], "branch_logits_BNC"):
        (output,) = outputs
        logits, ensemble = output.branch_logits_BNC, output.ensemble_logits_NC
    else:
        logits = torch.stack([getattr(output, "logits", output) for output in outputs])
        ensemble = logits.mean(dim=0)
    return logits.transpose(0, 1).numpy(), ensemble.softmax(dim=1).numpy()
''',
    "timm": '''
import timm
import torch


def load():
    """The networks: of each folder with a config.json, in the order of the nodes."""
    folders = [HERE] if (HERE / "config.json").exists() else _node_folders()
    return [timm.create_model(f"local-dir:{folder}", pretrained=True).eval() for folder in folders]


def _node_folders():
    return sorted((path.parent for path in HERE.glob("node*/config.json")), key=lambda folder: int(folder.name[4:]))


def run(model, images):
    """From float32 (N, 3, S, S) to logits (N, M, C) of the M nodes, and probabilities (N, C) of the ensemble."""
    images = torch.as_tensor(images)
    with torch.no_grad():
        logits = torch.stack([network(images) for network in model], dim=1)
    return logits.numpy(), logits.mean(dim=1).softmax(dim=1).numpy()
''',
}

_MAIN = '''

def main():
    """Print the five most probable classes of each image, and what each node takes it for."""
    if len(sys.argv) < 2:
        sys.exit("usage: python use.py IMAGE [IMAGE ...]")
    model = load()
    failed = False
    for path in sys.argv[1:]:
        try:
            image = preprocess(path)
        except Exception as exc:  # A file may be broken in any way, and stops no other one.
            print(f"{path}: {type(exc).__name__}: {exc}", file=sys.stderr)
            failed = True
            continue
        logits, probabilities = run(model, image[None])
        print(path)
        for label in probabilities[0].argsort()[::-1][:5]:
            print(f"  {100 * probabilities[0, label]:6.2f} %  {CLASSES[label]}")
        if logits.shape[1] > 1:
            print(f"  nodes: {', '.join(CLASSES[label] for label in logits[0].argmax(axis=1))}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
'''


def use_file(name: str, needs: str) -> str:
    """The content of ``use.py``.

    Args:
        name: Of the bundle's format.
        needs: What loading and running need, in words.
    """
    imports, _, functions = _LOADING[name].strip("\n").partition("\n\n")
    return f"{_HEAD.replace('NEEDS', needs)}{imports}\n{_IMAGES}\n\n{functions.strip()}\n{_MAIN}"
