"""What Slurm is asked and told: by its commands, each with a time limit, because a controller that is away hangs them.

Accounting (``sacct``) is never asked: many sites have none.
"""

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kdhpc.errors import ClusterBusyError, ClusterError

# The script last: its path may hold anything.
_FORMAT = "%i|%F|%T|%L|%N|%r|%o"
_PATIENT_TRIES = 3
_BETWEEN_TRIES_S = 2.0
# Slurm's words for a controller that is away, restarts or has too much to do; errno's for the way there.
_BUSY = re.compile(
    r"socket timed out|unable to contact slurm|in standby mode|zero bytes were transmitted"
    r"|temporarily (unable|unavailable)|connection (refused|timed out|reset)|not connected"
    r"|(connection|send|receive|shutdown) failure",
    re.IGNORECASE,
)
_ENDED = frozenset({"CANCELLED", "COMPLETED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY"})
# What a job inherits from another: read by a nested sbatch or srun, they make jobs die, hang or read the wrong pickle.
_FOREIGN = re.compile(r"(SLURM|SBATCH|SRUN|SLURMD|SUBMITIT|SPANK)_.*")
# And what is of one node or one job.
_LOCAL = frozenset(
    {
        *("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"),
        *("ZE_AFFINITY_MASK", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TMPDIR"),
    }
)


@dataclass(frozen=True, kw_only=True)
class QueuedJob:
    """A job, or a task of a job array, that Slurm has in its queue."""

    job: str
    """``<job>`` or ``<array job>_<task>``."""
    array: str
    """The job, or its array."""
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
        """In words: running, ending, waiting (and for what), waiting for requeue."""
        if self.state == "PENDING":
            # What was requeued may not start again before a moment that Slurm has set (two minutes, by default).
            return "waiting for requeue" if self.reason == "BeginTime" else f"waiting ({self.reason})"
        return {"RUNNING": "running", "COMPLETING": "ending"}.get(self.state, self.state.lower())


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


def require() -> None:
    """See that this machine can submit jobs.

    Raises:
        ClusterError: Slurm's commands are missing.
    """
    for program in ("sbatch", "srun", "squeue"):
        if shutil.which(program) is None:
            raise _not_installed(program)


def queue(*, patient: bool = False) -> tuple[QueuedJob, ...]:
    """This user's jobs that wait or run, array tasks one by one.

    Args:
        patient: For what must not fail because the controller is busy: it may take minutes, and not 5 s.

    Raises:
        ClusterError: there is no Slurm here, or it does not answer in time.
    """
    # All partitions: a hidden one's jobs would seem to have ended.
    command = ("squeue", "-h", "-a", "-r", "-u", str(os.geteuid()), "-o", _FORMAT)
    answer = _ask_patiently(*command) if patient else _ask(*command, timeout_s=5.0)
    rows = (line.split("|", 6) for line in answer.splitlines())
    jobs = (
        QueuedJob(job=job, array=array, state=state, time_left=left, node=node, reason=reason, script=script)
        for job, array, state, left, node, reason, script in rows
    )
    return tuple(job for job in jobs if job.state not in _ENDED)


def own_job() -> str | None:
    """The Slurm job that this process is part of: array tasks as ``<array job>_<task>``; none outside of one."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def own_cpus() -> int | None:
    """CPU cores that this process may use as part of a Slurm job; none: it is not, or Slurm does not say.

    Where Slurm does not confine jobs to their cores, everybody sees all of the node's.
    """
    given = os.environ.get("SLURM_CPUS_PER_TASK")
    return min(int(given), len(os.sched_getaffinity(0))) if given else None


def num_restarts() -> int:
    """How often Slurm started this job before."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def requeue_own_job() -> None:
    """Put this job, or this array task alone, back into the queue. Slurm then ends this process by SIGTERM.

    Raises:
        ClusterError: Slurm refuses, or does not answer.
    """
    job = own_job()
    if job is None:
        raise ClusterError("this process is not part of a Slurm job: there is nothing to requeue")
    # Never by SLURM_JOB_ID: that of an array's last task means the whole array.
    _ask("scontrol", "requeue", job, timeout_s=30.0)


def time_limit() -> TimeLimit | None:
    """This job's; none: it has none, or that cannot be found out.

    Asked, not computed from ``SLURM_JOB_END_TIME``: this machine's clock may be another than Slurm's.
    """
    job = own_job()
    if job is None:
        return None
    with contextlib.suppress(ClusterError):
        answer = _ask("squeue", "-h", "-a", "-r", "-j", job, "-o", "%i|%L|%l", timeout_s=30.0)
        for shown, *durations in (line.split("|") for line in answer.splitlines()):
            left_s, whole_s = map(parse_duration, durations)
            if shown == job and left_s is not None and whole_s is not None:
                return TimeLimit(left_s=left_s, whole_s=whole_s)
    return None


def parse_duration(text: str) -> float | None:
    """Seconds of Slurm's ``[days-][hours:]minutes:seconds``; none of anything else (``UNLIMITED``, ``INVALID``)."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text.strip())
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((24 * days + hours) * 60 + minutes) * 60 + seconds)


def largest_array() -> int | None:
    """How many tasks a job array may have; none: Slurm does not say.

    Raises:
        ClusterError: Slurm does not answer; it may take minutes until that is sure.
    """
    match = re.search(r"MaxArraySize\s*=\s*(\d+)", _ask_patiently("scontrol", "show", "config"))
    # The size is the first index that is not allowed.
    return int(match[1]) if match else None


def cancel(jobs: Iterable[str]) -> None:
    """Cancel jobs; those that have ended do not matter.

    Raises:
        ClusterError: Slurm does not answer.
    """
    given = tuple(jobs)
    if given:
        _ask("scancel", "--quiet", *given, timeout_s=30.0)


@contextlib.contextmanager
def clean_environment() -> Iterator[None]:
    """While entered, this process has nothing in its environment that another job must not inherit from this one."""
    dropped = {
        name: value
        for name, value in os.environ.items()
        if name != "SLURM_CONF" and (_FOREIGN.fullmatch(name) or (name in _LOCAL and own_job() is not None))
    }
    for name in dropped:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(dropped)


def refusal(what: str, words: str) -> ClusterError:
    """The error of a command that failed, by what Slurm said: it has refused, or it is only busy."""
    kind = ClusterBusyError if _BUSY.search(words) else ClusterError
    return kind(f"{what}: {' '.join(words.split())}")


def _ask_patiently(program: str, *arguments: str) -> str:
    """As ``_ask``, again where that fails: a busy controller refuses, or takes long."""
    for _ in range(_PATIENT_TRIES - 1):
        with contextlib.suppress(ClusterError):
            return _ask(program, *arguments, timeout_s=30.0)
        time.sleep(_BETWEEN_TRIES_S)
    return _ask(program, *arguments, timeout_s=30.0)


def _ask(program: str, *arguments: str, timeout_s: float) -> str:
    """What a Slurm command prints."""
    # What the user has set for the own use of squeue changes what it shows.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}
    try:
        done = subprocess.run(
            [program, *arguments],
            env=environment,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError as exc:
        raise _not_installed(program) from exc
    except subprocess.TimeoutExpired as exc:
        raise ClusterBusyError(f"{program} did not answer within {timeout_s:.0f} s: is Slurm's controller up?") from exc
    if done.returncode != 0:
        raise refusal(f"`{program} {' '.join(arguments)}` failed", done.stderr or done.stdout)
    return done.stdout


def _not_installed(program: str) -> ClusterError:
    return ClusterError(f"{program} is not installed here: this must run on a machine of a Slurm cluster")
