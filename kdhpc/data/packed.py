"""The packed form of a data set: one folder, memory-mapped arrays, and a manifest that says what they are.

``<data>/<name>/manifest.json`` and, for each half, ``train/`` or ``test/`` with ``images.npy`` (uint8, N x H x W x C),
``labels.npy`` (int64, N) and ``sizes.npy`` (int32, N x 2: height and width before any resizing). Images of many sizes
are stored resized to one square; their original sizes keep the geometry of crops. Training reads nothing but this.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeVar

import dacite
import numpy as np
from numpy.typing import NDArray

from kdhpc.data.origin import Origin
from kdhpc.data.progress import Progress
from kdhpc.errors import DataError, nearest

FORMAT = "kdhpc-packed"
VERSION = 1
MANIFEST = "manifest.json"

Half = Literal["train", "test"]
HALVES: tuple[Half, ...] = ("train", "test")
ARRAYS = ("images", "labels", "sizes")

_HASHED_AT_ONCE = 1 << 22
_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """One file of the packed form, as it was written."""

    path: str
    """Below the data set's folder."""
    bytes: int
    """Its length."""
    sha256: str
    """Of its content."""


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """An image that could not be decoded and was left out on request."""

    half: Half
    """The half that it would be in."""
    name: str
    """Its path in the source."""
    reason: str
    """What was wrong with it."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a packed data set is."""

    format: str
    """Always ``kdhpc-packed``."""
    version: int
    """Of the packed form."""
    name: str
    """As given to ``kdhpc data prepare``."""
    reader: str
    """The reader that it was made with."""
    image_shape: tuple[int, int, int]
    """Stored height, width and channels (1: grey, 3: red, green, blue)."""
    resized: bool
    """Images were resized to that shape; else they are as they came."""
    classes: tuple[str, ...]
    """Names, by label."""
    train: int
    """Training images."""
    test: int
    """Test images."""
    skipped: tuple[Skipped, ...]
    """Images left out because they could not be decoded."""
    files: tuple[FileRecord, ...]
    """All files beside the manifest."""
    checksum: str
    """sha256 that identifies the content: classes and files, whatever the name."""
    origin: Origin | None = None
    """What it was made from; none: from before this was written down."""

    def size_of(self, half: Half) -> int:
        """Images in a half."""
        return self.train if half == "train" else self.test

    def to_json(self) -> str:
        """The content of ``manifest.json``."""
        return json.dumps(asdict(self), indent=2) + "\n"


@dataclass(frozen=True, kw_only=True)
class PackedSplit:
    """One half of a data set, memory-mapped, read-only."""

    images: NDArray[np.uint8]
    """(N, H, W, C)."""
    labels: NDArray[np.int64]
    """(N,), 0 to classes - 1."""
    sizes: NDArray[np.int32]
    """(N, 2), height and width of each image before it was resized."""


@dataclass(frozen=True, kw_only=True)
class PackedDataset:
    """A packed data set, open."""

    manifest: Manifest
    """What it is."""
    train: PackedSplit
    """The official training half."""
    test: PackedSplit
    """The official test half: a search never sees it."""

    @classmethod
    def open(cls, folder: Path) -> "PackedDataset":
        """Opens a data set: checks version, presence and length of every file, but does not hash them.

        Raises:
            DataError: not prepared, of another version, or damaged.
        """
        manifest = read_manifest(folder)
        check_files(folder, manifest)
        return cls(
            manifest=manifest,
            train=_open_split(folder, manifest, "train"),
            test=_open_split(folder, manifest, "test"),
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, by label."""
        return self.manifest.classes

    @property
    def checksum(self) -> str:
        """Identifies the content."""
        return self.manifest.checksum


def prepared_names(root: Path) -> list[str]:
    """Names of the data sets that are prepared below a folder, damaged ones included."""
    return sorted(path.parent.name for path in root.glob(f"[!.]*/{MANIFEST}"))


def read_manifest(folder: Path) -> Manifest:
    """Reads what a data set is.

    Raises:
        DataError: not prepared, not a manifest, or of another version.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"data set {folder.name!r} is not prepared in {folder.parent}: "
            f"{nearest(folder.name, prepared_names(folder.parent))}; "
            f"to prepare it: kdhpc data prepare READER SOURCE --name {folder.name}"
        ) from None
    except (OSError, ValueError) as exc:
        raise DataError(f"{path} is damaged ({exc}): {_again(folder)}") from exc
    _check_version(content, path)
    try:
        return dacite.from_dict(Manifest, content, dacite.Config(strict=True, cast=[tuple]))
    except dacite.DaciteError as exc:
        raise DataError(f"{path} is damaged ({exc}): {_again(folder)}") from exc


