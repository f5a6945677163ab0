"""Predicting the classes of image files, in batches. A file that cannot be used stops no other one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kdhpc.data.decode import Decoded
from kdhpc.data.names import shown
from kdhpc.data.transform import undo_normalisation
from kdhpc.errors import DataError, StorageError
from kdhpc.inference.ensemble import Ensemble, EnsembleOutput
from kdhpc.inference.ranking import Classification
from kdhpc.training.device_errors import device_errors_in_words

_NOT_FINITE = "the networks give infinite numbers, or none, for it"


@dataclass(frozen=True, kw_only=True)
class SeenImage:
    """An image as the networks see it, and where they look."""

    image: NDArray[np.float32]
    """(S, S, 3), values from 0 to 1: resized and cropped, not normalised."""
    maps: tuple[NDArray[np.float32], ...]
    """The attention map of each node: (h, w), 0 or more."""


@dataclass(frozen=True, kw_only=True)
class FileResult:
    """What came of one file: its classes, or why there are none."""

    path: Path
    """The file."""
    classes: Classification | None = None
    """The most probable classes; None: it failed."""
    failure: str = ""
    """Why it failed, in a few words; empty: it did not."""
    seen: SeenImage | None = None
    """What the networks saw; None: nobody asked, or it failed."""


def predict_files(
    ensemble: Ensemble, paths: Sequence[Path], *, top: int, batch_size: int, with_maps: bool
) -> Iterator[FileResult]:
    """The results of all files, in their order.

    Args:
        ensemble: The networks.
        paths: The files.
        top: Number of classes of each.
        batch_size: Most images in a forward pass.
        with_maps: Whether results have what the networks saw.

    Raises:
        DeviceError: the GPU's memory is used up, or this process cannot use the GPU any more.
    """
    waiting: list[FileResult | tuple[Path, Decoded]] = []
    num_decoded = 0
    for path in paths:
        read = _read(ensemble, path)
        num_decoded += not isinstance(read, FileResult)
        waiting.append(read)
        if num_decoded == batch_size:
            yield from _results(ensemble, waiting, top, with_maps)
            waiting, num_decoded = [], 0
    if waiting:
        yield from _results(ensemble, waiting, top, with_maps)


def _read(ensemble: Ensemble, path: Path) -> FileResult | tuple[Path, Decoded]:
    try:
        return path, ensemble.preprocessing.read(path)
    except DataError as exc:
        return FileResult(path=path, failure=shown(str(exc)))
    except StorageError as exc:
        return FileResult(path=path, failure=shown(str(exc).removeprefix(f"{path} ")))


@device_errors_in_words(less="a smaller --batch")
def _results(
    ensemble: Ensemble, waiting: Sequence[FileResult | tuple[Path, Decoded]], top: int, with_maps: bool
) -> list[FileResult]:
    read = [each for each in waiting if not isinstance(each, FileResult)]
    if not read:
        return [each for each in waiting if isinstance(each, FileResult)]
    batch = ensemble.preprocessing.batch([decoded for _, decoded in read], ensemble.device)
    output = ensemble.outputs(batch)
    seen: list[SeenImage | None] = [None] * len(read)
    if with_maps:
        seen = [*_seen(ensemble, batch, output)]
    each_read = zip(output.is_finite_N.tolist(), ensemble.ranked(output, top), seen, strict=True)

    def result(path: Path) -> FileResult:
        is_finite, classes, looked = next(each_read)
        if not is_finite:
            return FileResult(path=path, failure=_NOT_FINITE)
        return FileResult(path=path, classes=classes, seen=looked)

    return [each if isinstance(each, FileResult) else result(each[0]) for each in waiting]


def _seen(ensemble: Ensemble, batch: Tensor, output: EnsembleOutput) -> Iterator[SeenImage]:
    images = undo_normalisation(batch, ensemble.preprocessing.config).permute(0, 2, 3, 1).cpu().numpy()
    maps = [one.float().cpu().numpy() for one in output.maps]
    for index, image in enumerate(images):
        yield SeenImage(image=image, maps=tuple(one[index] for one in maps))
