"""``kdhpc data``: prepare, list and check packed data sets."""

import argparse
import os
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kdhpc.config.paths import data_root, packed_dir
from kdhpc.errors import ConfigError, DataError, StorageError, UsageError
from kdhpc.files.json_text import strict_json
from kdhpc.words import counted

if TYPE_CHECKING:
    from kdhpc.data.packed import Manifest
    from kdhpc.data.progress import Progress

# Spelt out, because importing the readers would slow down every command; a test compares.
READER_NAMES = ("cifar10", "cifar100", "cub200", "fashion_mnist", "folder", "packed", "stanford_cars", "stanford_dogs")

_PREPARE = """\
Packs a data set into $KDHPC_DATA (./data). May be interrupted and run again.
Prints the folder, and says which commands train on it: dataset=NAME works at
once, with settings that follow from its images.
"""
_EXAMPLES = """\
examples:
  kdhpc data prepare folder ~/pets                 train/<class>/*, test/<class>/*
  kdhpc data prepare folder ~/birds --split 0.2    <class>/*, a fifth is to test
  kdhpc data prepare folder ~/pets --name pets384 --size 384
  kdhpc data prepare cifar10 ~/downloads/cifar-10-python.tar.gz
  kdhpc data prepare packed data/fashion_mnist --classes 0..4 --name clothes   some classes of one that is prepared
"""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One line of ``kdhpc data list``."""

    name: str
    """As given to ``prepare``."""
    reader: str | None = None
    """What it was made with; none of a damaged data set is known."""
    classes: int | None = None
    """Number of classes."""
    train: int | None = None
    """Training images."""
    test: int | None = None
    """Test images."""
    shape: tuple[int, int, int] | None = None
    """Stored height, width, channels."""
    skipped: int | None = None
    """Images that could not be decoded and were left out."""
    megabytes: float | None = None
    """On disk."""
    checksum: str | None = None
    """Identifies the content."""
    altered: tuple[str, ...] = ()
    """How its source differs from what was published."""
    problem: str | None = None
    """Why it cannot be used."""
    use: str | None = None
    """The override that chooses it, for a shell."""
    config: str | None = None
    """The config file that the override takes; None: what is packed says how to train."""
    split: float | None = None
    """Share of each class that became the test half; None: the source had one."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds ``data`` and its three subcommands."""
    parser = subparsers.add_parser(
        "data",
        help="prepare, list and check data sets",
        description="Packed data sets: what training reads. They lie in $KDHPC_DATA (./data).",
        epilog="example:\n  kdhpc data prepare folder ~/pets     train/CLASS/* and test/CLASS/*, as dataset `pets`",
    )
    commands = parser.add_subparsers(dest="data_command", metavar="COMMAND", required=True)
    _add_prepare(commands)
    listing = commands.add_parser("list", help="show what is prepared", epilog="example:\n  kdhpc data list")
    listing.add_argument("--format", choices=("table", "json"), default="table", help="default: %(default)s")
    listing.set_defaults(func=list_datasets)
    check = commands.add_parser(
        "check",
        help="compare every byte of a data set with its checksums",
        epilog="example:\n  kdhpc data check fashion_mnist",
    )
    check.add_argument("name", metavar="NAME", help="a prepared data set")
    check.set_defaults(func=check_dataset)


def _add_prepare(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "prepare",
        help="turn downloaded images into the packed form that training reads",
        description=_PREPARE,
        epilog=_EXAMPLES,
    )
    parser.add_argument("reader", metavar="READER", help=f"format of the source: {', '.join(READER_NAMES)}")
    parser.add_argument("source", metavar="SOURCE", type=Path, help="official archive, or folder of files or archives")
    parser.add_argument("--name", help="name of the data set (default: the reader's, or the source folder's)")
    parser.add_argument(
        "--size",
        type=int,
        help="side of the square to resize to; a larger one keeps more detail and takes more memory, see docs/data.md "
        "(default: 256, or none where all images have one size of at most 256)",
    )
    parser.add_argument(
        "--split",
        type=float,
        metavar="SHARE",
        help="for a folder of classes (SOURCE/<class>/*) without a test half: that share of each class, as 0.2, "
        "becomes the test half; the same images every time",
    )
    parser.add_argument(
        "--classes",
        metavar="CLASSES",
        help="for reader packed, whose SOURCE is a prepared data set: which of its classes, as 0..4 or 0,2,7, or the "
        "first or the second half of them; needs --name",
    )
    parser.add_argument(
        "--jobs", type=int, default=None, help="decoding processes (default: as many as there are cores)"
    )
    parser.add_argument(
        "--skip-broken", action="store_true", help="leave out images that cannot be decoded, and list them"
    )
    parser.add_argument(
        "--altered",
        action="store_true",
        help="accept a source that differs from the published one (fewer images, other files); the manifest says so",
    )
    parser.add_argument("--force", action="store_true", help="replace a data set that is prepared already")
    parser.set_defaults(func=prepare_dataset)


