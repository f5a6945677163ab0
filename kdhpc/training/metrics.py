"""What a training run leaves to read: one JSON line an epoch."""

import dataclasses
import json
import os
from pathlib import Path

import dacite

from kdhpc.training.loop import EpochReport


class MetricsLog:
    """Appends epoch reports to a file that a resumed run continues.

    Args:
        path: The ``metrics.jsonl``; its folder is made.
        epoch: Epochs that the run has behind it. Lines of later epochs (of a run that got further than its last
            checkpoint) are dropped: they will be written again.
    """

    def __init__(self, path: Path, *, epoch: int) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in _whole_lines(path) if json.loads(line)["epoch"] <= epoch]
        partial = path.with_suffix(".partial")
        partial.write_text("".join(f"{line}\n" for line in kept))
        partial.replace(path)

    def append(self, report: EpochReport) -> None:
        """Write one epoch's line at once.

        Raises:
            OSError: the disk is full, for example; no part of the line was written.
        """
        line = f"{json.dumps(dataclasses.asdict(report))}\n".encode()
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
    return tuple(dacite.from_dict(EpochReport, json.loads(line), rules) for line in _whole_lines(path))


def _whole_lines(path: Path) -> list[str]:
    """Lines that were written to their end; a killed run may leave half of one."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [line.rstrip("\n") for line in lines if line.endswith("}\n")]
