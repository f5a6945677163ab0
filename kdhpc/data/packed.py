"""The packed form of a data set: one folder, arrays in files, and a manifest that says what they are.

``<data>/<name>/manifest.json`` and, for each half, ``train/`` or ``test/`` with ``images.npy`` (uint8, N x H x W x C),
``labels.npy`` (int64, N) and ``sizes.npy`` (int32, N x 2: height and width before any resizing). Images of many sizes
are stored resized to one square; their original sizes keep the geometry of crops. Training reads nothing but this.
"""

import hashlib
import io
import json
import stat
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

import dacite
import numpy as np
from numpy.typing import DTypeLike, NDArray

from kdhpc.config.schema import check_dataset_name
from kdhpc.data.names import is_text, shown
from kdhpc.data.origin import Origin
from kdhpc.data.progress import Progress
from kdhpc.data.reading import look_at, names_in, open_file, read_file
from kdhpc.data.stored import Images, StoredImages, read_array_header
from kdhpc.errors import ConfigError, DataError, StorageError, nearest
from kdhpc.files.json_text import parse_json, strict_json

FORMAT = "kdhpc-packed"
VERSION = 1
MANIFEST = "manifest.json"

Half = Literal["train", "test"]
HALVES: tuple[Half, ...] = ("train", "test")
ARRAYS = ("images", "labels", "sizes")

_HASHED_AT_ONCE = 1 << 22
_LONGEST_MANIFEST = 1 << 28
_LONGEST_ARRAY = 1 << 36
_Scalar = TypeVar("_Scalar", bound=np.generic)
_Array: TypeAlias = tuple[tuple[int, ...], DTypeLike]
"""Shape and type."""


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
    """What it was made from; None: from before this was written down."""
    altered: tuple[str, ...] = ()
    """How its source differs from what was published, which was accepted on request."""

    def size_of(self, half: Half) -> int:
        """Images in a half."""
        return self.train if half == "train" else self.test

    def to_json(self) -> str:
        """The content of ``manifest.json``."""
        return strict_json(asdict(self), indent=2) + "\n"


@dataclass(frozen=True, kw_only=True)
class PackedSplit:
    """One half of a data set."""

    images: Images
    """(N, H, W, C); of a data set that was opened, on the disk."""
    labels: NDArray[np.int64]
    """(N,), 0 to classes - 1; read-only."""
    sizes: NDArray[np.int32]
    """(N, 2), height and width of each image before it was resized; read-only."""


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
            StorageError: the file system refuses to read it.
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
    """Names of the data sets that are prepared below a folder, with those that are damaged or cannot be read.

    Raises:
        StorageError: the file system refuses to list the folder.
    """
    try:
        found = names_in(root)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(name for name in found if _is_name(name) and _may_be_prepared(root / name))


def hidden_folder(folder: Path) -> Path:
    """Where a data set lies while it is made."""
    return folder.with_name(f".{folder.name}.partial")


def read_manifest(folder: Path) -> Manifest:
    """Reads what a data set is.

    Raises:
        DataError: not prepared, not a manifest, or of another version.
        StorageError: the file system refuses to read it.
    """
    path = folder / MANIFEST
    try:
        content = parse_json(read_file(path, limit=_LONGEST_MANIFEST))
    except (FileNotFoundError, NotADirectoryError):
        raise _not_prepared(folder) from None
    except (OSError, ValueError) as exc:
        raise _damaged(path, exc, folder) from exc
    document = _of_this_version(content, path)
    try:
        manifest = dacite.from_dict(Manifest, document, dacite.Config(strict=True, cast=[tuple]))
        _check_manifest(manifest)
    # What is in the place of a name or a number may be anything, and too deep to be written down.
    except (dacite.DaciteError, ValueError, TypeError, RecursionError) as exc:
        raise _damaged(path, exc, folder) from exc
    return manifest


def _check_manifest(manifest: Manifest) -> None:
    """Checks what training relies on.

    Raises:
        ValueError: it is not so.
    """
    if min(manifest.image_shape) < 1 or manifest.image_shape[2] not in (1, 3):
        raise ValueError(f"images of shape {manifest.image_shape}")
    if manifest.train < 1 or manifest.test < 1:
        raise ValueError(f"{manifest.train:,} training and {manifest.test:,} test images")
    if len(manifest.classes) < 2 or len(set(manifest.classes)) != len(manifest.classes):
        raise ValueError(f"{len(manifest.classes):,} classes, of {len(set(manifest.classes)):,} names")
    if not all(map(is_text, manifest.classes)):
        raise ValueError("names of classes that cannot be printed")
    found = sorted(record.path for record in manifest.files)
    if found != sorted(f"{half}/{name}.npy" for half in HALVES for name in ARRAYS):
        raise ValueError(f"{len(found):,} files, which are not those of a packed data set")


def _damaged(path: Path, exc: Exception, folder: Path) -> DataError:
    try:
        why = shown(" ".join(str(exc).split()))
    # An error that quotes a value fails as the value does.
    except RecursionError as error:
        exc = error
    if isinstance(exc, RecursionError):
        why = "it is nested too deep"
    return DataError(f"{path} is damaged ({why}): {_again(folder)}")


