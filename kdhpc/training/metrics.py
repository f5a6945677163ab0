"""The metrics of a training run, for people and programs to read: one line of strict JSON for each epoch.

The file is a log, and no state: no damage to it, and no failure of its disk, ends a training.
"""

import dataclasses
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path

import dacite

from kdhpc.errors import StorageError
from kdhpc.files.json_text import parse_json, strict_json
from kdhpc.files.reading import read_whole
from kdhpc.files.storage_errors import storage_error
from kdhpc.files.writing import write_whole
from kdhpc.training.loop import EpochReport

_LOG = logging.getLogger(__name__)


class MetricsLog:
    """Appends epoch reports to a file that a resumed run continues.

    Epochs that end while the disk refuses are missing from it. Lines that cannot be read, such as a power cut leaves,
    are removed. For a moment two processes may append: a worker that was taken for dead, and the one that goes on with
    its trial. If an epoch has several lines, the last one counts.

    Args:
        path: The ``metrics.jsonl``; its folder is made.
        epoch: Number of epochs that the run has completed. Lines of later epochs (of a run that got further than its
            last checkpoint) are dropped: they will be written again.
    """

    def __init__(self, path: Path, *, epoch: int) -> None:
        self._path = path
        self._epoch = epoch
        self._is_open = self._try_to_open(tell=True)

    def append(self, report: EpochReport) -> None:
        """Write one epoch's line at once, or warn that the disk refuses."""
        self._is_open = self._is_open or self._try_to_open(tell=False)
        if not self._is_open:
            return
        try:
            self._append(f"{strict_json(dataclasses.asdict(report))}\n".encode())
        except OSError as exc:
            _LOG.warning("epoch %d is not in %s: %s", report.epoch, self._path, exc)

    def _try_to_open(self, *, tell: bool) -> bool:
        try:
            self._open()
        except (OSError, StorageError) as exc:
            if tell:
                why = exc if isinstance(exc, StorageError) else storage_error(exc, self._path, "written")
                _LOG.warning("epochs are not logged while this lasts: %s", why)
            return False
        return True

    def _open(self) -> None:
        """Remove from the file what cannot be read, and the lines of epochs that the run has not completed."""
        content = _read(self._path)
        lines, num_unreadable = _latest_lines(content)
        kept = b"".join(line + b"\n" for epoch, (line, _) in lines.items() if epoch <= self._epoch)
        if kept == content:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        else:
            write_whole(self._path, kept)
        if num_unreadable:
            _LOG.warning("%s: cut out what cannot be read, %d line(s)", self._path, num_unreadable)

    def _append(self, line: bytes) -> None:
        """Append a line: all of it or nothing."""
        with self._path.open("a+b", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            if end and os.pread(file.fileno(), 1, end - 1) != b"\n":
                line = b"\n" + line  # What another writer has left must not spoil it.
            written = 0
            try:
                while written < len(line):
                    written += file.write(line[written:])
            except OSError:
                file.truncate(end)
                raise


def read_metrics(path: Path) -> tuple[EpochReport, ...]:
    """The reports in a file, by epoch, as far as it can be read."""
    try:
        content = _read(path)
    except (OSError, StorageError) as exc:
        _LOG.warning("metrics are left out: %s", exc)
        return ()
    return tuple(report for _, report in _latest_lines(content)[0].values())


def _read(path: Path) -> bytes:
    try:
        return read_whole(path)
    except FileNotFoundError:
        return b""


def _latest_lines(content: bytes) -> tuple[dict[int, tuple[bytes, EpochReport]], int]:
    """The last readable line of each epoch, by epoch, with what it says; and how many cannot be read."""
    found: dict[int, tuple[bytes, EpochReport]] = {}
    num_unreadable = 0
    for line in content.split(b"\n"):
        report = _report(line)
        if report is not None:
            found[report.epoch] = (line, report)
        elif line:
            num_unreadable += 1
    return {epoch: found[epoch] for epoch in sorted(found)}, num_unreadable


def _report(line: bytes) -> EpochReport | None:
    """What a line says; None: it is half a line, NUL bytes, no JSON, or no report."""
    rules = dacite.Config(cast=[tuple], type_hooks={float: _number})
    try:
        document = parse_json(line)
        if not isinstance(document, Mapping):
            return None
        report = dacite.from_dict(EpochReport, document, rules)
    # Also raised: by numbers that are too large, and by brackets that are nested too deeply.
    except (ValueError, TypeError, ArithmeticError, RecursionError, dacite.DaciteError):
        return None
    return report if report.epoch > 0 and math.isfinite(report.seconds) else None


def _number(value: object) -> object:
    """A number from JSON, in which ``null`` stands for a number that is not finite."""
    if value is None:
        return math.nan
    return float(value) if isinstance(value, int) else value
