"""W&B: offline, unless ``WANDB_MODE`` says otherwise; `wandb sync` uploads what is there.

W&B writes in a process of its own, after it has said that it is done, and tells nobody of a full disk. So a run's file
is read at the end.

Offline, a process that goes on with a run begins a new folder with all epochs so far, under the same id; the folder of
the process before is superseded and removed. So each folder is a whole run, and whichever way it is uploaded, no epoch
is there twice. Online, W&B's server knows how far the run is.
"""

import os
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import wandb
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]  # made when it is imported

from kdhpc.files.removing import remove_tree
from kdhpc.tracking.run import NotKeptError, State, TrackedRun

_OFFLINE = "offline-run-"
_WRITTEN_S = 4.0
"""So long W&B may write after it has said that it is done; usually it takes 0.1 s."""
_BLOCK, _FILE_HEAD, _RECORD_HEAD = 32768, 7, struct.Struct("<IHB")
_LAST_PIECES = (1, 4)


class WandB:
    """History over epochs; the config; state, versions and the graph in the summary and the config."""

    def __init__(self, run: TrackedRun) -> None:
        given = os.environ.get("WANDB_DIR")
        folder = Path(given) if given else run.folder
        folder.mkdir(parents=True, exist_ok=True)
        # Its logs belong to what it writes, not into the home folder.
        os.environ.setdefault("WANDB_CACHE_DIR", str(folder / "wandb" / "cache"))
        self._superseded = [] if given else sorted((folder / "wandb").glob(f"{_OFFLINE}*-{run.run_id}"))
        self._run = wandb.init(
            id=run.run_id,
            project=os.environ.get("WANDB_PROJECT") or "kdhpc",
            group=run.group,
            name=f"{run.group} {run.name}",
            dir=str(folder),
            config={**run.config, "graph": run.graph, "drawing": run.drawing, "made_with": dict(run.made_with)},
            resume=None if os.environ.get("WANDB_MODE") == "offline" else "allow",
            reinit="create_new",
            # Nothing is measured, captured or read beside what is logged.
            settings=wandb.Settings(
                console="off", silent=True, x_disable_stats=True, disable_git=True, disable_code=True, save_code=False
            ),
        )
        self.token = Path(self._run.dir).parent.name if self._run.offline else run.run_id

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Log an epoch."""
        self._run.log({"epoch": epoch, **values}, step=epoch)

    def end(self, state: State, reason: str) -> None:
        """Finish the run; what it supersedes is removed once it is on the disk.

        Raises:
            NotKeptError: it did not come there.
        """
        if state != "lost":
            self._run.summary.update({"state": state, "reason": reason})
        self._run.finish(exit_code=1 if state in ("failed", "diverged") else 0)
        if self._run.offline:
            self._wait_until_written()
            for folder in self._superseded:
                if folder.name != self.token:
                    remove_tree(folder)

    def _wait_until_written(self) -> None:
        path = Path(self._run.dir).parent / f"run-{self._run.id}.wandb"
        deadline = time.monotonic() + _WRITTEN_S
        while not _has_end(path):
            if time.monotonic() > deadline:
                raise NotKeptError(f"{path} is not whole, as on a full disk")
            time.sleep(0.05)


def _has_end(path: Path) -> bool:
    """Whether a run's file goes to its end."""
    try:
        return any(Record.FromString(record).HasField("exit") for record in _records(path.read_bytes()))
    except (OSError, DecodeError):
        return False


def _records(content: bytes) -> Iterator[bytes]:
    """The records of a W&B file, which has LevelDB's log format behind a head of its own.

    Source: https://github.com/google/leveldb/blob/main/doc/log_format.md
    """
    at, record = _FILE_HEAD, b""
    while at + _RECORD_HEAD.size <= len(content):
        left = _BLOCK - at % _BLOCK
        if left < _RECORD_HEAD.size:
            at += left
            continue
        _, size, kind = _RECORD_HEAD.unpack_from(content, at)
        at += _RECORD_HEAD.size
        record += content[at : at + size]
        at += size
        if kind in _LAST_PIECES:
            yield record
            record = b""
