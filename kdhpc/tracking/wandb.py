"""W&B: offline, unless ``WANDB_MODE`` says otherwise; `wandb sync` uploads what is there.

Offline, a process that goes on with a run begins a new folder with all epochs so far, under the same id; the folder of
the process before is superseded and removed. So each folder is a whole run, and whichever way it is uploaded, no epoch
is there twice. Online, W&B's server knows how far the run is.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import wandb

from kdhpc.files.removing import remove_tree
from kdhpc.tracking.run import State, TrackedRun

_OFFLINE = "offline-run-"


class WandB:
    """History over epochs; the config; state, versions and the graph in the summary and the config."""

    def __init__(self, run: TrackedRun) -> None:
        given = os.environ.get("WANDB_DIR")
        folder = Path(given) if given else run.folder
        folder.mkdir(parents=True, exist_ok=True)
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
        """Finish the run; what it supersedes is removed once it is on the disk."""
        if state != "lost":
            self._run.summary.update({"state": state, "reason": reason})
        self._run.finish(exit_code=1 if state in ("failed", "diverged") else 0)
        if self._run.offline:
            for folder in self._superseded:
                if folder.name != self.token:
                    remove_tree(folder)
