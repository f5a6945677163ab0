"""What becomes of the predictions of ``kdhpc predict``: tables, files, pictures, and lines about those that failed.

Each is a function, or has one, that takes a result and its picture, as results come.
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from kdhpc.cli.table import Part, Table, show
from kdhpc.errors import UsageError
from kdhpc.files.json_text import strict_json
from kdhpc.files.reading import read_whole
from kdhpc.files.writing import replacing
from kdhpc.printing import one_line

if TYPE_CHECKING:
    from kdhpc.data.progress import Progress
    from kdhpc.inference.ensemble import Ensemble
    from kdhpc.inference.image_files import ImageFiles
    from kdhpc.inference.predicting import FileResult
    from kdhpc.inference.ranking import Classification, ClassProbability

Sink: TypeAlias = "Callable[[FileResult, Path | None], None]"
"""Takes a result, and the file of its picture if there is one."""

_MOST_NAMED = 20
"""Failures that get a line."""
_DRAWN = 3
"""Classes below a picture."""
_STEM = 40
_COLUMNS = ("image", "by", "rank", "class", "label", "probability", "attention", "error")


def refuse_to_replace(*, csv_path: Path | None, json_path: Path | None) -> None:
    """Refuse to write over a file that no earlier call has written, as a run's ``result.json`` or a table of labels.

    Raises:
        UsageError: there is such a file.
        StorageError: the file system refuses to read it.
    """
    for path, start in ((csv_path, ",".join(_COLUMNS)), (json_path, '{"run": ')):
        if path is not None and path.exists() and not read_whole(path, first=len(start)).startswith(start.encode()):
            raise UsageError(f"{path} exists, and `kdhpc predict` has not written it: name another file")


class Tally:
    """Counts results, and says at once which images failed and why.

    Args:
        progress: Where lines go.
        found: What was found, for what could not be looked into.
        files: Files that list all failures.
    """

    def __init__(self, progress: "Progress", found: "ImageFiles", files: Sequence[Path]) -> None:
        self._progress = progress
        self._files = files
        self._num_refused = len(found.refused)
        self._num_files = len(found.files)
        self._counts = False
        self.num_predicted = 0
        self.num_failed = len(found.refused)
        for skipped in found.skipped:
            progress.say(skipped.line)
        for error in found.refused:
            progress.say(f"not searched: {error}")

    def start(self) -> None:
        """Show from now on how many are done."""
        self._counts = True
        self._progress.start("images", self._num_files)

    def add(self, result: "FileResult", picture: Path | None) -> None:
        """Count a result."""
        if result.failure:
            self.num_failed += 1
            if self.num_failed - self._num_refused <= _MOST_NAMED:
                self._progress.say(f"not predicted: {result.path}: {result.failure}")
        else:
            self.num_predicted += 1
        if self._counts:
            self._progress.advance(1)

    def end(self) -> None:
        """Say how many failures were not named, and how many there are of how many."""
        more = self.num_failed - self._num_refused - _MOST_NAMED
        if more > 0:
            where = f"{self._files[0]} lists all" if self._files else "--csv FILE lists all"
            self._progress.say(f"not predicted: {more:,} more; {where}")
        if self.num_failed and self.num_predicted:
            done = f"{self.num_predicted:,} image{' is' if self.num_predicted == 1 else 's are'} predicted"
            self._progress.say(f"{done}, {self.num_failed:,} {'is' if self.num_failed == 1 else 'are'} not")


class Tables:
    """Tables on standard output: for few images one for each, for more of them a row for each.

    Args:
        ensemble: Whose predictions they are.
        is_wanted: Whether anything is shown.
    """

    FEW = 10
    """Most images that get a table each."""

    def __init__(self, ensemble: "Ensemble", *, is_wanted: bool) -> None:
        self._heads = _heads(ensemble)
        self._is_wanted = is_wanted
        self._few: list[tuple[str, Classification]] = []
        self._rows: list[tuple[str, ...]] = []

    def add(self, result: "FileResult", picture: Path | None) -> None:
        """Take a result."""
        if not self._is_wanted or result.classes is None:
            return
        name, best = one_line(str(result.path)), result.classes.ensemble[0]
        if len(self._few) <= self.FEW:
            self._few.append((name, result.classes))
        num_nodes = len(result.classes.nodes)
        agreeing = () if num_nodes == 1 else (f"{result.classes.num_agreeing} of {num_nodes}",)
        self._rows.append((name, best.name, _percent(best), *agreeing))

    def show(self) -> None:
        """Print them."""
        if 0 < len(self._rows) <= self.FEW:
            parts = [part for name, classes in self._few for part in ("", *self._parts(name, classes))]
            show(*parts[1:])
        elif self._rows:
            agreeing = ("nodes agree",) if len(self._heads) > 1 else ()
            show(Table(head=("image", "class", "probability", *agreeing), rows=self._rows, wraps=("image",)))

    def _parts(self, name: str, classes: "Classification") -> list[Part]:
        columns = [classes.ensemble, *(classes.nodes if len(self._heads) > 1 else ())]
        rows = [
            (str(rank), *(f"{_percent(one):>7}  {one.name}" for one in of_rank))
            for rank, of_rank in enumerate(zip(*columns, strict=True), start=1)
        ]
        return [name, Table(head=("", *self._heads), rows=rows, spare=self._heads[:0:-1])]


class Pictures:
    """A picture for each image, numbered in the order of the images.

    Args:
        folder: Where they are written.
        ensemble: Whose maps they show.
        num_images: Number of images.

    Raises:
        NetworkError: a node makes no attention map.
    """

    def __init__(self, folder: Path, ensemble: "Ensemble", num_images: int) -> None:
        ensemble.check_maps()
        self._folder = folder
        self._heads = ("Ensemble", *(head.capitalize() for head in _node_heads(ensemble)))
        self._digits = len(str(num_images))
        self._number = 0
        self.num_drawn = 0

    def draw(self, result: "FileResult") -> Path | None:
        """Draw one; None: it failed, so there is nothing to draw.

        Raises:
            StorageError: the file system refuses.
        """
        from kdhpc.report.draw_seen import draw_seen

        self._number += 1
        if result.classes is None or result.seen is None:
            return None
        stem = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in result.path.stem)
        path = self._folder / f"{self._number:0{self._digits}d}-{stem[:_STEM]}.png"
        by = (result.classes.ensemble, *result.classes.nodes)
        columns = [
            (head, [f"{_percent(one)}  {one.name}" for one in classes[:_DRAWN]])
            for head, classes in zip(self._heads, by, strict=True)
        ]
        draw_seen(str(result.path), result.seen.image, result.seen.maps, columns, path)
        self.num_drawn += 1
        return path


@contextmanager
def csv_file(path: Path) -> Iterator[Sink]:
    """A CSV file that appears, whole, when the block ends: a row for each image, node (or ensemble) and class.

    Raises:
        StorageError: the file system refuses.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)

        def add(result: "FileResult", picture: Path | None) -> None:
            name, drawn = one_line(str(result.path)), "" if picture is None else str(picture)
            if result.classes is None:
                writer.writerow([name, "", "", "", "", "", "", result.failure])
                return
            for by, classes in enumerate((result.classes.ensemble, *result.classes.nodes)):
                who = f"node {by}" if by else "ensemble"
                for rank, one in enumerate(classes, start=1):
                    writer.writerow([name, who, rank, one.name, one.label, one.probability, drawn, ""])

        yield add


