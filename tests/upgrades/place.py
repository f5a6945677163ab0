"""Where fixtures are made, and where they go on: a folder with one data set and the configs, the same for ever.

What is here must not change: the packed images must have the checksum that the fixtures know, on every machine and
with every version of NumPy and Pillow. So pixels are integers from SHAKE-256, and PNG keeps them.
"""

import hashlib
import json
import os
import platform
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sqlalchemy import create_engine, text

from tests.workspace import Workspace

STUDY = "tiny"
TRAIN = ("dataset=tiny", "network=tiny", "training=tiny", "device=here")
"""Overrides of every final training."""

_FILES = {
    "dataset/tiny.yaml": """\
name: tiny
image_size: 16
augmentation: pad_crop
pad: 2
validation_fraction: 0.5
""",
    "network/tiny.yaml": """\
name: resnet8
crops: [3]
""",
    "training/tiny.yaml": """\
epochs: 16
batch_size: 8
learning_rate: 0.05
milestones: [12]
""",
    # Numbers are compared with those of other runs: no mode that is chosen by the clock.
    "device/here.yaml": """\
device: cpu
precision: float32
mode: eager
threads: 1
""",
    "study/tiny.yaml": """\
# @package _global_
defaults:
  - override /dataset: tiny
  - override /network: tiny
  - override /training: tiny
  - override /device: here
study:
  num_nodes: 2
  trials: 9
  seed: 5
worker:
  lease_s: 20
  renew_s: 5
  checkpoint_every_s: 1
""",
}
_CLASSES = (("dark", 60), ("middle", 110), ("light", 160))
_HALVES = (("train", 32), ("test", 8))
_SIDE = 16


def make_place(folder: Path) -> Workspace:
    """A folder with the data set packed and the configs written."""
    write_images(folder / "images")
    for name, content in _FILES.items():
        (folder / "configs" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "configs" / name).write_text(content)
    place = Workspace(folder, os.environ)
    prepared = place.run("data", "prepare", "folder", "images", "--name", "tiny", "--size", str(_SIDE))
    assert prepared.returncode == 0, prepared.stderr
    return place


def write_images(folder: Path) -> None:
    """Three classes that differ in brightness, and overlap."""
    for half, count in _HALVES:
        for label, mean in _CLASSES:
            (folder / half / label).mkdir(parents=True)
            for index in range(count):
                noise = hashlib.shake_256(f"{half} {label} {index}".encode()).digest(_SIDE * _SIDE * 3)
                # An image is darker or lighter than its class as a whole, too: some are on the wrong side.
                shift = noise[0] // 2 - 64
                pixels = (np.frombuffer(noise, np.uint8).astype(int) - 128) // 2 + mean + shift
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8).reshape(_SIDE, _SIDE, 3)).save(
                    folder / half / label / f"{index}.png"
                )


def restore_database(url: str, sql: str) -> None:
    """Run a fixture's SQL in a database without tables."""
    engine = create_engine(url)
    with engine.begin() as connection, connection.connection.cursor() as cursor:
        cursor.execute("SET LOCAL check_function_bodies = false")  # They stand before the tables that they use.
        cursor.execute(sql)
    engine.dispose()


def expire_leases(url: str) -> None:
    """Let the leases run out: they began long ago, but their database was restored into a server that just started."""
    engine = create_engine(url)
    with engine.begin() as connection:
        ago = "now() - interval '1 day'"
        connection.execute(text(f"UPDATE kdhpc_slots SET renewed = {ago}, expires = {ago}"))
    engine.dispose()


def restore_files(fixture: Path, place: Workspace) -> None:
    """A fixture's files, as if they had been written there."""
    shutil.copytree(fixture / "runs", place.runs)
    shutil.copy(fixture / f"{STUDY}-best.json", place.folder)
    for path in place.runs.rglob("*"):
        if path.suffix in (".json", ".yaml"):
            path.write_text(path.read_text().replace("@FOLDER@", str(place.folder)))


def what_rounds() -> dict[str, object]:
    """What the last bits of a training on a CPU depend on, beside its settings."""
    return {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def accuracies(metrics: Path) -> list[float]:
    """Of the ensemble, at each epoch of a log at which it was scored."""
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    found = (json.loads(line)["ensemble_accuracy"] for line in lines)
    return [accuracy for accuracy in found if accuracy is not None]
