"""The packed form of a data set: a folder with arrays, and a manifest that describes them. Training reads nothing else.

The folder ``<data>/<name>`` has ``manifest.json``, and a folder for each half, ``train/`` and ``test/``. In each half
are ``images.npy`` (uint8, N x H x W x C), ``labels.npy`` (int64, N) and ``sizes.npy`` (int32, N x 2: height and width
before any resizing). Images of different sizes are stored resized to one square. Random crops need the original sizes,
as they choose areas and aspect ratios of the original image.
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

from kdhpc.config.own_datasets import MANIFEST
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

Half = Literal["train", "test"]
TEST_NAMES = "test/names.txt"
"""Lists the images of a test half that kdhpc has chosen."""
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
    """One file of a packed data set, as it was written."""

    path: str
    """Path below the data set's folder."""
    bytes: int
    """Length of the file."""
    sha256: str
    """SHA-256 of its content, in hexadecimal."""


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """An image that could not be decoded and was left out on request."""

    half: Half
    """The half that it belongs to."""
    name: str
    """Path in the source."""
    reason: str
    """Why it could not be decoded."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The manifest: what a packed data set is, and what it was made from."""

    format: str
    """Always ``kdhpc-packed``."""
    version: int
    """Version of the packed form."""
    name: str
    """Name that was given to ``kdhpc data prepare``."""
    reader: str
    """Name of the reader that it was made with."""
    image_shape: tuple[int, int, int]
    """Stored height, width and channels (1: grey, 3: red, green, blue)."""
    resized: bool
    """Whether images were resized to that shape; False: the source had them in it."""
    classes: tuple[str, ...]
    """Names of the classes, by label."""
    train: int
    """Number of training images."""
    test: int
    """Number of test images."""
    skipped: tuple[Skipped, ...]
    """Images that were left out because they could not be decoded."""
    files: tuple[FileRecord, ...]
    """All files but the manifest."""
    checksum: str
    """SHA-256 of the content, that is, of the classes and the files. The data set's name does not change it."""
    origin: Origin | None = None
    """The source that it was made from; None: the manifest is from before this was recorded."""
    altered: tuple[str, ...] = ()
    """How the source differs from what was published. The user accepted that (``--altered``)."""
    mean: tuple[float, ...] = ()
    """Mean of each channel of the training images, 0 to 1; empty: the manifest is from before this was recorded."""
    std: tuple[float, ...] = ()
    """Standard deviation of each channel; goes with ``mean``."""
    split: float | None = None
    """Share of each class that became the test half (``--split``); None: the source had a test half. The file
    ``test/names.txt`` then lists the images of that half."""

    def size_of(self, half: Half) -> int:
        """Number of images in a half."""
        return self.train if half == "train" else self.test

    def to_json(self) -> str:
        """The content of ``manifest.json``."""
        return strict_json(asdict(self), indent=2) + "\n"


@dataclass(frozen=True, kw_only=True)
class PackedSplit:
    """One half of a data set."""

    images: Images
    """uint8 (N, H, W, C). Those of a data set in a folder stay on the disk until they are read."""
    labels: NDArray[np.int64]
    """int64 (N,), from 0 to the number of classes - 1; read-only."""
    sizes: NDArray[np.int32]
    """int32 (N, 2), height and width of each image before it was resized, in pixels; read-only."""