@contextmanager
def json_file(path: Path, ensemble: "Ensemble", found: "ImageFiles") -> Iterator[Sink]:
    """A JSON file that appears, whole, when the block ends.

    Raises:
        StorageError: the file system refuses.
    """
    head = {
        "run": ensemble.run.label,
        "folder": _text(ensemble.run.paths.root),
        "classes": ensemble.classes,
        "networks": _networks(ensemble),
        "skipped": [{"reason": one.reason, "paths": [_text(path) for path in one.paths]} for one in found.skipped],
        "not_searched": [one_line(str(error)) for error in found.refused],
    }
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(f'{strict_json(head)[:-1]}, "images": [')
        separator = "\n"

        def add(result: "FileResult", picture: Path | None) -> None:
            nonlocal separator
            file.write(f"{separator}{strict_json(_document(result, picture))}")
            separator = ",\n"

        yield add
        file.write("\n]}\n")


def _document(result: "FileResult", picture: Path | None) -> dict[str, object]:
    classes = result.classes
    return {
        "image": _text(result.path),
        "error": result.failure or None,
        "ensemble": None if classes is None else _ranked(classes.ensemble),
        "nodes": None if classes is None else [_ranked(node) for node in classes.nodes],
        "attention": None if picture is None else _text(picture),
    }


def _ranked(classes: "Sequence[ClassProbability]") -> list[dict[str, object]]:
    return [{"class": one.name, "label": one.label, "probability": one.probability} for one in classes]


def _text(path: Path) -> str:
    """A path as JSON can have it: bytes that are no UTF-8 are written out."""
    text = str(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        return one_line(text)
    return text


def _percent(one: "ClassProbability") -> str:
    return f"{100 * one.probability:.1f} %"


def _heads(ensemble: "Ensemble") -> tuple[str, ...]:
    """What the tables' columns are called. A single network is its own ensemble."""
    nodes = _node_heads(ensemble)
    return ("ensemble", *nodes) if len(nodes) > 1 else ("prediction",)


def _node_heads(ensemble: "Ensemble") -> tuple[str, ...]:
    networks = _networks(ensemble)
    names = [f" ({name})" for name in networks] if len(set(networks)) > 1 else [""] * len(networks)
    return tuple(f"node {number}{name}" for number, name in enumerate(names, start=1))


def _networks(ensemble: "Ensemble") -> tuple[str, ...]:
    run = ensemble.run
    return run.config.network.nodes or (run.config.network.name,) * run.result.num_nodes
