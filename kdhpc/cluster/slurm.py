"""What Slurm is asked and told: about its queue, about a cluster, and about the job that this process is part of.

A job is known by its number and its cluster, as numbers of several clusters meet. In writing that is ``7_3@gpu``, or
``7_3`` alone where the cluster is that of this machine's configuration: see :func:`here`.

Accounting (``sacct``) is never asked: many sites have none.
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
"""A line for scripts that are submitted in a clean environment: by it their jobs know that all variables are theirs."""


@dataclass(frozen=True, kw_only=True)
class QueuedJob:
    """A job, or a task of a job array, that Slurm has in its queue."""

    job: str
    """``<job>`` or ``<array job>_<task>``, with ``@<cluster>`` where that is not this machine's."""
    array: str
    """The job, or its array, likewise."""
    state: str
    """Slurm's word: RUNNING, PENDING, COMPLETING, ..."""
    time_left: str
    """Until its time limit, as Slurm writes it: ``1-02:00:00``, ``59:10``."""
    node: str
    """Where it runs; empty: nowhere."""
    reason: str
    """Why it waits, in Slurm's words."""
    script: str
    """The path of what was given to sbatch."""

    @property
    def condition(self) -> str:
        """In words: running, ending, waiting (and for what), held, waiting for requeue."""
        if self.state == "PENDING":
            if self.never_starts:
                return f"held ({self.reason})"
            # What was requeued may not start again before a moment that Slurm has set (two minutes, by default).
            return "waiting for requeue" if self.reason == "BeginTime" else f"waiting ({self.reason})"
        return {"RUNNING": "running", "COMPLETING": "ending"}.get(self.state, self.state.lower())

    @property
    def never_starts(self) -> bool:
        """Whether it is held, or waits for what cannot come: somebody must do something."""
        return self.state in ("SPECIAL_EXIT", "REQUEUE_HOLD") or (
            self.state == "PENDING" and _NEVER.search(self.reason) is not None
        )


@dataclass(frozen=True, kw_only=True)
class TimeLimit:
    """Of a job."""

    left_s: float
    """Until it ends, by Slurm's clock."""
    whole_s: float
    """From the job's start."""


def is_available() -> bool:
    """Whether this machine has Slurm's commands."""
    return shutil.which("squeue") is not None


def wanted_cluster(options: Iterable[str] = (), *, otherwise: str | None = None) -> str | None:
    """The cluster that jobs are submitted to; None: that of this machine's configuration.

    Args:
        options: Of sbatch, as ``clusters=gpu``.
        otherwise: What ``SLURM_CLUSTERS`` says, where the options name none.

    Raises:
        UsageError: several clusters are named: which of them takes the jobs would be Slurm's choice.
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
    """A cluster as commands must be told of it; None: it is that of this machine's configuration.

    Args:
        cluster: Its name, or none.
        patient: As for :func:`local_cluster`.

    Raises:
        ClusterError: Slurm does not say which that is.
    """
    return here(qualified("", cluster), patient=patient).partition("@")[2] or None


def local_cluster(*, patient: bool = True) -> str | None:
    """The name of the cluster of this machine's configuration; None: Slurm does not say.

    Args:
        patient: As for :func:`queue`; a name that was told once is known.

    Raises:
        ClusterError: Slurm does not answer.
    """
    # Slurm's daemon on this machine says so. A job of salloc may be on another cluster than the machine it is used on.
    named = os.environ.get("SLURM_CLUSTER_NAME") if "SLURMD_NODENAME" in os.environ else None
    return named or _config(None, patient=patient).name


def qualified(job: str, cluster: str | None) -> str:
    """A job's number with its cluster."""
    return f"{job}@{cluster}" if cluster else job


def cluster_of(job: str) -> str | None:
    """The cluster that a job's name has, as :func:`here` asks for it; None: this machine's."""
    return here(job).partition("@")[2] or None


def here(job: str, *, patient: bool = True) -> str:
    """A job as :func:`queue` names it: without its cluster, if that is this machine's.

    Args:
        job: Its number, with or without its cluster.
        patient: As for :func:`local_cluster`.

    Raises:
        ClusterError: Slurm does not say which cluster that is.
    """
    number, _, cluster = job.partition("@")
    is_elsewhere = cluster and cluster.casefold() != (local_cluster(patient=patient) or "").casefold()
    return job if is_elsewhere else number


def queue(clusters: Iterable[str | None] = (None,), *, patient: bool = False) -> tuple[QueuedJob, ...]:
    """This user's jobs that wait or run, array tasks one by one.

    Args:
        clusters: Where to look; None: the cluster of this machine's configuration.
        patient: For what must not fail because the controller is busy: it may take minutes, and not 5 s.

    Raises:
        ClusterError: there is no Slurm here, or one of these clusters does not answer in time.
    """
    different = sorted({elsewhere(cluster) for cluster in clusters}, key=str)
    jobs = (job for cluster in different for job in _queue(cluster, patient=patient))
    return tuple(job for job in jobs if job.state not in _ENDED)


