"""``tools/bench data``: training batches from the packed form against a DataLoader of image files."""

import argparse
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from kdhpc.config.schema import DatasetConfig
from kdhpc.data.batches import TrainBatches
from kdhpc.data.packed import PackedDataset
from kdhpc.data.prepare import PrepareRequest, prepare
from kdhpc.data.progress import Progress
from kdhpc.data.readers.registry import reader_of
from kdhpc.errors import DataError
from tools.benchmarks.paired import paired
from tools.benchmarks.report import Cell, Report

_CLASSES = ("even", "odd")
_PHOTOGRAPH = (400, 533)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is measured."""
    parser.add_argument("--images", type=Path, help="a folder of JPEG photographs (default: smooth noise, 400x533)")
    parser.add_argument("--num", type=int, default=320, help="images (default: 320)")
    parser.add_argument("--batch", type=int, default=16, help="default: 16")
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 2], help="of the DataLoader (default: 0 2)")
    parser.add_argument("--rounds", type=int, default=7, help="epochs a side (default: 7)")
    parser.add_argument("--threads", type=int, default=1, help="of torch, in this process (default: 1)")


def run(arguments: argparse.Namespace) -> Report:
    """Measure photographs with random resized crops, and small images with shifts.

    Raises:
        DataError: the folder has no images.
    """
    torch.set_num_threads(arguments.threads)
    rows: list[dict[str, Cell]] = []
    with tempfile.TemporaryDirectory(prefix="kdhpc-bench-") as folder:
        root = Path(folder)
        paths = _photographs(arguments, root / "photograph-files")
        photographs = DatasetConfig(
            name="photographs", image_size=224, augmentation="resized_crop", validation_fraction=0.5,
            scale=(0.08, 1.0), ratio=(0.75, 4 / 3), mean=(0.5,), std=(0.5,),
        )  # fmt: skip
        crop = v2.RandomResizedCrop(224, scale=(0.08, 1.0), ratio=(0.75, 4 / 3), antialias=True)
        rows += _rows("JPEG photographs to 224x224", photographs, paths, crop, root, arguments)
        small = _small_images(arguments.num, root / "small-files")
        shifted = DatasetConfig(
            name="small", image_size=32, augmentation="pad_crop", validation_fraction=0.5, mean=(0.5,), std=(0.5,)
        )
        rows += _rows("PNG 32x32, pad, crop", shifted, small, v2.RandomCrop(32, padding=4), root, arguments)
    return Report(
        title="Training batches on the CPU",
        settings={
            "images": arguments.num,
            "batch": arguments.batch,
            "threads": arguments.threads,
            "clock": "wall time",
        },
        rows=rows,
        notes=(
            "Whole epochs, decoding, augmentation, normalisation and batching included; a DataLoader's workers are "
            f"kept between epochs. Photographs: {arguments.images or 'made up, smooth noise of 400x533, quality 90'}.",
        ),
    )


def _rows(
    title: str, config: DatasetConfig, paths: list[Path], crop: v2.Transform, root: Path, arguments: argparse.Namespace
) -> Iterator[dict[str, Cell]]:
    source, packed = root / f"{config.name}-classes", root / config.name
    _sort_into_classes(paths, source)
    with Path(os.devnull).open("w") as nowhere:
        prepare(
            PrepareRequest(reader=reader_of("folder"), reader_name="folder", source=source, folder=packed),
            Progress(nowhere),
        )
    batches = TrainBatches(
        PackedDataset.open(packed).train, None, config, batch_size=arguments.batch, device=torch.device("cpu"),
        channels_last=True,
    )  # fmt: skip
    epochs = itertools.count(1)

    def ours() -> None:
        for _ in batches.epoch(0, next(epochs)):
            pass

    for workers in arguments.workers:
        loader = _loader(paths, crop, arguments.batch, workers)

        def peer(loader: "DataLoader[tuple[torch.Tensor, int]]" = loader) -> None:
            for _ in loader:
                pass

        measured = paired(ours, peer, rounds=arguments.rounds, clock=time.perf_counter)
        first, third = measured.quartiles
        num = batches.steps_per_epoch * arguments.batch
        middle = arguments.rounds // 2
        yield {
            "images": title,
            "loader's workers": workers,
            "ours, images/s": num / sorted(measured.ours_s)[middle],
            "DataLoader, images/s": num / sorted(measured.peer_s)[middle],
            "ratio": measured.ratio,
            "quartiles": f"{first:.2f}-{third:.2f}",
            "rounds": arguments.rounds,
        }


class _Files(Dataset[tuple[torch.Tensor, int]]):
    """Images that are decoded when they are asked for."""

    def __init__(self, paths: list[Path], crop: v2.Transform) -> None:
        self._paths = paths
        self._transform = v2.Compose(
            [
                crop,
                v2.RandomHorizontalFlip(),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize([0.5] * 3, [0.5] * 3),
            ]
        )

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image: torch.Tensor = self._transform(Image.open(self._paths[index]).convert("RGB"))
        return image, index % 2


def _loader(
    paths: list[Path], crop: v2.Transform, batch_size: int, workers: int
) -> "DataLoader[tuple[torch.Tensor, int]]":
    return DataLoader(
        _Files(paths, crop),
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def _photographs(arguments: argparse.Namespace, folder: Path) -> list[Path]:
    if arguments.images is not None:
        found = sorted(path for path in arguments.images.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
        if len(found) < arguments.num:
            raise DataError(f"{arguments.images} has {len(found)} JPEG files, --num asks for {arguments.num}")
        return found[: arguments.num]
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    height, width = _PHOTOGRAPH
    paths = []
    for index in range(arguments.num):
        coarse = Image.fromarray(rng.integers(0, 256, (25, 33, 3), dtype=np.uint8))
        paths.append(folder / f"{index}.jpg")
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    return paths


def _small_images(num: int, folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    paths = [folder / f"{index}.png" for index in range(num)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    return paths


def _sort_into_classes(paths: list[Path], folder: Path) -> None:
    """As the folder reader wants them; a test half has to be there, too."""
    for half, chosen in (("train", paths), ("test", paths[:2])):
        for label in _CLASSES:
            (folder / half / label).mkdir(parents=True)
        for index, path in enumerate(chosen):
            copied = folder / half / _CLASSES[index % 2] / f"{index}{path.suffix}"
            # The same file in both halves would be refused.
            if half == "train":
                copied.symlink_to(path.absolute())
            else:
                shutil.copyfile(path, copied)
