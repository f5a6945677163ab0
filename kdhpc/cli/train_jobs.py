"""Final trainings as jobs: processes of this machine, or Slurm's."""

import dataclasses
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError, UncompletedJobError

from kdhpc.cli.one_training import train_one
from kdhpc.cli.sweep_progress import SweepProgress
from kdhpc.cluster import slurm
from kdhpc.cluster.sbatch import submissions
from kdhpc.cluster.watcher import QueueWatcher
from kdhpc.config.launchers import LAUNCHERS, PREFIX, PYTHON
from kdhpc.config.overrides import read_overrides
from kdhpc.config.paths import sweep_dir
from kdhpc.config.schema import TrainConfig
from kdhpc.config.sweep import launch_sweep
from kdhpc.errors import ClusterError, ConfigError, DataError, StorageError
from kdhpc.final.result import read_result, result_line
from kdhpc.final.run import Run, describe
from kdhpc.folders import private_folder
from kdhpc.garbage import collect_seldom
from kdhpc.interpreter import check_modules, write_in_any_encoding

_LOG = logging.getLogger(__name__)
_PYTHON = f"{PREFIX}{PYTHON}="
_STOPPED = 130


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """Does one training of a sweep, in a job of its own."""

    gpus: tuple[str, ...] = ()
    """GPUs of this machine, which its jobs take in turn; None: the job has those that its environment shows."""
    threads: int | None = None
    """CPU threads, where the config leaves them open; None: the cores that Slurm gave, else torch's own choice."""

    def __call__(self, config: TrainConfig, number: int) -> str | None:
        """Train. Returns what went wrong, in one line.

        A Slurm job that is stopped leaves no result at all: whoever waits for it would take it for the last word, and
        Slurm may have put the job back into its queue.
        """
        if self.gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.gpus[number % len(self.gpus)]
        collect_seldom()
        write_in_any_encoding()
        try:
            check_modules()
            done = train_one(self._with_threads(config))
        except Exception as exc:  # The other jobs of a sweep go on.
            _LOG.exception("the training failed")
            return f"{describe(config)}: {' '.join(str(exc).split()) or type(exc).__name__}"
        if not done and slurm.in_job():
            sys.exit(_STOPPED)
        return None if done else f"{describe(config)}: stopped"

    def _with_threads(self, config: TrainConfig) -> TrainConfig:
        threads = config.device.threads or self.threads or slurm.own_cpus()
        return dataclasses.replace(config, device=dataclasses.replace(config.device, threads=threads))


def train_as_jobs(runs: Sequence[Run], overrides: Sequence[str], *, launcher: str, config_dir: Path | None) -> None:
    """Submit a job for each training, wait for all, and print the accuracies of those that are done.

    Args:
        runs: What is trained, one for each combination.
        overrides: What they were composed from; also ``hydra.launcher.*``, and ``hydra.launcher.python``, which is for
            these jobs what ``cluster.python`` is for workers.
        launcher: ``submitit_local`` or ``submitit_slurm``.
        config_dir: The user's own configs.

    Raises:
        ConfigError: ``hydra.launcher.python`` is no command.
        ClusterError: a job failed, was cancelled or could not be submitted; the message names the first.
    """
    if launcher == "submitit_slurm" and not slurm.is_available():
        raise ClusterError("Slurm's commands are not on this machine: --launcher submitit_slurm needs a cluster's node")
    python, overrides = _without_python(overrides)
    folder = sweep_dir(f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
    private_folder(folder / "jobs")
    _tell(runs, folder / "jobs")
    at_once, job = _local_plan(len(runs)) if launcher == "submitit_local" else (None, TrainJob())
    try:
        with submissions(python) as made, SweepProgress(runs):
            submitit.SlurmJob.watcher = QueueWatcher(made)
            outcomes = launch_sweep(
                job, overrides, launcher=LAUNCHERS[launcher], at_once=at_once, folder=folder, config_dir=config_dir
            )
    except (FailedJobError, FailedSubmissionError, UncompletedJobError) as exc:
        # submitit's own words: the job, and the end of its log over many lines.
        raise ClusterError(
            f"{' '.join(str(exc).split())[:300]} (logs: {folder / 'jobs'}; what else is in the queue goes on)"
        ) from exc
    finally:
        _print_results(runs)
    failed = [outcome for outcome in outcomes if outcome is not None]
    if failed:
        raise ClusterError(
            f"{len(failed)} of {len(outcomes)} trainings failed, the first: {failed[0]} (logs: {folder / 'jobs'})"
        )


def _without_python(overrides: Sequence[str]) -> tuple[str | None, list[str]]:
    """The command that starts the jobs' Python, if it is given, and the overrides that Hydra's launcher knows."""
    given = [word for word in overrides if word.startswith(_PYTHON)]
    found = read_overrides(TrainConfig, given)
    python = found[-1].value() if found else None
    if not isinstance(python, str | None):
        raise ConfigError(f"{given[-1]} is not allowed: one shell command, in quotes of its own")
    return python, [word for word in overrides if word not in given]


def _tell(runs: Sequence[Run], logs: Path) -> None:
    """What each training would say in its own log, once for all seeds, and where those logs are."""
    for run in {run.name: run for run in runs}.values():
        run.warn()
    print(f"kdhpc: jobs: {len(runs)}, logs: {logs}", file=sys.stderr, flush=True)


def _print_results(runs: Sequence[Run]) -> None:
    for run in runs:
        if run.paths.result.exists():
            try:
                print(result_line(read_result(run.paths.result)))
            except (DataError, StorageError) as exc:
                _LOG.warning("left out: %s", exc)


def _local_plan(num_jobs: int) -> tuple[int, TrainJob]:
    """How many jobs run on this machine at once, and what each may use."""
    import torch

    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    gpus = tuple(map(str, range(count))) if shown is None else tuple(shown.split(",")[:count])
    cores = len(os.sched_getaffinity(0))
    at_once = min(num_jobs, len(gpus) or cores)
    return at_once, TrainJob(gpus=gpus, threads=max(1, cores // at_once))