def is_started(job: str) -> bool:
    """Whether a job is in its cluster's queue, and does not wait there; Slurm may take its time to tell.

    Raises:
        ClusterError: Slurm does not answer.
    """
    name = here(job)
    return any(queued.job == name and queued.state != "PENDING" for queued in queue((cluster_of(job),), patient=True))


def submitted_by(script: str, cluster: str | None) -> str | None:
    """The job, or array, that a script was submitted for, as a number; None: Slurm does not know of one.

    Raises:
        ClusterError: Slurm does not answer.
    """
    jobs = _queue(cluster, "-t", "all", patient=True)
    return next((job.array.partition("@")[0] for job in jobs if job.script == script), None)


def _queue(cluster: str | None, *options: str, patient: bool) -> list[QueuedJob]:
    # All partitions: a hidden one's jobs would seem to have ended.
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
    """As Slurm's commands take it: array tasks as ``<array job>_<task>``."""
    cluster: str | None
    """Its cluster's name; None: Slurm has not set it."""
    restarts: int
    """How often Slurm started it before."""
    cpus: int | None
    """CPU cores of a task; None: Slurm does not say."""
    is_submitted: bool
    """A script of ours, submitted in a clean environment, is what the job runs."""


def in_job() -> bool:
    """Whether this process is part of a Slurm job."""
    return bool(os.environ.get("SLURM_JOB_ID"))


def own_job() -> str | None:
    """The Slurm job that this process is part of, with its cluster; none outside of one.

    Raises:
        ClusterError: another job's variables may be in the environment, and Slurm does not say.
    """
    own = _own_job()
    return None if own is None else qualified(own.number, own.cluster)


def own_cpus() -> int | None:
    """CPU cores that this process may use as part of a Slurm job; None: it is not, or Slurm does not say.

    Where Slurm does not confine jobs to their cores, everybody sees all of the node's.

    Raises:
        ClusterError: as :func:`own_job`.
    """
    own = _own_job()
    return None if own is None or own.cpus is None else min(own.cpus, len(os.sched_getaffinity(0)))


def num_restarts() -> int:
    """How often Slurm started this job before.

    Raises:
        ClusterError: as :func:`own_job`.
    """
    own = _own_job()
    return 0 if own is None else own.restarts


def is_submitted() -> bool:
    """Whether this process is all that its job does: the job was made by submitit, for one worker or one training."""
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
    # sbatch hands the variables of the job that it is called in on to the new one, where Slurm sets some of them anew.
    if os.environ.get(_OWN) == number:
        return replace(given, is_submitted=os.environ.get("SUBMITIT_EXECUTOR") == "slurm")
    if array or given.restarts:
        return _own_job_asked(given, number)
    return given


def _count(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


@lru_cache
def _own_job_asked(given: _OwnJob, number: str) -> _OwnJob:
    """What Slurm says of a job whose variables may be those of another.

    Raises:
        ClusterError: it does not answer, or does not know the job.
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
    # Never by SLURM_JOB_ID: that of an array's last task means the whole array.
    ask("scontrol", "requeue", _number(job), timeout_s=30.0, cluster=cluster_of(job))


def time_limit() -> TimeLimit | None:
    """This job's; None: it has none, or that cannot be found out.

    Asked, not computed from ``SLURM_JOB_END_TIME``: this machine's clock may be another than Slurm's.
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
    """How many tasks a job array may have on a cluster; None: Slurm does not say.

    Raises:
        ClusterError: Slurm does not answer; it may take minutes until that is sure.
    """
    return _config(cluster, patient=True).largest_array


def cancel(jobs: Iterable[str]) -> None:
    """Cancel jobs; those that have ended do not matter.

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
    """What ``scontrol show config`` tells of a cluster."""

    name: str | None
    largest_array: int | None


def _config(cluster: str | None, *, patient: bool) -> _Config:
    """The answer, kept: by all that it depends on."""
    key = (cluster, os.environ.get("SLURM_CONF"), shutil.which("scontrol"))
    if key not in _KNOWN:
        command = ("scontrol", "show", "config")
        shown = ask_patiently(*command, cluster=cluster) if patient else ask(*command, timeout_s=5.0, cluster=cluster)
        name = re.search(r"(?m)^ClusterName\s*=\s*(\S+)", shown)
        # The size is the first index that is not allowed.
        size = re.search(r"(?m)^MaxArraySize\s*=\s*(\d+)", shown)
        _KNOWN[key] = _Config(name=name[1] if name else None, largest_array=int(size[1]) if size else None)
    return _KNOWN[key]


_KNOWN: dict[tuple[str | None, str | None, str | None], _Config] = {}
