"""Trackers by name: whether what they need is installed, and how to look at what they have written."""

import importlib.util
import os
import shlex
from pathlib import Path

from kdhpc.config.paths import RunPaths, StudyPaths, final_root, mlflow_dir
from kdhpc.config.schema import TrackingConfig
from kdhpc.errors import ConfigError

BUILT_IN = {
    "tensorboard": "kdhpc.tracking.tensorboard:TensorBoard",
    "mlflow": "kdhpc.tracking.mlflow:MLflow",
    "wandb": "kdhpc.tracking.wandb:WandB",
}
"""Where each tracker's code is. The package that it needs, and the extra that brings it, have its name."""


def absence(tracker: str) -> str | None:
    """Why a tracker cannot be used here, in one line, as far as that can be told without importing it; None: it can."""
    module = tracker.partition(":")[0]
    if tracker == "none" or _is_installed(module):
        return None
    if tracker in BUILT_IN:
        return (
            f"tracking={tracker} needs the package {module}, which is not installed here: pip install 'kdhpc[{module}]'"
        )
    return (
        f"tracking={tracker} needs the module {module}, which is not found: give one of an installed package, or of a "
        "folder in PYTHONPATH (not of the working folder)"
    )


def refuse_absent(config: TrackingConfig) -> None:
    """Refuse a tracker that is not here, before anything is made or submitted.

    Raises:
        ConfigError: what it needs is not installed.
    """
    if why := absence(config.tracker):
        raise ConfigError(why)


def folder_of(tracker: str) -> str:
    """The name of its folder: its own, or of one's own class that of its module."""
    return tracker.partition(":")[0]


def how_to_look_at_study(config: TrackingConfig, name: str) -> str | None:
    """What shows a study's trials, as a line for people; None: nothing is tracked, or the tracker is the user's own."""
    folder = StudyPaths.of(name).tracking
    runs = shlex.quote(str(folder))
    return _how_to_look(config.tracker, events=folder / "tensorboard", runs=runs, store=folder / "mlflow")


def how_to_look_at_run(config: TrackingConfig, paths: RunPaths) -> str | None:
    """As `how_to_look_at_study`, of all seeds of a final training; in TensorBoard and MLflow beside other trainings."""
    runs = f"{shlex.quote(str(paths.root.parent))}/seed*/{paths.tracking.name}"
    return _how_to_look(config.tracker, events=final_root(), runs=runs, store=mlflow_dir())


def _how_to_look(tracker: str, *, events: Path, runs: str, store: Path) -> str | None:
    """The line; ``runs`` are the folders of W&B, as a shell is given them."""
    if tracker == "tensorboard":
        return f"`tensorboard --logdir {shlex.quote(str(events))}` shows what is tracked"
    if tracker == "mlflow":
        if os.environ.get("MLFLOW_TRACKING_URI"):
            return "tracked by MLflow where MLFLOW_TRACKING_URI says"
        ui = f"MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri {shlex.quote(str(store))}"
        return f"`{ui}` shows what is tracked"
    if tracker == "wandb":
        if os.environ.get("WANDB_MODE", "offline") != "offline":
            return f"tracked by W&B with WANDB_MODE={os.environ['WANDB_MODE']}"
        given = os.environ.get("WANDB_DIR")
        return f"`wandb sync {shlex.quote(given) if given else runs}/wandb/offline-run-*` uploads what is tracked"
    return None


def _is_installed(module: str) -> bool:
    """Whether there is such a module. A folder of that name, as W&B makes one where it writes, is none."""
    try:
        found = importlib.util.find_spec(module.partition(".")[0])
    except (ImportError, ValueError):
        return False
    return found is not None and found.origin is not None
