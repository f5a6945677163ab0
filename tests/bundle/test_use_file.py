"""``use.py`` makes the same input from an image file as kdhpc does, without kdhpc."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdhpc.bundle.preprocessing import preprocessing_document
from kdhpc.bundle.use_file import use_file
from kdhpc.config.schema import DatasetConfig
from kdhpc.final.model import ModelCard
from kdhpc.inference.preprocessing import Preprocessing

_COMMON = {"name": "some", "validation_fraction": 0.2}
_PHOTOGRAPHS = {**_COMMON, "augmentation": "resized_crop", "image_size": 24, "resize": 30}
_SMALL = {**_COMMON, "augmentation": "pad_crop"}


def photograph(height: int, width: int) -> Image.Image:
    """Smooth, with some noise."""
    rows, columns = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).integers(0, 40, (height, width, 3))
    waves = np.stack([120 + 80 * np.sin(rows / 7), 120 + 80 * np.cos(columns / 9), rows * 90 / height], axis=2)
    return Image.fromarray((waves + noise).clip(0, 255).astype(np.uint8))


def write_images(folder: Path) -> list[Path]:
    exif = Image.Exif()
    exif[0x0112] = 6  # Turned by a quarter.
    photograph(50, 90).save(folder / "turned.jpg", exif=exif)
    photograph(91, 40).save(folder / "narrow.png")
    photograph(40, 40).convert("CMYK").save(folder / "cmyk.jpg")
    clear = photograph(32, 32).convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize((32, 32)))
    clear.save(folder / "clear.png")
    photograph(33, 33).quantize(16).save(folder / "palette.png")
    Image.fromarray(np.linspace(0, 65535, 36 * 36).reshape(36, 36).astype(np.uint16)).save(folder / "deep.png")
    return sorted(folder.iterdir())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "settings",
    [
        _PHOTOGRAPHS,
        {**_PHOTOGRAPHS, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.2, 0.3)},
        {**_SMALL, "image_size": 32},
        {**_SMALL, "image_size": 27, "mean": (0.5,), "std": (0.25,)},
        {**_SMALL, "image_size": 37, "padding_mode": "symmetric"},
        {**_SMALL, "image_size": 36, "padding_mode": "constant"},
    ],
)
def test_input_is_that_of_kdhpc(settings, channels, tmp_path):
    config, card = (
        DatasetConfig(**settings),
        ModelCard(classes=("a", "b"), image_shape=(32, 32, channels), resized=True),
    )
    (tmp_path / "images").mkdir()
    (tmp_path / "preprocessing.json").write_text(json.dumps(preprocessing_document(config, card)), encoding="utf-8")
    (tmp_path / "classes.json").write_text("[]", encoding="utf-8")
    # Its first half alone, which reads images.
    (tmp_path / "use.py").write_text(use_file("safetensors", ""), encoding="utf-8")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    preprocess = runpy.run_path(str(tmp_path / "use.py"))["preprocess"]
    paths = write_images(tmp_path / "images")
    wanted = torch.cat(list(Preprocessing(card=card, config=config)(paths))).numpy()
    for path, one in zip(paths, wanted, strict=True):
        found = preprocess(path)
        assert (found.shape, found.dtype) == (one.shape, np.float32)
        # The 16-bit image may be rounded to the other neighbour where it is halfway.
        assert np.abs(found - one).max() <= (0.03 if path.name == "deep.png" else 1e-5), path.name