def check_files(folder: Path, manifest: Manifest) -> None:
    """Checks that every file is there and as long as it was written.

    Raises:
        DataError: with the file, its length and the length that it should have.
    """
    for record in manifest.files:
        path = folder / record.path
        found = path.stat().st_size if path.is_file() else None
        if found is None:
            raise DataError(f"{path} is missing: {_again(folder)}")
        if found != record.bytes:
            raise DataError(f"{path} has {found:,} bytes, should have {record.bytes:,}: {_again(folder)}")


def check_content(folder: Path, progress: Progress) -> Manifest:
    """Hashes every file and compares with the manifest.

    Returns:
        The manifest, when all is well.

    Raises:
        DataError: with the file whose content has changed.
    """
    manifest = PackedDataset.open(folder).manifest
    progress.start(f"checking {manifest.name}", sum(record.bytes for record in manifest.files))
    for record in manifest.files:
        if _sha256(folder / record.path, progress) != record.sha256:
            raise DataError(f"{folder / record.path} has changed since it was written: {_again(folder)}")
    if content_checksum(manifest.classes, manifest.files) != manifest.checksum:
        raise DataError(f"{folder / MANIFEST} has changed since it was written: {_again(folder)}")
    return manifest


def content_checksum(classes: tuple[str, ...], files: tuple[FileRecord, ...]) -> str:
    """sha256 over the classes and the files' own checksums."""
    content = [list(classes), [[record.path, record.sha256] for record in files]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _check_version(content: object, path: Path) -> None:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{path} is not the manifest of a packed data set: {_again(path.parent)}")
    if content.get("version") != VERSION:
        raise DataError(
            f"{path} has version {content.get('version')} of the packed form, this kdhpc reads version {VERSION}: "
            f"{_again(path.parent)}"
        )


def _open_split(folder: Path, manifest: Manifest, half: Half) -> PackedSplit:
    num = manifest.size_of(half)
    return PackedSplit(
        images=_open_array(folder, half, "images", (num, *manifest.image_shape), np.uint8),
        labels=_open_array(folder, half, "labels", (num,), np.int64),
        sizes=_open_array(folder, half, "sizes", (num, 2), np.int32),
    )


def _open_array(folder: Path, half: Half, name: str, shape: tuple[int, ...], dtype: type[_Scalar]) -> NDArray[_Scalar]:
    path = folder / half / f"{name}.npy"
    try:
        array: NDArray[_Scalar] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as exc:
        raise DataError(f"{path} is damaged ({exc}): {_again(folder)}") from exc
    if array.shape != shape or array.dtype != dtype:
        raise DataError(
            f"{path} holds {array.dtype} {array.shape}, the manifest says {np.dtype(dtype)} {shape}: {_again(folder)}"
        )
    return array


def _sha256(path: Path, progress: Progress) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASHED_AT_ONCE):
            digest.update(block)
            progress.advance(len(block))
    return digest.hexdigest()


def _again(folder: Path) -> str:
    return f"prepare it again (kdhpc data prepare READER SOURCE --name {folder.name} --force)"
