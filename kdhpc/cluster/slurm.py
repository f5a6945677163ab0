"""Slurm's queue, its clusters, and the job that this process is part of.

Jobs on two clusters may have the same number. So a job is named by its number and its cluster: ``7_3@gpu``. The cluster
of this machine's configuration is left out: ``7_3``. :func:`here` makes this short form.

Accounting (``sacct``) is never used, as many sites have none.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

from kdhpc.cluster.commands import ask, ask_patiently, parse_duration, read_table, table_format
from kdhpc.errors import ClusterError, UsageError

# The script last: its path may hold anything.
_FIELDS = ("%i", "%F", "%T", "%L", "%N", "%r", "%o")
_ENDED = frozenset({"CANCELLED", "COMPLETED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY"})
_NEVER = re.compile(r"held|hold|DependencyNeverSatisfied", re.IGNORECASE)
_OWN = "KDHPC_SLURM_JOB"
EXPORT_OWN_JOB = f"export {_OWN}=$SLURM_JOB_ID"
"""A line for scripts that are submitted in a clean environment. If a job has this variable with its own number, all of
Slurm's variables are its own, and none is inherited from another job."""


@dataclass(frozen=True, kw_only=True)
class QueuedJob:
    """A job, or a task of a job array, that Slurm has in its queue."""

    job: str
    """``<job>`` or ``<array job>_<task>``, with ``@<cluster>`` unless that is this machine's cluster."""
    array: str
    """``<job>`` or ``<array job>``, with the cluster in the same way."""
    state: str
    """Slurm's name of the state: RUNNING, PENDING, COMPLETING, ..."""
    time_left: str
    """Time until its limit, as Slurm writes it: ``1-02:00:00``, ``59:10``."""
    node: str
    """Node that it runs on; empty: it does not run."""
    reason: str
    """Slurm's reason why it waits."""
    script: str
    """Path of the script that was submitted."""

    @property
    def condition(self) -> str:
        """The state for people: running, ending, waiting (with the reason), held, waiting for requeue."""
        if self.state == "PENDING":
            if self.never_starts:
                return f"held ({self.reason})"
            # Slurm sets a time before which a requeued job may not start again (two minutes later, by default).
            return "waiting for requeue" if self.reason == "BeginTime" else f"waiting ({self.reason})"
        return {"RUNNING": "running", "COMPLETING": "ending"}.get(self.state, self.state.lower())

    @property
    def never_starts(self) -> bool:
        """Whether the job is held, or waits for something that cannot happen, so that a person has to act."""
        return self.state in ("SPECIAL_EXIT", "REQUEUE_HOLD") or (
            self.state == "PENDING" and _NEVER.search(self.reason) is not None
        )


@dataclass(frozen=True, kw_only=True)
class TimeLimit:
    """The time limit of a job."""

    left_s: float
    """Seconds until the limit, by Slurm's clock."""
    whole_s: float
    """Seconds from the job's start to the limit."""


def is_available() -> bool:
    """Whether this machine has Slurm's commands."""
    return shutil.which("squeue") is not None


def wanted_cluster(options: Iterable[str] = (), *, otherwise: str | None = None) -> str | None:
    """The cluster that jobs shall be submitted to; None: that of this machine's configuration.

    Args:
        options: Options of sbatch, such as ``clusters=gpu``.
        otherwise: Value of ``SLURM_CLUSTERS``, which counts if the options name no cluster.

    Raises:
        UsageError: several clusters are named, so that Slurm would choose one of them.
    """
    pairs = [option.partition("=") for option in options]
    given = [(f"clusters={value}", value) for name, _, value in pairs if name in ("clusters", "cluster")]
    if not given and otherwise:
        given = [(f"SLURM_CLUSTERS={otherwise}", otherwise)]
    if not given:
        return None
    source, cluster = given[-1]
    if not re.fullmatch(r"[\w.-]+", cluster) or cluster == "all":
        raise UsageError(f'{source} is not allowed: name one cluster, as cluster.sbatch=["clusters=NAME"]')
    return cluster


def elsewhere(cluster: str | None, *, patient: bool = True) -> str | None:
    """The name of a cluster that is not this machine's, for the option ``-M`` of Slurm's commands.

    Args:
        cluster: Name of a cluster; None: that of this machine's configuration.
        patient: As for :func:`local_cluster`.

    Returns:
        None: it is the cluster of this machine's configuration, for which ``-M`` is left out.

    Raises:
        ClusterError: Slurm does not tell this machine's cluster.
    """
    return here(qualified("", cluster), patient=patient).partition("@")[2] or None


def local_cluster(*, patient: bool = True) -> str | None:
    """Name of the cluster of this machine's configuration. It is asked for once, and then kept.

    Args:
        patient: As for :func:`queue`.

    Returns:
        None: Slurm's configuration has no such name.

    Raises:
        ClusterError: Slurm does not answer.
    """
    # Only Slurm's daemon on this machine sets SLURMD_NODENAME. Without it, SLURM_CLUSTER_NAME may be that of a job of
    # salloc on another cluster.
    named = os.environ.get("SLURM_CLUSTER_NAME") if "SLURMD_NODENAME" in os.environ else None
    return named or _config(None, patient=patient).name