@dataclass(frozen=True, kw_only=True)
class PackedDataset:
    """A packed data set that is open for reading."""

    manifest: Manifest
    """Its manifest."""
    train: PackedSplit
    """The official training half."""
    test: PackedSplit
    """The official test half. A search never uses it."""

    @classmethod
    def open(cls, folder: Path) -> "PackedDataset":
        """Open a data set. It is checked that every file exists and has its length; contents are not hashed.

        Raises:
            DataError: the data set is not prepared, of another version, or damaged.
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
        """Names of the classes, by label."""
        return self.manifest.classes

    @property
    def checksum(self) -> str:
        """SHA-256 of the content, see `Manifest.checksum`."""
        return self.manifest.checksum


def prepared_names(root: Path) -> list[str]:
    """Names of all data sets that are prepared in a folder. Damaged and unreadable ones are among them.

    Raises:
        StorageError: the file system refuses to list the folder.
    """
    try:
        found = names_in(root)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(name for name in found if _is_name(name) and _may_be_prepared(root / name))


def hidden_folder(folder: Path) -> Path:
    """The hidden folder in which a data set is made, before it is moved to its final folder."""
    return folder.with_name(f".{folder.name}.partial")


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a data set.

    Raises:
        DataError: the data set is not prepared, or its manifest is damaged or of another version.
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
    # RecursionError: a value that is nested deeply cannot even be quoted in dacite's message.
    except (dacite.DaciteError, ValueError, TypeError, RecursionError) as exc:
        raise _damaged(path, exc, folder) from exc
    return manifest


def _check_manifest(manifest: Manifest) -> None:
    """Check the values that training relies on.

    Raises:
        ValueError: one of them cannot be right.
    """
    if min(manifest.image_shape) < 1 or manifest.image_shape[2] not in (1, 3):
        raise ValueError(f"images of shape {manifest.image_shape}")
    if manifest.train < 1 or manifest.test < 1:
        raise ValueError(f"{manifest.train:,} training and {manifest.test:,} test images")
    if len(manifest.classes) < 2 or len(set(manifest.classes)) != len(manifest.classes):
        raise ValueError(f"{len(manifest.classes):,} classes, of {len(set(manifest.classes)):,} names")
    if not all(map(is_text, manifest.classes)):
        raise ValueError("names of classes that cannot be printed")
    channels, normal = manifest.image_shape[2], (len(manifest.mean), len(manifest.std))
    if normal not in ((0, 0), (channels, channels)) or not all(0 < value <= 1 for value in manifest.std):
        raise ValueError(f"mean {manifest.mean} and standard deviation {manifest.std} of {channels} channels")
    found = sorted(record.path for record in manifest.files)
    names = [] if manifest.split is None else [TEST_NAMES]
    if found != sorted([*(f"{half}/{name}.npy" for half in HALVES for name in ARRAYS), *names]):
        raise ValueError(f"{len(found):,} files, which are not those of a packed data set")


def _damaged(path: Path, exc: Exception, folder: Path) -> DataError:
    try:
        why = shown(" ".join(str(exc).split()))
    # The text of an error that quotes a deeply nested value is nested as deeply.
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
    """Check that every file exists and has the length that the manifest says.

    Raises:
        DataError: a file is missing or has another length; the message names both lengths.
        StorageError: the file system refuses.
    """
    for record in manifest.files:
        path = folder / record.path
        found = look_at(path)
        if found is None or not stat.S_ISREG(found.st_mode):
            raise DataError(f"{path} is missing: {_again(folder)}")
        if found.st_size != record.bytes:
            raise DataError(f"{path} has {found.st_size:,} bytes, should have {record.bytes:,}: {_again(folder)}")


def check_content(folder: Path, progress: Progress) -> Manifest:
    """Hash every file, and compare with the manifest.

    Returns:
        The manifest, if everything agrees.

    Raises:
        DataError: a file has changed; the message names it.
        StorageError: the file system refuses to read it.
    """
    manifest = PackedDataset.open(folder).manifest
    progress.start(f"checking {manifest.name}", sum(record.bytes for record in manifest.files), in_mb=True)
    for record in manifest.files:
        if file_sha256(folder / record.path, progress.advance) != record.sha256:
            raise DataError(f"{folder / record.path} has changed since it was written: {_again(folder)}")
    if content_checksum(manifest.classes, manifest.files) != manifest.checksum:
        raise DataError(f"{folder / MANIFEST} has changed since it was written: {_again(folder)}")
    return manifest


def content_checksum(classes: tuple[str, ...], files: tuple[FileRecord, ...]) -> str:
    """SHA-256 of the classes and of the files' paths and checksums."""
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
    """SHA-256 of a file's content.

    Args:
        path: The file.
        advance: Called with the number of bytes of each block that was read.

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