def prepare_dataset(args: argparse.Namespace) -> int:
    """``kdhpc data prepare``: prints the folder of the packed form."""
    from kdhpc.data.packed import TEST_NAMES
    from kdhpc.data.prepare import PrepareRequest, prepare
    from kdhpc.data.progress import Progress
    from kdhpc.data.readers.registry import reader_of

    source: Path = args.source
    reader = reader_of(args.reader, args.split, args.classes)
    request = PrepareRequest(
        reader=reader,
        reader_name=args.reader,
        source=source,
        folder=packed_dir(_name(args)),
        size=args.size,
        num_jobs=_cores() if args.jobs is None else args.jobs,
        skip_broken=args.skip_broken,
        altered=args.altered,
        force=args.force,
    )
    with Progress(sys.stderr) as progress:
        prepared = prepare(request, progress)
    manifest = prepared.manifest
    height, width, channels = manifest.image_shape
    progress.say(
        f"{manifest.name} {'is prepared' if prepared.made else 'was prepared already, nothing to do (see --force)'}: "
        f"{manifest.train:,} training and {manifest.test:,} test images of {height}x{width}x{channels} "
        f"in {counted(len(manifest.classes), 'class', 'classes')}"
    )
    for difference in manifest.altered:
        progress.say(f"not as published: its source {difference}")
    for image in manifest.skipped:
        progress.say(f"left out of {image.half}: {image.name} ({image.reason})")
    if manifest.split is not None:
        progress.say(f"{manifest.split:g} of each class is the test half: {request.folder / TEST_NAMES} lists it")
    _say_next(manifest, progress)
    print(request.folder)
    return 0


def _name(args: argparse.Namespace) -> str:
    """The data set's name, given or of the source.

    Raises:
        ConfigError: no folder can carry a given name.
        UsageError: no folder can carry the source's name.
    """
    from kdhpc.config.schema import check_dataset_name

    if args.name is not None:
        return check_dataset_name(args.name)
    name: str = args.source.resolve().name if args.reader == "folder" else args.reader
    try:
        return check_dataset_name(name)
    except ConfigError as exc:
        better = re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_.-")[:63]
        raise UsageError(f"{exc}; give another one with --name{f' {better}' if better else ''}") from exc


def _say_next(manifest: "Manifest", progress: "Progress") -> None:
    """Which commands train on a data set, and which config they take."""
    from kdhpc.cli.data_use import config_of, next_commands, use_of

    config = config_of(manifest.name)
    if config is not None and manifest.reader != manifest.name:
        progress.say(
            f"{use_of(manifest.name)} takes the config {config}, whatever is packed under this name; with another "
            "--name, settings follow from the images"
        )
    train, search = next_commands(manifest)
    progress.say(f"to train on it: {train}")
    progress.say(f"to search on it: {search}")


def list_datasets(args: argparse.Namespace) -> int:
    """``kdhpc data list``."""
    from kdhpc.data.packed import prepared_names

    rows = [_listed(name) for name in prepared_names(data_root())]
    if args.format == "json":
        print(strict_json([asdict(row) for row in rows], indent=2))
        return 0
    if not rows:
        print(f"nothing is prepared in {data_root()}: see kdhpc data prepare --help", file=sys.stderr)
    else:
        _print_table(rows)
    return 0


def check_dataset(args: argparse.Namespace) -> int:
    """``kdhpc data check``: prints the checksum when every byte is as it was written."""
    from kdhpc.config.schema import check_dataset_name
    from kdhpc.data.packed import check_content
    from kdhpc.data.progress import Progress

    with Progress(sys.stderr) as progress:
        manifest = check_content(packed_dir(check_dataset_name(args.name)), progress)
    height, width, channels = manifest.image_shape
    progress.say(
        f"{manifest.name} is as it was prepared: {len(manifest.files)} files of "
        f"{sum(record.bytes for record in manifest.files):,} bytes have their lengths and SHA-256; "
        f"{manifest.train:,} training and {manifest.test:,} test images of {height}x{width}x{channels} have labels "
        f"within {len(manifest.classes):,} classes and original sizes; this is the checksum of all:"
    )
    print(manifest.checksum)
    return 0


def _listed(name: str) -> Listed:
    from kdhpc.cli.data_use import config_of, use_of
    from kdhpc.data.packed import PackedDataset

    try:
        manifest = PackedDataset.open(packed_dir(name)).manifest
    except (DataError, StorageError) as exc:
        return Listed(name=name, problem=str(exc))
    return Listed(
        name=name,
        reader=manifest.reader,
        classes=len(manifest.classes),
        train=manifest.train,
        test=manifest.test,
        shape=manifest.image_shape,
        skipped=len(manifest.skipped),
        megabytes=round(sum(record.bytes for record in manifest.files) / 1e6, 1),
        checksum=manifest.checksum,
        altered=manifest.altered,
        use=use_of(name),
        config=None if (config := config_of(name)) is None else str(config),
        split=manifest.split,
    )


def _print_table(rows: list[Listed]) -> None:
    from kdhpc.printing import one_line

    lines = [("NAME", "READER", "CLASSES", "TRAIN", "TEST", "SHAPE", "MB", "USE")]
    for row in rows:
        if row.problem is None and row.shape is not None:
            shape = "x".join(map(str, row.shape))
            lines.append(
                (
                    row.name,
                    one_line(str(row.reader)),
                    str(row.classes),
                    str(row.train),
                    str(row.test),
                    shape,
                    str(row.megabytes),
                    str(row.use),
                )
            )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    for row in rows:
        for said in (
            *([row.problem] if row.problem is not None else []),
            *(f"its source {how}" for how in row.altered),
        ):
            print(one_line(f"{row.name}: {said}"), file=sys.stderr)


def _cores() -> int:
    """Cores that this process may use, which on a cluster are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