def qualified(job: str, cluster: str | None) -> str:
    """The name of a job from its number and its cluster: ``7_3@gpu``; without a cluster ``7_3``."""
    return f"{job}@{cluster}" if cluster else job


def cluster_of(job: str) -> str | None:
    """The cluster in the name of a job; None: that of this machine's configuration."""
    return here(job).partition("@")[2] or None


def here(job: str, *, patient: bool = True) -> str:
    """The short name of a job, as :func:`queue` names it: without its cluster, if that is this machine's.

    Args:
        job: The job's number, with or without its cluster.
        patient: As for :func:`local_cluster`.

    Raises:
        ClusterError: Slurm does not tell this machine's cluster.
    """
    number, _, cluster = job.partition("@")
    is_elsewhere = cluster and cluster.casefold() != (local_cluster(patient=patient) or "").casefold()
    return job if is_elsewhere else number


def queue(clusters: Iterable[str | None] = (None,), *, patient: bool = False) -> tuple[QueuedJob, ...]:
    """This user's jobs that wait or run. Each task of an array is a job of its own.

    Args:
        clusters: The clusters to ask; None in it: that of this machine's configuration.
        patient: Try again if the controller is busy, which may take minutes; else give up after 5 s.

    Raises:
        ClusterError: there is no Slurm here, or one of these clusters does not answer in time.
    """
    different = sorted({elsewhere(cluster) for cluster in clusters}, key=str)
    jobs = (job for cluster in different for job in _queue(cluster, patient=patient))
    return tuple(job for job in jobs if job.state not in _ENDED)


def is_started(job: str) -> bool:
    """Whether a job is in its cluster's queue and is no longer pending. May take minutes if Slurm is busy.

    Raises:
        ClusterError: Slurm does not answer.
    """
    name = here(job)
    return any(queued.job == name and queued.state != "PENDING" for queued in queue((cluster_of(job),), patient=True))


def submitted_by(script: str, cluster: str | None) -> str | None:
    """Number of the job or array that was submitted with a script; None: there is none in the queue.

    Raises:
        ClusterError: Slurm does not answer.
    """
    jobs = _queue(cluster, "-t", "all", patient=True)
    return next((job.array.partition("@")[0] for job in jobs if job.script == script), None)


def job_names() -> set[str]:
    """Names of all jobs of this user that are in the queue of this machine's cluster.

    Raises:
        ClusterError: Slurm does not answer.
    """
    answer = ask_patiently("squeue", "-a", "-u", str(os.geteuid()), "-o", table_format(("%i", "%j")))
    return {name for _, name in read_table("squeue", answer, "JOBID", 2)}


def _queue(cluster: str | None, *options: str, patient: bool) -> list[QueuedJob]:
    # -a: also hidden partitions, whose jobs would seem to have ended otherwise.
    command = ("squeue", "-a", "-r", "-u", str(os.geteuid()), *options, "-o", table_format(_FIELDS))
    answer = ask_patiently(*command, cluster=cluster) if patient else ask(*command, timeout_s=5.0, cluster=cluster)
    return [
        QueuedJob(
            job=qualified(job, cluster),
            array=qualified(array, cluster),
            state=state,
            time_left=left,
            node=node,
            reason=reason,
            script=script,
        )
        for job, array, state, left, node, reason, script in read_table("squeue", answer, "JOBID", len(_FIELDS))
    ]


@dataclass(frozen=True, kw_only=True)
class _OwnJob:
    """The job that this process is part of."""

    number: str
    """``<job>`` or ``<array job>_<task>``, as Slurm's commands take it."""
    cluster: str | None
    """Name of its cluster; None: Slurm has not set it."""
    restarts: int
    """How many times Slurm has restarted the job."""
    cpus: int | None
    """CPU cores of a task; None: Slurm does not tell."""
    is_submitted: bool
    """The job runs a script that kdhpc submitted in a clean environment."""


def in_job() -> bool:
    """Whether this process is part of a Slurm job."""
    return bool(os.environ.get("SLURM_JOB_ID"))


def own_job() -> str | None:
    """Name of the Slurm job that this process is part of, with its cluster; None: it is not part of one.

    Raises:
        ClusterError: the variables may be inherited from another job, and Slurm does not answer which job this is.
    """
    own = _own_job()
    return None if own is None else qualified(own.number, own.cluster)


def own_cpus() -> int | None:
    """CPU cores that belong to this process's Slurm job; None: it is not part of one, or Slurm does not tell.

    Where Slurm does not confine jobs to their cores, the system itself shows all cores of the node.

    Raises:
        ClusterError: as :func:`own_job`.
    """
    own = _own_job()
    return None if own is None or own.cpus is None else min(own.cpus, len(os.sched_getaffinity(0)))


def num_restarts() -> int:
    """How many times Slurm has restarted this job; 0 if this process is not part of one.

    Raises:
        ClusterError: as :func:`own_job`.
    """
    own = _own_job()
    return 0 if own is None else own.restarts


