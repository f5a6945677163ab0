"""From a downloaded data set to its packed form."""

from dataclasses import dataclass
from pathlib import Path

from kdhpc.config.own_datasets import MANIFEST
from kdhpc.config.schema import check_dataset_name
from kdhpc.data.channels import channel_statistics
from kdhpc.data.origin import Origin, origin_of
from kdhpc.data.packed import FORMAT, VERSION, Manifest, PackedDataset, content_checksum
from kdhpc.data.packing import Packed, pack_arrays, pack_files
from kdhpc.data.progress import Progress
from kdhpc.data.readers.folder import FolderReader
from kdhpc.data.readers.packed import PackedReader
from kdhpc.data.readers.source import ArraySource, Reader, Source, check_source
from kdhpc.data.reading import look_at
from kdhpc.data.staging import Stage, publish, staged, tidy
from kdhpc.errors import DataError, StorageError, UsageError
from kdhpc.files.removing import remove_tree
from kdhpc.files.storage_errors import is_of_storage
from kdhpc.files.writing import write_whole

_LARGEST_SIDE = 4096
_CHOICE = "--force replaces it, another --name keeps both"


@dataclass(frozen=True, kw_only=True)
class PrepareRequest:
    """What to prepare, and how."""

    reader: Reader
    """The reader of the source's format."""
    reader_name: str
    """Name of the reader in the registry."""
    source: Path
    """The file or folder that the user downloaded."""
    folder: Path
    """Folder for the packed data set. Its last part is the data set's name."""
    size: int | None = None
    """Side of the square that images are resized to, in pixels. None: 256; or no resizing, if all images have the same
    size and no side is longer than 256."""
    num_jobs: int = 1
    """Number of processes that decode images."""
    skip_broken: bool = False
    """Leave out images that cannot be decoded, instead of failing."""
    altered: bool = False
    """Accept a source that differs from what was published. The manifest then says how it differs."""
    force: bool = False
    """Replace a data set of that name that is prepared already."""

    @property
    def split(self) -> float | None:
        """Share of each class that becomes the test half; None: the source has one."""
        return self.reader.split if isinstance(self.reader, FolderReader) else None

    def __post_init__(self) -> None:
        check_dataset_name(self.folder.name)
        if self.size is not None and not 1 <= self.size <= _LARGEST_SIDE:
            raise UsageError(f"--size {self.size} is not allowed: 1 to {_LARGEST_SIDE} pixels")
        if self.num_jobs < 1:
            raise UsageError(f"--jobs {self.num_jobs} is not allowed: 1 or more processes")


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A data set that is prepared."""

    manifest: Manifest
    """Its manifest."""
    made: bool
    """Whether it was made now; False: it was there already."""


def prepare(request: PrepareRequest, progress: Progress) -> Prepared:
    """Pack a data set, unless it is packed already. The process may be killed at any time; the next one goes on.

    Raises:
        DataError: the source is not what it should be, images cannot be decoded, or a data set of that name was made
            from another source.
        StorageError: the disk is full, or a file system refuses to read or to write.
        UsageError: the source cannot be stored in that size.
    """
    try:
        existing = _existing(request)
        if existing is not None:
            tidy(request.folder)
            return Prepared(manifest=existing, made=False)
        with staged(request.folder, progress) as stage:
            # Again: `staged` may have completed what a killed run left, and another process may just have ended.
            existing = _existing(request)
            if existing is not None:
                return Prepared(manifest=existing, made=False)
            return Prepared(manifest=_make(request, stage, progress), made=True)
    except (OSError, StorageError) as exc:
        kind = StorageError if is_of_storage(exc) else DataError
        raise kind(f"preparing {request.folder} stopped: {exc}; what is done is kept, run it again") from exc


def _make(request: PrepareRequest, stage: Stage, progress: Progress) -> Manifest:
    source, altered = _read(request, stage, progress)
    origin = _origin(request)
    packed = _pack(request, source, stage, progress)
    manifest = _manifest(request, origin, source, altered, packed, channel_statistics(stage.packed))
    # The manifest is written last: a folder that has one is complete.
    write_whole(stage.packed / MANIFEST, manifest.to_json())
    publish(stage, request.folder)
    return manifest


def _existing(request: PrepareRequest) -> Manifest | None:
    """The manifest of a data set that has the name already and fits the request; None: there is none to keep."""
    if look_at(request.folder) is None:
        return None
    if look_at(request.folder / MANIFEST) is None:
        raise DataError(f"{request.folder} exists and is not a packed data set: choose another --name, or move it away")
    if request.force:
        return None
    manifest = PackedDataset.open(request.folder).manifest
    height, width, _ = manifest.image_shape
    if manifest.reader != request.reader_name or request.size not in (None, height):
        raise DataError(
            f"{request.folder} is prepared already, by reader {manifest.reader!r} at {height}x{width}: {_CHOICE}"
        )
    if manifest.split != request.split:
        was, now = (f"--split {split:g}" if split else "halves of its own" for split in (manifest.split, request.split))
        raise DataError(f"{request.folder} is prepared already, with {was} and not {now}: {_CHOICE}")
    if manifest.origin is not None:
        _check_origin(request, manifest.origin)
    reader = request.reader
    if (
        isinstance(reader, PackedReader)
        and look_at(request.source)
        and reader.class_names(request.source) != (manifest.classes)
    ):
        raise DataError(f"{request.folder} is prepared already, with other classes than these: {_CHOICE}")
    return manifest


def _check_origin(request: PrepareRequest, origin: Origin) -> None:
    """Refuse a data set that was made from another source, or from other files. The source may be gone since."""
    path = request.source.resolve()
    if str(path) != origin.path:
        raise DataError(f"{request.folder} is prepared already, from {origin.path} and not from {path}: {_CHOICE}")
    if look_at(path) is not None and _origin(request) != origin:
        raise DataError(f"{request.folder} is prepared already, from {path}, which holds other files now: {_CHOICE}")


def _origin(request: PrepareRequest) -> Origin:
    return origin_of(request.source, exclude=request.folder.parent)


def _read(request: PrepareRequest, stage: Stage, progress: Progress) -> tuple[Source, tuple[str, ...]]:
    """Read the source; also gives how it differs from what was published."""
    try:
        source = request.reader.read(request.source, stage.unpacked, progress)
        origin = str(request.source)
        altered = check_source(source, request.reader.expected, origin=origin, altered=request.altered)
        if isinstance(source, ArraySource) and request.size is not None:
            height, width = source.train.images.shape[1:3]
            raise UsageError(
                f"--size {request.size} is not allowed: {request.reader_name} is stored as it is, {height}x{width}"
            )
    except (DataError, UsageError):
        # The next run shall unpack the archive that replaces this one.
        remove_tree(stage.unpacked)
        raise
    return source, altered


def _pack(request: PrepareRequest, source: Source, stage: Stage, progress: Progress) -> Packed:
    if isinstance(source, ArraySource):
        return pack_arrays(source, stage.packed)
    return pack_files(
        source,
        stage,
        size=request.size,
        num_jobs=request.num_jobs,
        skip_broken=request.skip_broken,
        lists_test=request.split is not None,
        origin=str(request.source),
        progress=progress,
    )


def _manifest(
    request: PrepareRequest,
    origin: Origin,
    source: Source,
    altered: tuple[str, ...],
    packed: Packed,
    statistics: tuple[tuple[float, ...], tuple[float, ...]],
) -> Manifest:
    mean, std = statistics
    return Manifest(
        format=FORMAT,
        version=VERSION,
        name=request.folder.name,
        reader=request.reader_name,
        image_shape=(packed.target.height, packed.target.width, packed.target.channels),
        resized=packed.target.resize,
        classes=source.classes,
        train=packed.train,
        test=packed.test,
        skipped=packed.skipped,
        files=packed.files,
        checksum=content_checksum(source.classes, packed.files),
        origin=origin,
        altered=altered,
        mean=mean,
        std=std,
        split=request.split,
    )
