"""The last line of a worker's log: what a worker, or Slurm on its behalf, said before it vanished."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from kdhpc.config.paths import StudyPaths

_TAIL = 8192
"""Bytes."""


def last_words(study: str, jobs: Iterable[str]) -> Mapping[str, str]:
    """The last line of the log of each job that has one; jobs are named as in the database.

    Logs that cannot be read are left out: this is for people who look on, and to be tried again.
    """
    folder = StudyPaths.of(study).jobs
    found: dict[str, str] = {}
    for job in jobs:
        number = job.removeprefix("local-").partition("@")[0]
        try:
            logs = sorted(folder.glob(f"*/{number}_*_log.out"), key=lambda path: path.stat().st_mtime)
            line = _last_line(logs[-1]) if logs else None
        except OSError:
            continue
        if line:
            found[job] = line
    return found


def _last_line(path: Path) -> str | None:
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
        lines = file.read(_TAIL).decode("utf-8", "replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), None)