def is_submitted() -> bool:
    """Whether this process is all that its job runs: submitit has made the job for one worker or one training."""
    own = _own_job()
    return own is not None and own.is_submitted


def _own_job() -> _OwnJob | None:
    number = os.environ.get("SLURM_JOB_ID")
    if not number:
        return None
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    restarts, cpus = os.environ.get("SLURM_RESTART_COUNT"), os.environ.get("SLURM_CPUS_PER_TASK")
    given = _OwnJob(
        number=f"{array}_{task}" if array and task else number,
        cluster=os.environ.get("SLURM_CLUSTER_NAME"),
        restarts=_count(restarts) or 0,
        cpus=_count(cpus),
        is_submitted=False,
    )
    # sbatch passes the variables of the job in which it is called on to the new job. Slurm sets only some of them anew.
    if os.environ.get(_OWN) == number:
        return replace(given, is_submitted=os.environ.get("SUBMITIT_EXECUTOR") == "slurm")
    if array or given.restarts:
        return _own_job_asked(given, number)
    return given


def _count(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


@lru_cache
def _own_job_asked(given: _OwnJob, number: str) -> _OwnJob:
    """This process's job as Slurm describes it, for when the variables may be inherited from another job.

    Raises:
        ClusterError: Slurm does not answer, or does not know the job.
    """
    shown = ask_patiently("scontrol", "show", "job", "-o", number)
    for line in shown.splitlines():
        values = dict(re.findall(r"(?:^|\s)(JobId|ArrayJobId|ArrayTaskId|Restarts)=(\d+)(?=\s|$)", line))
        if values.get("JobId") == number and "Restarts" in values:
            array, task = values.get("ArrayJobId"), values.get("ArrayTaskId")
            return replace(
                given, number=f"{array}_{task}" if array and task else number, restarts=int(values["Restarts"])
            )
    raise ClusterError(f"Slurm does not say whether job {number}, which this process is part of, is an array's task")


def requeue_own_job() -> None:
    """Put this job, or this array task alone, back into the queue. Slurm then ends this process by SIGTERM.

    Raises:
        ClusterError: Slurm refuses, or does not answer.
    """
    job = own_job()
    if job is None:
        raise ClusterError("this process is not part of a Slurm job: there is nothing to requeue")
    # Not by SLURM_JOB_ID: for one task of an array it is the number of the array, and would requeue all of its tasks.
    ask("scontrol", "requeue", _number(job), timeout_s=30.0, cluster=cluster_of(job))


def time_limit() -> TimeLimit | None:
    """The time limit of this process's job; None: there is none, or Slurm does not tell.

    It is not computed from ``SLURM_JOB_END_TIME``, as this machine's clock may differ from Slurm's.
    """
    with contextlib.suppress(ClusterError):
        job = own_job()
        if job is None:
            return None
        command = ("squeue", "-a", "-r", "-j", _number(job), "-o", table_format(("%i", "%L", "%l")))
        answer = ask(*command, timeout_s=30.0, cluster=cluster_of(job))
        for shown, *durations in read_table("squeue", answer, "JOBID", 3):
            left_s, whole_s = map(parse_duration, durations)
            if shown == _number(job) and left_s is not None and whole_s is not None:
                return TimeLimit(left_s=left_s, whole_s=whole_s)
    return None


def largest_array(cluster: str | None = None) -> int | None:
    """The largest number of tasks in a job array of a cluster; None: Slurm does not tell. May take minutes.

    Raises:
        ClusterError: Slurm does not answer.
    """
    return _config(cluster, patient=True).largest_array


def cancel(jobs: Iterable[str]) -> None:
    """Cancel jobs. Jobs that have ended already are no error.

    Raises:
        ClusterError: Slurm does not answer.
    """
    numbers: dict[str | None, list[str]] = {}
    for job in jobs:
        numbers.setdefault(cluster_of(job), []).append(_number(job))
    for cluster, given in numbers.items():
        ask("scancel", "--quiet", *given, timeout_s=30.0, cluster=cluster)


def _number(job: str) -> str:
    return job.partition("@")[0]


@dataclass(frozen=True, kw_only=True)
class _Config:
    """What is used of the output of ``scontrol show config``."""

    name: str | None
    largest_array: int | None


def _config(cluster: str | None, *, patient: bool) -> _Config:
    """The configuration of a cluster. It is asked for once and kept, under everything that the answer depends on."""
    key = (cluster, os.environ.get("SLURM_CONF"), shutil.which("scontrol"))
    if key not in _KNOWN:
        command = ("scontrol", "show", "config")
        shown = ask_patiently(*command, cluster=cluster) if patient else ask(*command, timeout_s=5.0, cluster=cluster)
        name = re.search(r"(?m)^ClusterName\s*=\s*(\S+)", shown)
        # MaxArraySize is one more than the largest index, so it is the number of tasks, counted from 0.
        size = re.search(r"(?m)^MaxArraySize\s*=\s*(\d+)", shown)
        _KNOWN[key] = _Config(name=name[1] if name else None, largest_array=int(size[1]) if size else None)
    return _KNOWN[key]


_KNOWN: dict[tuple[str | None, str | None, str | None], _Config] = {}
