"""What a training run leaves to read: one JSON line an epoch."""

import dataclasses
import json
import logging
import os
from pathlib import Path

import dacite

from kdhpc.training.loop import EpochReport

_LOG = logging.getLogger(__name__)


class MetricsLog:
    """Appends epoch reports to a file that a resumed run continues.

    For a moment two processes may append: a worker that was taken for dead, and the one that goes on with its trial.
    Of several lines of an epoch the last counts.

    Args:
        path: The ``metrics.jsonl``; its folder is made.
        epoch: Epochs that the run has behind it. Lines of later epochs (of a run that got further than its last
            checkpoint) are dropped: they will be written again.
    """

    def __init__(self, path: Path, *, epoch: int) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for at, line in _latest_lines(path).items() if at <= epoch]
        partial = path.with_suffix(".partial")
        partial.write_text("".join(f"{line}\n" for line in kept))
        partial.replace(path)

    def append(self, report: EpochReport) -> None:
        """Write one epoch's line at once, or warn that the disk refuses: what is left to read has a gap then."""
        line = f"{json.dumps(dataclasses.asdict(report))}\n".encode()
        try:
            self._append(line)
        except OSError as exc:
            _LOG.warning("epoch %d is not in %s: %s", report.epoch, self._path, exc)

    def _append(self, line: bytes) -> None:
        """All of it or nothing."""
        with self._path.open("ab", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            written = 0
            try:
                while written < len(line):
                    written += file.write(line[written:])
            except OSError:
                file.truncate(end)
                raise


def read_metrics(path: Path) -> tuple[EpochReport, ...]:
    """The reports in a file, by epoch."""
    rules = dacite.Config(cast=[tuple])
    return tuple(dacite.from_dict(EpochReport, json.loads(line), rules) for line in _latest_lines(path).values())


def _latest_lines(path: Path) -> dict[int, str]:
    """The last line of each epoch, by epoch; a killed run may leave half of one, which does not count."""
    if not path.exists():
        return {}
    lines = path.read_text().splitlines(keepends=True)
    latest = {json.loads(line)["epoch"]: line.rstrip("\n") for line in lines if line.endswith("}\n")}
    return {epoch: latest[epoch] for epoch in sorted(latest)}
