"""Running Slurm's commands: with a time limit, in an environment that means nothing else, and read only where certain.

Sites wrap these commands: their own words come before, after and between Slurm's. A table is asked for with a mark at
the head of each line, and counts as an answer when its header is there; whatever else is printed is not read.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from kdhpc.errors import ClusterBusyError, ClusterError

_PATIENT_TRIES = 3
_BETWEEN_TRIES_S = 2.0
_MARK = "kdhpc"
_SHOWN_CHARACTERS = 160
# Slurm's words for a controller that is away, restarts or has too much to do; errno's for the way there.
_BUSY = re.compile(
    r"socket timed out|unable to contact slurm|in standby mode|zero bytes were transmitted"
    r"|temporarily (unable|unavailable)|connection (refused|timed out|reset)|not connected"
    r"|(connection|send|receive|shutdown) failure",
    re.IGNORECASE,
)
_UNCONFIGURED = re.compile(r"could not establish a configuration source|fetch_config: DNS SRV lookup failed")
# What a job inherits from another: read by a nested sbatch or srun, they make jobs die, hang or read the wrong pickle.
_FOREIGN = re.compile(r"(SLURM|SBATCH|SRUN|SALLOC|SLURMD|SUBMITIT|SPANK)_.*|KDHPC_SLURM_JOB")
# How Slurm's client finds and convinces its controller: the user's own.
_CLIENT = frozenset({"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT", "SLURM_SACK_SOCKET", "SLURM_SACK_KEY"})
# What users set for their own use of these commands: other columns, a filter, a question before each job, a cluster.
_HABITS = re.compile(r"(SQUEUE|SCANCEL|SCONTROL|SINFO)_.*|SLURM_CLUSTERS|SLURM_TIME_FORMAT|SLURM_LOCAL|SLURM_DEBUG")
# And what is of one node or one job.
_LOCAL = frozenset(
    {
        *("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"),
        *("ZE_AFFINITY_MASK", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TMPDIR"),
    }
)


class UnconfiguredError(ClusterError):
    """Slurm's commands are here, and do not know of any cluster: asking again is in vain."""


def ask(program: str, *arguments: str, timeout_s: float, cluster: str | None = None) -> str:
    """What a Slurm command prints.

    Args:
        program: ``squeue``, ``scontrol``, ``scancel``.
        arguments: Its arguments.
        timeout_s: A controller that is away hangs it for longer.
        cluster: The one that is asked, by Slurm's name; None: that of this machine's configuration.

    Raises:
        ClusterBusyError: it did not answer in time, or says that the controller is away.
        ClusterError: it failed.
    """
    command = [program, *(("-M", cluster) if cluster else ()), *arguments]
    environment = {name: value for name, value in os.environ.items() if not _HABITS.fullmatch(name)}
    # Without a configuration its client asks DNS for one, which may take long to say that there is none.
    environment.setdefault("RES_OPTIONS", "timeout:1 attempts:2")
    done = run(command, environment, timeout_s=timeout_s)
    if done.returncode != 0:
        raise refusal(f"`{' '.join(command)}` failed", done.stderr or done.stdout)
    return done.stdout


def ask_patiently(program: str, *arguments: str, cluster: str | None = None) -> str:
    """As :func:`ask`, again where that fails: a busy controller refuses, or takes long."""
    for _ in range(_PATIENT_TRIES - 1):
        try:
            return ask(program, *arguments, timeout_s=30.0, cluster=cluster)
        except UnconfiguredError:
            raise
        except ClusterError:
            time.sleep(_BETWEEN_TRIES_S)
    return ask(program, *arguments, timeout_s=30.0, cluster=cluster)


