"""A report of a search: one page that opens without a network, and its figures as files beside it."""

import json
import logging
import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from kdhpc.errors import KdhpcError, StorageError
from kdhpc.files.reading import read_whole
from kdhpc.files.writing import write_whole
from kdhpc.report.search_choices import compare_choices
from kdhpc.report.search_figures import NUM_CURVES, draw_figures
from kdhpc.report.search_page import Launch, render_page
from kdhpc.report.search_progress import follow_progress
from kdhpc.searching.manifest import Manifest, read_manifests
from kdhpc.study.definition import StudyDefinition, to_json
from kdhpc.study.search_history import read_search
from kdhpc.study.storage import Storage

PAGE = "index.html"
"""Name of the page in its folder."""
_MOST_LAUNCHES = 20
_PROGRAMS = ("kdhpc", "main.py", "__main__.py")
"""What the installed command is called by Python."""


@dataclass(frozen=True, kw_only=True)
class ReportFiles:
    """What was written."""

    page: Path
    """To be opened in a browser."""
    figures: tuple[Path, ...]
    """SVG and PNG of each figure."""


def report_search(storage: Storage, name: str, folder: Path, *, top: int) -> ReportFiles:
    """Write the report of a search as of now. The page is written last; files that are there are replaced.

    Args:
        storage: The server.
        name: Of the study; it may still run, and may have no complete trial.
        folder: Where to; made if needed.
        top: How many of the best graphs are drawn.

    Raises:
        UnknownStudyError: the study does not exist.
        StorageError: the file system refuses.
    """
    history = read_search(storage, name, top=max(top, NUM_CURVES))
    progress, choices = follow_progress(history), compare_choices(history)
    figures = draw_figures(history, progress, choices, folder, num_graphs=top)
    launches, frozen = _launches(name)
    page = render_page(
        history,
        choices,
        figures,
        num_graphs=top,
        launches=launches,
        definition=_definition_text(history.definition),
        frozen=frozen,
    )
    path = folder / PAGE
    write_whole(path, page)
    files = tuple(folder / f"{figure.name}.{ending}" for figure in figures.all for ending in ("svg", "png"))
    return ReportFiles(page=path, figures=files)


def _definition_text(definition: StudyDefinition) -> str:
    """What the study was made with, as YAML: all that a trial's numbers depend on."""
    document = json.loads(to_json(definition))
    for key in ("format", "version"):
        del document[key]
    if definition.precision is not None:
        document["precision"] = definition.precision
    return yaml.safe_dump(document, sort_keys=True, allow_unicode=True, default_flow_style=None, width=88)


def _launches(study: str) -> tuple[tuple[Launch, ...], str | None]:
    """The latest launches, the latest last, and the config of the last one; a damaged folder hides the rest of a report
    from nobody.
    """
    try:
        manifests = sorted(read_manifests(study), key=_moment)[-_MOST_LAUNCHES:]
    except KdhpcError as exc:
        logging.getLogger(__name__).warning("launches are left out of the report: %s", exc)
        return (), None
    found = tuple(
        Launch(when=_when(manifest), by=_by(manifest), command=command_line(manifest.command))
        for manifest in manifests
        if manifest.command
    )
    return found, _frozen(manifests)


def _frozen(manifests: Sequence[Manifest]) -> str | None:
    for manifest in reversed(manifests):
        try:
            return read_whole(manifest.config).decode()
        except (OSError, StorageError, UnicodeDecodeError):
            continue
    return None


def command_line(command: Sequence[str]) -> str:
    """A command as people type it."""
    program, *rest = command
    return shlex.join(["kdhpc" if Path(program).name in _PROGRAMS else program, *rest])


def _moment(manifest: Manifest) -> str:
    """Digits that sort by time; empty where the name has none."""
    found = re.search(r"\d{8}-\d{6}", manifest.launch)
    return found[0] if found else ""


def _when(manifest: Manifest) -> str:
    moment = _moment(manifest)
    return time.strftime("%Y-%m-%d %H:%M UTC", time.strptime(moment, "%Y%m%d-%H%M%S")) if moment else manifest.launch


def _by(manifest: Manifest) -> str:
    return f"{manifest.user} on {manifest.host}, kdhpc {manifest.kdhpc}" if manifest.host else "not known"
