"""Where everything lies: the one place that names a path.

Two folders, both below the working directory unless an environment variable says otherwise:
``$KDHPC_RUNS`` (``./runs``) for what a search writes, ``$KDHPC_DATA`` (``./data``) for packed data sets. What is called
by a name lies in its folder, whatever the name is: functions that take one raise ConfigError for one that leads away.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from kdhpc.config.names import inside

_COMPILED, _REPORTS, _SERVER, _SWEEPS, _TRAINED = "compile-cache", "report", "db", "sweeps", "train"
_DOCTOR = "doctor"
_MLFLOW = "_mlflow"
_REPRODUCED = "reproduce"
_SANDBOX = "slurm"  # Of tools/slurm_sandbox.
OWN_FOLDERS = (_COMPILED, _DOCTOR, _MLFLOW, _REPORTS, _REPRODUCED, _SERVER, _SWEEPS, _TRAINED, _SANDBOX)
"""What lies beside the studies in ``runs/``: names that no study can have."""


def runs_root() -> Path:
    """``$KDHPC_RUNS`` or ``./runs``, absolute."""
    return Path(os.environ.get("KDHPC_RUNS", "runs")).absolute()


def data_root() -> Path:
    """``$KDHPC_DATA`` or ``./data``, absolute."""
    return Path(os.environ.get("KDHPC_DATA", "data")).absolute()


def packed_dir(dataset: str) -> Path:
    """The packed form of a data set."""
    return inside(data_root(), dataset)


def compile_cache_dir() -> Path:
    """Compiled programs, for workers on other nodes to begin with."""
    return runs_root() / _COMPILED


def server_dir() -> Path:
    """The embedded PostgreSQL: its data, log, password and endpoint files."""
    return runs_root() / _SERVER


@dataclass(frozen=True)
class StudyPaths:
    """Paths of one study's run."""

    root: Path
    """``runs/<study>``."""

    @classmethod
    def of(cls, study: str) -> "StudyPaths":
        """The paths of a study by name."""
        return cls(inside(runs_root(), study))

    def config(self, launch: str) -> Path:
        """The frozen config of one launch, which its workers read."""
        return self.root / "config" / f"{launch}.yaml"

    def launch(self, launch: str) -> Path:
        """The manifest of one launch: what was submitted, when, by whom."""
        return self.root / "launches" / f"{launch}.json"

    def launch_jobs(self, launch: str) -> Path:
        """Logs of the workers of one launch: ``<process>_0_log.out``, on Slurm ``<array job>_<task>_0_log.out``."""
        return self.jobs / launch

    @property
    def jobs(self) -> Path:
        """What was submitted, as programs that workers start with, and their logs: private."""
        return self.root / "jobs"

    def trial(self, number: int) -> Path:
        """One trial's folder; given trials, which are outside the budget, have negative numbers."""
        return self.root / "given" / str(-number) if number < 0 else self.root / "trials" / str(number)

    def checkpoint(self, number: int) -> Path:
        """Where a trial goes on after an interruption."""
        return self.trial(number) / "checkpoint.pt"

    def metrics(self, number: int) -> Path:
        """One JSON line an epoch."""
        return self.trial(number) / "metrics.jsonl"

    @property
    def tracking(self) -> Path:
        """What trackers write of the study's trials."""
        return self.root / "tracking"

    def tracked(self, number: int) -> Path:
        """What a tracker has of a trial."""
        return self.trial(number) / "tracked.json"

    @property
    def export(self) -> Path:
        """The best graphs: JSON, drawings, CSV."""
        return self.root / "export"


@dataclass(frozen=True)
class RunPaths:
    """Paths of one final training."""

    root: Path
    """``runs/train/<name>/seed<k>``."""

    @classmethod
    def of(cls, name: str, seed: int) -> "RunPaths":
        """The paths of one seed of a named training."""
        return cls(inside(final_root(), name) / f"seed{seed}")

    @property
    def config(self) -> Path:
        """What it was trained with."""
        return self.root / "config.yaml"

    @property
    def checkpoint(self) -> Path:
        """Where it goes on after an interruption."""
        return self.root / "checkpoint.pt"

    @property
    def settings(self) -> Path:
        """Everything that its result depends on, which a run that goes on must agree with."""
        return self.root / "settings.json"

    @property
    def graph(self) -> Path:
        """The graph that is trained, whatever becomes of the file that it was read from."""
        return self.root / "graph.json"

    @property
    def lock(self) -> Path:
        """Held by the process that trains it."""
        return self.root / "lock"

    @property
    def owner(self) -> Path:
        """Names the process that trains it, for where locks do not meet."""
        return self.root / "owner.json"

    @property
    def metrics(self) -> Path:
        """One JSON line an epoch."""
        return self.root / "metrics.jsonl"

    @property
    def tracking(self) -> Path:
        """What trackers write of it; MLflow has one store for all runs, see :func:`mlflow_dir`."""
        return self.root / "tracking"

    @property
    def tracked(self) -> Path:
        """What a tracker has of it."""
        return self.root / "tracked.json"

    @property
    def result(self) -> Path:
        """Written when it is done: accuracies, and how they came about."""
        return self.root / "result.json"

    @property
    def model(self) -> Path:
        """Names of its classes and the form of its images: what its networks need where the data are not."""
        return self.root / "model.json"

    def weights(self, index: int) -> Path:
        """Final weights of a network; ``index`` counts from 0, the file's name from 1."""
        return self.root / f"node{index + 1}.safetensors"


def final_root() -> Path:
    """All final trainings."""
    return runs_root() / _TRAINED


def mlflow_dir() -> Path:
    """MLflow's store of final trainings."""
    return runs_root() / _MLFLOW


def sweep_dir(sweep: str) -> Path:
    """What Hydra and the jobs of one sweep of final trainings leave: configs and logs."""
    return inside(runs_root() / _SWEEPS, sweep)


def report_dir(report: str) -> Path:
    """Figures and tables of final trainings that are done."""
    return inside(runs_root() / _REPORTS, report)


def reproduced_dir(name: str) -> Path:
    """Tables and figures of the paper, by ``kdhpc reproduce``."""
    return inside(runs_root() / _REPRODUCED, name)


def doctor_dir(visit: str) -> Path:
    """What ``kdhpc doctor --job`` submitted, and what came back."""
    return inside(runs_root() / _DOCTOR, visit)
