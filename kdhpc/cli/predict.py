"""``kdhpc predict``: the classes of image files, by a finished training."""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdhpc.cli.network_argument import add_network_argument, import_networks
from kdhpc.cli.parser import output_file, output_folder, positive
from kdhpc.errors import ConfigError, DataError, UsageError

if TYPE_CHECKING:
    import torch

    from kdhpc.inference.image_files import ImageFiles

_DESCRIPTION = """\
Predicts the classes of images with the networks of a finished training: the most probable classes by the ensemble and
by each of its nodes. The ensemble is that of the training's score: the mean of the nodes' logits. Images are read and
turned upright as by `kdhpc data prepare`, and resized, cropped and normalised as the training's test images were. The
data set need not be here.

Folders are searched at any depth, for files that are called as images are. An image that cannot be used is named with
its reason, stops no other one, and makes the exit code 1.
"""
_EPILOG = """\
examples:
  kdhpc predict runs/train/pets-resnet18-dml2/seed0 cat.jpg dog.jpg
  kdhpc predict pets-resnet18-dml2 ~/new-pets --csv classes.csv
  kdhpc predict pets-resnet18-dml2 cat.jpg --top 1 --attention maps
"""
_MOST_AT_ONCE = 4096


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "predict",
        help="predict the classes of images with a finished training",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument(
        "run",
        type=Path,
        metavar="RUN",
        help="a training that is done: runs/train/NAME/seed<k>; NAME, if one seed of it is done",
    )
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="image files, and folders that hold some")
    parser.add_argument("--top", type=positive, default=5, metavar="K", help="classes of each image (default: 5)")
    parser.add_argument(
        "--csv", type=output_file, metavar="FILE", help="write all as CSV: a row for each image, node and class"
    )
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write all as JSON")
    parser.add_argument(
        "--attention",
        type=output_folder,
        metavar="DIR",
        help="write a PNG for each image: what the networks see, and where each node looks",
    )
    parser.add_argument("--batch", type=positive, metavar="N", help="images in a forward pass (default: 64)")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto, a GPU if there is one"
    )
    add_network_argument(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Predict, print, and write what is asked for.

    Raises:
        ConfigError: no finished run.
        DataError: there are no images, or none of them can be used.
        KdhpcError: the run or its weights are damaged, or a file cannot be written.
    """
    from kdhpc.cli.predicted import refuse_to_replace
    from kdhpc.inference.image_files import find_images

    if args.batch is not None and args.batch > _MOST_AT_ONCE:
        raise UsageError(f"--batch {args.batch} is not allowed: 1 to {_MOST_AT_ONCE:,} images")
    if args.csv is not None and args.json is not None and args.csv.resolve() == args.json.resolve():
        raise UsageError(f"--csv and --json are both {args.csv}: give two files")
    refuse_to_replace(csv_path=args.csv, json_path=args.json)
    _refuse_pictures_among_images(args.attention, args.images)
    found = find_images(args.images)
    if not found.files and not found.refused:
        skipped = "".join(f"; {one.line}" for one in found.skipped)
        raise DataError(f"there is no image in {', '.join(map(str, args.images[:3]))}{skipped}")
    return _predict(args, found)


def _refuse_pictures_among_images(folder: Path | None, images: Sequence[Path]) -> None:
    """Refuse to draw into a folder that is searched: the next call would take the pictures for images."""
    if folder is None:
        return
    place = folder.resolve()
    for image in images:
        if image.is_dir() and place.is_relative_to(image.resolve()):
            raise UsageError(f"--attention {folder} is not allowed: it is in {image}, whose images are predicted")


def _predict(args: argparse.Namespace, found: "ImageFiles") -> int:
    from kdhpc.cli.predicted import Pictures, Sink, Tables, Tally, csv_file, json_file
    from kdhpc.data.progress import Progress
    from kdhpc.inference.opening import as_ensemble, find_run
    from kdhpc.inference.predicting import predict_files
    from kdhpc.inference.preprocessing import BATCH_SIZE
    from kdhpc.log import log_to_stderr

    log_to_stderr()
    import_networks(args.network)
    ensemble = as_ensemble(find_run(args.run), _device(args.device))
    batch_size = args.batch or BATCH_SIZE
    pictures = None if args.attention is None else Pictures(args.attention, ensemble, len(found.files))
    files = [path for path in (args.csv, args.json) if path is not None]
    with Progress(sys.stderr) as progress:
        tally = Tally(progress, found, files)
        tables = Tables(ensemble, is_wanted=not files or len(found.files) <= Tables.FEW)
        with contextlib.ExitStack() as stack:
            sinks: list[Sink] = [tally.add, tables.add]
            if args.csv is not None:
                sinks.append(stack.enter_context(csv_file(args.csv)))
            if args.json is not None:
                sinks.append(stack.enter_context(json_file(args.json, ensemble, found)))
            if pictures is not None or len(found.files) > batch_size:
                tally.start()
            for result in predict_files(
                ensemble, found.files, top=args.top, batch_size=batch_size, with_maps=pictures is not None
            ):
                picture = None if pictures is None else pictures.draw(result)
                for sink in sinks:
                    sink(result, picture)
        tally.end()
    tables.show()
    written = [*files, *([args.attention] if pictures is not None and pictures.num_drawn else [])]
    if written:
        print(*written, sep="\n")
    if not tally.num_predicted:
        what = "the image" if tally.num_failed == 1 else f"none of {tally.num_failed:,} images"
        not_ = " not" if tally.num_failed == 1 else ""
        raise DataError(f"{what} could{not_} be predicted: what is said above says why")
    return 1 if tally.num_failed else 0


def _device(name: str) -> "torch.device":
    from kdhpc.config.schema import DeviceConfig
    from kdhpc.training.runtime import resolve_runtime

    try:
        return resolve_runtime(DeviceConfig(device=name)).device  # type: ignore[arg-type]  # argparse has checked it
    except ConfigError as exc:
        raise UsageError(str(exc).replace("device.device=", "--device ")) from exc
