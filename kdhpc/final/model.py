"""The file ``model.json``, which makes a run usable without its data set: names of the classes, shape of the images."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import dacite

from kdhpc.data.packed import Manifest
from kdhpc.errors import DataError
from kdhpc.files.json_text import parse_json, strict_json
from kdhpc.files.reading import read_whole
from kdhpc.files.writing import write_whole

_FORMAT = "kdhpc-model"
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """Names of the classes, and the shape that images have before the run's transform makes the networks' input."""

    classes: tuple[str, ...]
    """Names of the classes, by label."""
    image_shape: tuple[int, int, int]
    """Height, width and channels (1: grey, 3: red, green, blue) of a stored image."""
    resized: bool
    """Whether the data set's images were resized to that shape; False: its source had them in it."""

    def __post_init__(self) -> None:
        if not self.classes or min(self.image_shape) < 1 or self.image_shape[2] not in (1, 3):
            raise ValueError(f"{len(self.classes)} classes, images of shape {self.image_shape}")

    @classmethod
    def of(cls, manifest: Manifest) -> "ModelCard":
        """The model card for networks that are trained on a data set."""
        return cls(classes=manifest.classes, image_shape=manifest.image_shape, resized=manifest.resized)


def write_model_card(card: ModelCard, path: Path) -> None:
    """Write a model card atomically.

    Raises:
        StorageError: the file system refuses.
    """
    document = {"format": _FORMAT, "version": _VERSION, **dataclasses.asdict(card)}
    write_whole(path, strict_json(document, indent=2), "\n")


def read_model_card(path: Path) -> ModelCard | None:
    """Read a model card; None: there is no such file, as in a run from before there were model cards.

    Raises:
        DataError: the file is damaged, or of another version.
        StorageError: the file system refuses.
    """
    try:
        document = parse_json(read_whole(path))
        if not isinstance(document, dict) or document.pop("format", None) != _FORMAT:
            raise ValueError("it is no such document")
        if (version := document.pop("version", None)) != _VERSION:
            raise ValueError(f"it has version {version}, this kdhpc reads {_VERSION}")
        return dacite.from_dict(ModelCard, document, dacite.Config(strict=True, cast=[tuple]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError, dacite.DaciteError) as exc:
        raise DataError(
            f"{path} does not say the run's classes ({' '.join(str(exc).split())}): remove it, and they are taken from "
            "its data set"
        ) from exc