def run(
    command: Sequence[str], environment: Mapping[str, str], *, timeout_s: float
) -> "subprocess.CompletedProcess[str]":
    """Run a Slurm command, which must not ask its user anything.

    Raises:
        ClusterBusyError: it did not end in time.
        ClusterError: it is not installed, or cannot be run.
    """
    try:
        # A session of its own: a site's wrapper is ended with the command that it waits for.
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
    except FileNotFoundError as exc:
        raise not_installed(command[0]) from exc
    except OSError as exc:
        raise ClusterError(f"{command[0]} cannot be run: {exc.strerror}") from exc
    with process:
        try:
            out, err = process.communicate(timeout=timeout_s)
        except BaseException as exc:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(exc, subprocess.TimeoutExpired):
                raise
            raise ClusterBusyError(
                f"{command[0]} did not answer within {timeout_s:.0f} s: is Slurm's controller up?"
            ) from exc
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def table_format(fields: Sequence[str]) -> str:
    """What ``squeue -o`` is given for a table that :func:`read_table` reads. A field that may hold ``|`` comes last."""
    return "|".join((_MARK, *fields))


def read_table(program: str, answer: str, first: str, num_fields: int) -> list[list[str]]:
    """The rows of a table that was asked for with :func:`table_format`, whatever a site prints around them.

    Args:
        program: Whose answer it is.
        answer: All that it printed.
        first: Slurm's name of the first field, by which the header is known.
        num_fields: How many there are.

    Raises:
        ClusterError: the header is not there: an empty table is not told from an answer to another question. Or a row
            has too few fields.
    """
    marked = [line.rstrip() for line in answer.splitlines() if line.startswith(f"{_MARK}|")]
    if not any(line.startswith(f"{_MARK}|{first}|") for line in marked):
        raise not_understood(program, answer)
    rows = [line.split("|", num_fields)[1:] for line in marked if not line.startswith(f"{_MARK}|{first}|")]
    for row in rows:
        if len(row) < num_fields:
            raise not_understood(program, "|".join((_MARK, *row)))
    return rows


def parse_duration(text: str) -> float | None:
    """Seconds of Slurm's ``[days-][hours:]minutes:seconds``; none of anything else (``UNLIMITED``, ``INVALID``)."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text.strip())
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((24 * days + hours) * 60 + minutes) * 60 + seconds)


def require() -> None:
    """See that this machine can submit jobs.

    Raises:
        ClusterError: Slurm's commands are missing.
    """
    for program in ("sbatch", "srun", "squeue"):
        if shutil.which(program) is None:
            raise not_installed(program)


def require_configured() -> None:
    """See that Slurm's commands know of a cluster, before anything is begun. One that is busy will answer later.

    Raises:
        UnconfiguredError: they do not.
    """
    try:
        ask("scontrol", "ping", timeout_s=5.0)
    except UnconfiguredError:
        raise
    except ClusterError:
        return


@contextlib.contextmanager
def clean_environment() -> Iterator[None]:
    """While entered, this process has nothing in its environment that another job must not inherit from this one."""
    in_job = "SLURM_JOB_ID" in os.environ
    dropped = {
        name: value
        for name, value in os.environ.items()
        if name not in _CLIENT and (_FOREIGN.fullmatch(name) or (name in _LOCAL and in_job))
    }
    for name in dropped:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(dropped)


def refusal(what: str, words: str) -> ClusterError:
    """The error of a command that failed, by what Slurm said: it has refused, or it is only busy."""
    if _UNCONFIGURED.search(words):
        return UnconfiguredError(
            "Slurm's commands know of no cluster on this machine: set SLURM_CONF to its slurm.conf"
        )
    kind = ClusterBusyError if _BUSY.search(words) else ClusterError
    return kind(f"{what}: {' '.join(words.split()) or 'it says nothing'}")


def not_understood(program: str, answer: str) -> ClusterError:
    """The error of an answer that may mean anything."""
    words = "".join(character if character.isprintable() else " " for character in answer)
    shown = " ".join(words.split())
    cut = f"{shown[:_SHOWN_CHARACTERS]}..." if len(shown) > _SHOWN_CHARACTERS else shown
    path = shutil.which(Path(program).name)
    return ClusterError(f"the answer of {program} ({path}) is not understood: {cut or 'nothing'}")


def not_installed(program: str) -> ClusterError:
    """The error of a machine without Slurm."""
    return ClusterError(f"{program} is not installed here: this must run on a machine of a Slurm cluster")
