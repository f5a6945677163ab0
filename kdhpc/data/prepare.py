"""From a downloaded data set to its packed form."""

from dataclasses import dataclass
from pathlib import Path

from kdhpc.config.schema import check_dataset_name
from kdhpc.data.origin import Origin, origin_of
from kdhpc.data.packed import FORMAT, MANIFEST, VERSION, Manifest, PackedDataset, content_checksum
from kdhpc.data.packing import Packed, pack_arrays, pack_files
from kdhpc.data.progress import Progress
from kdhpc.data.readers.source import ArraySource, Reader, Source, check_source
from kdhpc.data.reading import look_at
from kdhpc.data.staging import Stage, publish, staged, tidy
from kdhpc.errors import DataError, StorageError, UsageError
from kdhpc.files.removing import remove_tree
from kdhpc.files.storage_errors import is_of_storage
from kdhpc.files.writing import write_whole

_CHOICE = "--force replaces it, another --name keeps both"


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to prepare, and how."""

    reader: Reader
    """Knows the source's format."""
    reader_name: str
    """As in the registry."""
    source: Path
    """What the user downloaded."""
    folder: Path
    """Where the packed form goes; its last part is the data set's name."""
    size: int | None = None
    """Side of the square to resize to; None: 256, or no resizing where all images have one size of at most 256."""
    num_jobs: int = 1
    """Decoding processes."""
    skip_broken: bool = False
    """Leave out images that cannot be decoded."""
    altered: bool = False
    """The source need not be as published; how it differs is written down."""
    force: bool = False
    """Replace what is prepared already."""

    def __post_init__(self) -> None:
        check_dataset_name(self.folder.name)
        if self.size is not None and self.size < 1:
            raise UsageError(f"--size {self.size} is not allowed: 1 or more pixels")
        if self.num_jobs < 1:
            raise UsageError(f"--jobs {self.num_jobs} is not allowed: 1 or more processes")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of an order."""

    manifest: Manifest
    """The packed data set."""
    made: bool
    """It was made now; else it was there already."""


def prepare(order: Order, progress: Progress) -> Outcome:
    """Packs a data set, or finds it packed. It may be killed at any time and run again.

    Raises:
        DataError: the source is not what it should be, images cannot be decoded, or the name is that of another
            source's images.
        StorageError: the disk is full, or a file system refuses to be read or written.
        UsageError: the source cannot be stored in that size.
    """
    try:
        existing = _existing(order)
        if existing is not None:
            tidy(order.folder)
            return Outcome(manifest=existing, made=False)
        with staged(order.folder, progress) as stage:
            # Where a run was killed, or another process has just ended.
            existing = _existing(order)
            if existing is not None:
                return Outcome(manifest=existing, made=False)
            return Outcome(manifest=_make(order, stage, progress), made=True)
    except (OSError, StorageError) as exc:
        kind = StorageError if is_of_storage(exc) else DataError
        raise kind(f"preparing {order.folder} stopped: {exc}; what is done is kept, run it again") from exc


def _make(order: Order, stage: Stage, progress: Progress) -> Manifest:
    source, altered = _read(order, stage, progress)
    origin = _origin(order)
    manifest = _manifest(order, origin, source, altered, _pack(order, source, stage, progress))
    # Last: what has a manifest is whole.
    write_whole(stage.packed / MANIFEST, manifest.to_json())
    publish(stage, order.folder)
    return manifest


def _existing(order: Order) -> Manifest | None:
    """What has the name already and is to stay."""
    if look_at(order.folder) is None:
        return None
    if look_at(order.folder / MANIFEST) is None:
        raise DataError(f"{order.folder} exists and is not a packed data set: choose another --name, or move it away")
    if order.force:
        return None
    manifest = PackedDataset.open(order.folder).manifest
    height, width, _ = manifest.image_shape
    if manifest.reader != order.reader_name or order.size not in (None, height):
        raise DataError(
            f"{order.folder} is prepared already, by reader {manifest.reader!r} at {height}x{width}: {_CHOICE}"
        )
    if manifest.origin is not None:
        _check_origin(order, manifest.origin)
    return manifest


def _check_origin(order: Order, origin: Origin) -> None:
    """What is gone cannot have changed."""
    path = order.source.resolve()
    if str(path) != origin.path:
        raise DataError(f"{order.folder} is prepared already, from {origin.path} and not from {path}: {_CHOICE}")
    if look_at(path) is not None and _origin(order) != origin:
        raise DataError(f"{order.folder} is prepared already, from {path}, which holds other files now: {_CHOICE}")


def _origin(order: Order) -> Origin:
    return origin_of(order.source, exclude=order.folder.parent)


def _read(order: Order, stage: Stage, progress: Progress) -> tuple[Source, tuple[str, ...]]:
    """The source, and how it differs from what was published."""
    try:
        source = order.reader.read(order.source, stage.unpacked, progress)
        origin = str(order.source)
        altered = check_source(source, order.reader.expected, origin=origin, altered=order.altered)
        if isinstance(source, ArraySource) and order.size is not None:
            height, width = source.train.images.shape[1:3]
            raise UsageError(
                f"--size {order.size} is not allowed: {order.reader_name} is stored as it is, {height}x{width}"
            )
    except (DataError, UsageError):
        # A refused archive is of no use to the next run.
        remove_tree(stage.unpacked)
        raise
    return source, altered


def _pack(order: Order, source: Source, stage: Stage, progress: Progress) -> Packed:
    if isinstance(source, ArraySource):
        return pack_arrays(source, stage.packed)
    return pack_files(
        source,
        stage,
        size=order.size,
        num_jobs=order.num_jobs,
        skip_broken=order.skip_broken,
        origin=str(order.source),
        progress=progress,
    )


def _manifest(order: Order, origin: Origin, source: Source, altered: tuple[str, ...], packed: Packed) -> Manifest:
    return Manifest(
        format=FORMAT,
        version=VERSION,
        name=order.folder.name,
        reader=order.reader_name,
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
    )
