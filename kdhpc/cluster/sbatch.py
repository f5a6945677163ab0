"""Submitting jobs with sbatch: the script that submitit writes, for one cluster, and how sbatch's answer is read."""

import contextlib
import logging
import os
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from submitit.core.core import Job
from submitit.core.utils import JobPaths
from submitit.slurm.slurm import SlurmExecutor, _make_sbatch_string

from kdhpc.cluster import slurm
from kdhpc.cluster.commands import clean_environment, not_understood, refusal, run
from kdhpc.errors import ClusterBusyError, ClusterError
from kdhpc.interpreter import child_python

_LOG = logging.getLogger(__name__)
_TIMEOUT_S = 300.0
_SENTENCE = re.compile(r"(?m)^\s*Submitted batch job (\d+)(?: on cluster (\S+))?\s*$")
_PARSABLE = re.compile(r"\A(\d+)(?:;(\S+))?\Z")


@dataclass(frozen=True, kw_only=True)
class Submissions:
    """The jobs that submitit submits while the context :func:`submissions` is entered."""

    otherwise: str | None = None
    """Value of ``SLURM_CLUSTERS``: the cluster for jobs whose options name none."""
    python: str | None = None
    """Shell command that starts the jobs' Python; None: see :func:`script_text`."""
    jobs: dict[str, str] = field(default_factory=dict)
    """Each job or array, with its cluster as :func:`kdhpc.cluster.slurm.qualified` writes it, by number."""

    def cluster_of(self, executor: SlurmExecutor) -> str | None:
        """The cluster that an executor submits to; None: that of this machine's configuration."""
        options = executor.parameters.get("additional_parameters") or {}
        return slurm.wanted_cluster([f"{name}={value}" for name, value in options.items()], otherwise=self.otherwise)

    def submit(self, executor: SlurmExecutor, command: str) -> "Job[object]":
        """Submit a job; in place of the method ``_submit_command`` of submitit's executor.

        As there, the script is moved to a path with the job's number, where the job looks for its pickles.

        Raises:
            ClusterError: as :func:`submit`.
        """
        cluster = slurm.elsewhere(self.cluster_of(executor))
        # Found out before submitting: if it failed afterwards, a job would be in the queue that nobody knows of.
        name = cluster or slurm.local_cluster()
        path = JobPaths.get_first_id_independent_folder(executor.folder) / f".submission_file_{uuid.uuid4().hex}.sh"
        path.write_bytes(os.fsencode(script_text(executor, command, cluster, self.python)))
        number, named = submit(path, cluster)
        self.jobs[number] = slurm.qualified(number, named or name)
        tasks = list(range(executor._num_tasks()))
        job: Job[object] = executor.job_class(folder=executor.folder, job_id=number, tasks=tasks)
        job.paths.move_temporary_file(path, "submission_file", keep_as_symlink=True)
        return job


@contextlib.contextmanager
def submissions(python: str | None = None) -> Iterator[Submissions]:
    """While entered, submitit submits its Slurm jobs by `Submissions.submit`, in a clean environment.

    Args:
        python: Shell command that starts their Python; None: see :func:`script_text`.
    """
    made = Submissions(otherwise=os.environ.get("SLURM_CLUSTERS"), python=python)
    before = SlurmExecutor._submit_command

    def submit_command(executor: SlurmExecutor, command: str) -> "Job[object]":
        return made.submit(executor, command)

    # The method of the class is replaced, not of one executor: submitit makes more executors for arrays.
    setattr(SlurmExecutor, "_submit_command", submit_command)  # noqa: B010  # mypy: methods are not assigned
    try:
        with clean_environment():
            yield made
    finally:
        setattr(SlurmExecutor, "_submit_command", before)  # noqa: B010


def script_text(executor: SlurmExecutor, command: str, cluster: str | None, python: str | None = None) -> str:
    """The script for sbatch: submitit's, with the cluster, and a line by which the job recognises its own variables.

    Unless ``python`` says how, the job's Python is started as :func:`kdhpc.interpreter.child_python` says, also when
    Hydra made the executor.
    """
    command = f"{python or child_python()}{command.removeprefix(executor.python)}"
    parameters = dict(executor.parameters)
    options = dict(parameters.get("additional_parameters") or {})
    others = {name: value for name, value in options.items() if name not in ("cluster", "clusters")}
    parameters["additional_parameters"] = {**others, **({"clusters": cluster} if cluster else {})}
    parameters["setup"] = [slurm.EXPORT_OWN_JOB, *(parameters.get("setup") or ())]
    return str(_make_sbatch_string(command=command, folder=executor.folder, **parameters))


def submit(script: Path, cluster: str | None) -> tuple[str, str | None]:
    """Submit a script with sbatch.

    If sbatch's answer is no clear success, the queue is searched for a job with the path of the script.

    Args:
        script: The script. Its path must be new for each submission.
        cluster: The cluster as :func:`kdhpc.cluster.slurm.elsewhere` gives it. The script names it as well.

    Returns:
        The number of the job or array, and its cluster if sbatch names one.

    Raises:
        ClusterBusyError: Slurm does not answer. It may have accepted the jobs all the same; then they are in its queue.
        ClusterError: Slurm refuses, or its answer cannot be understood.
    """
    try:
        done = run(["sbatch", str(script)], os.environ, timeout_s=_TIMEOUT_S)
    except ClusterBusyError as exc:
        return _found(script, cluster, exc)
    if done.returncode != 0:
        return _found(script, cluster, refusal("sbatch did not take the jobs", done.stderr or done.stdout))
    sentences = {*_SENTENCE.findall(done.stdout), *_PARSABLE.findall(done.stdout.strip())}
    if len(sentences) == 1:
        ((number, named),) = sentences
        return number, named or cluster
    strange = not_understood("sbatch", done.stdout)
    return _found(
        script, cluster, ClusterError(f"{strange}; the queue shows no job of this script, look at `squeue --me`")
    )


def _found(script: Path, cluster: str | None, error: ClusterError) -> tuple[str, str | None]:
    """Find the job of a script in the queue; if it is not there, raise the error."""
    try:
        number = slurm.submitted_by(str(script), cluster)
    except ClusterError as exc:
        kind = ClusterBusyError if isinstance(exc, ClusterBusyError) else ClusterError
        raise kind(f"{error}; whether the jobs are in Slurm's queue is not known: {exc}") from exc
    if number is None:
        raise error
    _LOG.warning("sbatch did not say so clearly, but Slurm has taken the jobs: job %s is in its queue", number)
    return number, cluster
