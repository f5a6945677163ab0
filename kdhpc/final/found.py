"""Finding the results of final trainings below folders. A training with copies counts once. Free of torch."""

import dataclasses
import json
import logging
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kdhpc.config.paths import RunPaths
from kdhpc.errors import DataError, StorageError
from kdhpc.files.reading import read_whole
from kdhpc.final.result import FinalResult, read_result

_LOG = logging.getLogger(__name__)
_SEED = re.compile(r"seed\d+")
_CONFIG, _RESULT = (path.name for path in (RunPaths(Path()).config, RunPaths(Path()).result))


@dataclass(frozen=True, kw_only=True)
class FoundResult:
    """A result, and the run's folder that it was found in."""

    paths: RunPaths
    """Paths of the run."""
    result: FinalResult
    """The result."""

    @property
    def is_in_place(self) -> bool:
        """Whether the folder is called ``NAME/seed<k>``, as training names it. A copy usually is not."""
        folder = self.paths.root.resolve()
        return folder.name == f"seed{self.result.seed}" and folder.parent.name == self.result.name


def seed_folders(folder: Path) -> tuple[Path, ...]:
    """The folders ``seed<k>`` in the folder of a training. Copies with other names do not count."""
    return tuple(sorted(path for path in folder.glob("seed*") if _SEED.fullmatch(path.name)))


def result_folders(folder: Path) -> tuple[Path, ...]:
    """Every folder with a result: the given one, and those below it, ordered by path.

    Warns of folders that cannot be listed.
    """

    def tell(exc: OSError) -> None:
        if not isinstance(exc, (FileNotFoundError, NotADirectoryError)):
            _LOG.warning("left out, cannot be looked into: %s: %s", exc.filename, exc.strerror)

    return tuple(sorted(Path(at) for at, _, files in os.walk(folder, onerror=tell) if _RESULT in files))


def holds_result(folder: Path) -> bool:
    """Whether a folder, or one below it, has a result."""
    return any(_RESULT in files for _, _, files in os.walk(folder))


def with_results(folders: Iterable[Path]) -> tuple[Path, ...]:
    """Those of the folders that have a result, or a folder below with one. If there are any, warns of the others."""
    folders = tuple(folders)
    found = tuple(folder for folder in folders if holds_result(folder))
    for folder in folders if found else ():
        if folder not in found:
            _LOG.warning("left out, no training in it is done: %s", folder)
    return found


def unfinished_folders(folder: Path) -> tuple[Path, ...]:
    """The folders below a folder with trainings that were begun and are not done, ordered by path."""
    begun = (Path(at) for at, _, files in os.walk(folder) if _CONFIG in files and _RESULT not in files)
    return tuple(sorted(path for path in begun if _SEED.fullmatch(path.name) and path != folder))


def find_results(folders: Iterable[Path]) -> tuple[FoundResult, ...]:
    """The results in folders and below them, ordered by path.

    Results with the same name, seed and settings belong to one training, of which one counts: the one that is in
    place (`FoundResult.is_in_place`), or else the first by path. Warns of the others, and of results that cannot be
    read.
    """
    # The same folder may be named twice.
    paths = {found.resolve(): found for folder in folders for found in result_folders(folder)}
    results: list[FoundResult] = []
    for path in sorted(paths.values()):
        try:
            results.append(_found(RunPaths(path)))
        except (DataError, StorageError) as exc:
            _LOG.warning("left out: %s", " ".join(str(exc).split()))
    kept = _each_once(results)
    return tuple(found for found in results if found in kept)


def why_no_result(paths: RunPaths) -> str:
    """Why a folder without a result is not that of a run that is done, as words after its name."""
    if not paths.root.is_dir():
        return "is no folder"
    if paths.config.exists():
        return "is not done, the command that began it goes on"
    seeds = [path.name for path in seed_folders(paths.root) if RunPaths(path).result.exists()]
    return f"holds several runs ({', '.join(seeds)})" if seeds else "is no run of `kdhpc train`"


def _each_once(results: Iterable[FoundResult]) -> list[FoundResult]:
    """One result for each training. Warns of those that are left out."""
    first: dict[tuple[str, int, str], FoundResult] = {}
    for found in sorted(results, key=lambda found: not found.is_in_place):
        result = found.result
        kept = first.setdefault((result.name, result.seed, result.settings), found)
        if kept is not found:
            _LOG.warning("left out, %s %s: %s", _relation(result, kept.result), kept.paths.root, found.paths.root)
    return list(first.values())


def _relation(result: FinalResult, kept: FinalResult) -> str:
    numbers, others = (
        (one.node_accuracies, one.ensemble_accuracy, one.weights, one.diverged_epoch) for one in (result, kept)
    )
    return "a copy of" if numbers == others else "another result for the same seed and settings as"


def _found(paths: RunPaths) -> FoundResult:
    result = read_result(paths.result)
    # A result from before `diverged_epoch` existed does not tell: the training went on to its end, and was scored. So
    # the log of its epochs is read. In fp16 an infinite loss does not mean that it diverged.
    said_nothing = result.divergence is None and not result.weights and result.precision != "fp16"
    epoch = _diverged_epoch(paths.metrics) if said_nothing else None
    if epoch is not None:
        result = dataclasses.replace(
            result,
            node_accuracies=None,
            ensemble_accuracy=None,
            diverged_epoch=epoch,
            diverged="a loss is not finite",
            scores=None,
        )
    return FoundResult(paths=paths, result=result)


def _diverged_epoch(metrics: Path) -> int | None:
    """The first epoch in a log whose loss is infinite or NaN; None: there is none, or the log cannot be read."""
    try:
        reports = [json.loads(line) for line in read_whole(metrics).decode().splitlines()]
        return next((r["epoch"] for r in reports if not all(map(math.isfinite, r["train_losses"]))), None)
    except (OSError, StorageError, ValueError, KeyError, TypeError, RecursionError):
        return None