def _not_prepared(folder: Path) -> DataError:
    what = f"data set {folder.name!r} is not prepared in {folder.parent}: "
    if look_at(hidden_folder(folder)) is not None:
        return DataError(f"{what}that is under way, or was interrupted; in that case run `kdhpc data prepare` again")
    return DataError(
        f"{what}{nearest(folder.name, prepared_names(folder.parent))}; "
        f"to prepare it: kdhpc data prepare READER SOURCE --name {folder.name}"
    )


def check_files(folder: Path, manifest: Manifest) -> None:
    """Checks that every file is there and as long as it was written.

    Raises:
        DataError: with the file, its length and the length that it should have.
        StorageError: the file system refuses to tell.
    """
    for record in manifest.files:
        path = folder / record.path
        found = look_at(path)
        if found is None or not stat.S_ISREG(found.st_mode):
            raise DataError(f"{path} is missing: {_again(folder)}")
        if found.st_size != record.bytes:
            raise DataError(f"{path} has {found.st_size:,} bytes, should have {record.bytes:,}: {_again(folder)}")


def check_content(folder: Path, progress: Progress) -> Manifest:
    """Hashes every file and compares with the manifest.

    Returns:
        The manifest, when all is well.

    Raises:
        DataError: with the file whose content has changed.
        StorageError: the file system refuses to read it.
    """
    manifest = PackedDataset.open(folder).manifest
    progress.start(f"checking {manifest.name}", sum(record.bytes for record in manifest.files))
    for record in manifest.files:
        if file_sha256(folder / record.path, progress.advance) != record.sha256:
            raise DataError(f"{folder / record.path} has changed since it was written: {_again(folder)}")
    if content_checksum(manifest.classes, manifest.files) != manifest.checksum:
        raise DataError(f"{folder / MANIFEST} has changed since it was written: {_again(folder)}")
    return manifest


def content_checksum(classes: tuple[str, ...], files: tuple[FileRecord, ...]) -> str:
    """sha256 over the classes and the files' own checksums."""
    content = [list(classes), [[record.path, record.sha256] for record in files]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _is_name(name: str) -> bool:
    try:
        return check_dataset_name(name) == name
    except ConfigError:
        return False


def _may_be_prepared(folder: Path) -> bool:
    try:
        return look_at(folder / MANIFEST) is not None
    except StorageError:
        return True


def _of_this_version(content: object, path: Path) -> dict[str, object]:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{path} is not the manifest of a packed data set: {_again(path.parent)}")
    if content.get("version") != VERSION:
        raise DataError(
            f"{path} has version {shown(str(content.get('version')))} of the packed form, "
            f"this kdhpc reads version {VERSION}: "
            f"{_again(path.parent)}"
        )
    return content


def file_sha256(path: Path, advance: Callable[[int], None] = lambda num: None) -> str:
    """sha256 of a file's content.

    Args:
        path: the file.
        advance: told the number of bytes that were read, again and again.

    Raises:
        StorageError: the file system refuses to read it.
    """
    digest = hashlib.sha256()
    with open_file(path) as file:
        while block := file.read(_HASHED_AT_ONCE):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


def _open_split(folder: Path, manifest: Manifest, half: Half) -> PackedSplit:
    num = manifest.size_of(half)
    images = _open_images(folder, half, (num, *manifest.image_shape))
    labels = _read_array(folder, half, "labels", (num,), np.int64)
    sizes = _read_array(folder, half, "sizes", (num, 2), np.int32)
    if not 0 <= labels.min() <= labels.max() < len(manifest.classes):
        what = f"labels {labels.min()} to {labels.max()} of {len(manifest.classes):,} classes"
        raise _damaged(folder / half / "labels.npy", ValueError(what), folder)
    if sizes.min() < 1:
        raise _damaged(folder / half / "sizes.npy", ValueError(f"an image of {sizes.min()} pixels"), folder)
    return PackedSplit(images=images, labels=labels, sizes=sizes)


def _open_images(folder: Path, half: Half, shape: tuple[int, ...]) -> StoredImages:
    path = folder / half / "images.npy"
    try:
        images = StoredImages(path)
    except (OSError, ValueError, TypeError, OverflowError) as exc:
        raise _damaged(path, exc, folder) from exc
    _check_array(path, (images.shape, images.dtype), (shape, np.uint8), folder)
    return images


def _read_array(folder: Path, half: Half, name: str, shape: tuple[int, ...], dtype: type[_Scalar]) -> NDArray[_Scalar]:
    path = folder / half / f"{name}.npy"
    try:
        file = io.BytesIO(read_file(path, limit=_LONGEST_ARRAY))
        found = read_array_header(file)
        _check_array(path, found, (shape, dtype), folder)
        return np.frombuffer(file.getvalue(), dtype=dtype, offset=file.tell()).reshape(shape)
    except (OSError, ValueError, TypeError, OverflowError) as exc:
        raise _damaged(path, exc, folder) from exc


def _check_array(path: Path, found: _Array, expected: _Array, folder: Path) -> None:
    (shape, dtype), (its_shape, its_dtype) = found, expected
    if shape != its_shape or dtype != its_dtype:
        raise DataError(
            f"{path} holds {shown(f'{dtype} {shape}')}, the manifest says {np.dtype(its_dtype)} {its_shape}: "
            f"{_again(folder)}"
        )


def _again(folder: Path) -> str:
    return f"prepare it again (kdhpc data prepare READER SOURCE --name {folder.name} --force)"
