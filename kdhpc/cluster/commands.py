"""Running Slurm's commands: with a time limit, and without variables that would change what they do or print.

Many sites wrap these commands in scripts that print lines of their own. So each line of a table is asked for with a
mark at its beginning. Lines without the mark are skipped, and an answer without the table's header is an error.
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
# Slurm's messages when its controller is away, restarts or is overloaded, and the system's when the network fails.
_BUSY = re.compile(
    r"socket timed out|unable to contact slurm|in standby mode|zero bytes were transmitted"
    r"|temporarily (unable|unavailable)|connection (refused|timed out|reset)|not connected"
    r"|(connection|send|receive|shutdown) failure",
    re.IGNORECASE,
)
_UNCONFIGURED = re.compile(r"could not establish a configuration source|fetch_config: DNS SRV lookup failed")
# Variables that a job would inherit from the job that submits it. A nested sbatch or srun reads them, and the new job
# dies, hangs, or loads the wrong pickle.
_FOREIGN = re.compile(r"(SLURM|SBATCH|SRUN|SALLOC|SLURMD|SUBMITIT|SPANK)_.*|KDHPC_SLURM_JOB")
# Variables by which Slurm's client finds its controller and authenticates: these are kept.
_CLIENT = frozenset({"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT", "SLURM_SACK_SOCKET", "SLURM_SACK_KEY"})
# Variables by which users change these commands for themselves: other columns, a filter, a prompt, another cluster.
_HABITS = re.compile(r"(SQUEUE|SCANCEL|SCONTROL|SINFO)_.*|SLURM_CLUSTERS|SLURM_TIME_FORMAT|SLURM_LOCAL|SLURM_DEBUG")
# Variables that are valid on one node, or in one job, only.
_LOCAL = frozenset(
    {
        *("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"),
        *("ZE_AFFINITY_MASK", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TMPDIR"),
    }
)


class UnconfiguredError(ClusterError):
    """Slurm's commands are installed, but no cluster is configured for them. Trying again does not help."""


def ask(program: str, *arguments: str, timeout_s: float, cluster: str | None = None) -> str:
    """Run a Slurm command, and return what it prints to standard output.

    Args:
        program: Such as ``squeue``, ``scontrol``, ``scancel``.
        arguments: Its arguments.
        timeout_s: Longest time to wait, in seconds. Without a controller, the command itself would wait for longer.
        cluster: Name of the cluster to ask; None: that of this machine's configuration.

    Raises:
        ClusterBusyError: the command did not end in time, or reports that the controller is away.
        ClusterError: the command failed.
    """
    command = [program, *(("-M", cluster) if cluster else ()), *arguments]
    environment = {name: value for name, value in os.environ.items() if not _HABITS.fullmatch(name)}
    # Without a configuration file the client looks for one by DNS, which may take long to find that there is none.
    environment.setdefault("RES_OPTIONS", "timeout:1 attempts:2")
    done = run(command, environment, timeout_s=timeout_s)
    if done.returncode != 0:
        raise refusal(f"`{' '.join(command)}` failed", done.stderr or done.stdout)
    return done.stdout


def ask_patiently(program: str, *arguments: str, cluster: str | None = None) -> str:
    """As :func:`ask` with 30 s, and up to three times: a busy controller may refuse, or answer too late."""
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
    """Run a Slurm command without input, so that it cannot wait for an answer of the user's.

    Raises:
        ClusterBusyError: the command did not end in time.
        ClusterError: the command is not installed, or cannot be run.
    """
    try:
        # In a session of its own, so that a site's wrapper and the command that it runs can be killed together.
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
    """Format of a table for ``squeue -o``, which :func:`read_table` reads. A field that may hold ``|`` must be last."""
    return "|".join((_MARK, *fields))


def read_table(program: str, answer: str, first: str, num_fields: int) -> list[list[str]]:
    """Parse a table that was asked for with :func:`table_format`. Other lines of the answer are skipped.

    Args:
        program: The command that printed the answer, for messages.
        answer: Everything that it printed.
        first: Slurm's name of the first column, which identifies the header.
        num_fields: Number of columns.

    Returns:
        The rows, without the header.

    Raises:
        ClusterError: there is no header, so that an empty table could be no table at all; or a row is too short.
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
    """Seconds of Slurm's ``[days-][hours:]minutes:seconds``; None of any other text (``UNLIMITED``, ``INVALID``)."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text.strip())
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((24 * days + hours) * 60 + minutes) * 60 + seconds)


def require() -> None:
    """Check that Slurm's commands are installed on this machine.

    Raises:
        ClusterError: Slurm's commands are missing.
    """
    for program in ("sbatch", "srun", "squeue"):
        if shutil.which(program) is None:
            raise not_installed(program)


def require_configured() -> None:
    """Check that a cluster is configured for Slurm's commands. A controller that is busy or away is no error here.

    Raises:
        UnconfiguredError: no cluster is configured.
    """
    try:
        ask("scontrol", "ping", timeout_s=5.0)
    except UnconfiguredError:
        raise
    except ClusterError:
        return


@contextlib.contextmanager
def clean_environment() -> Iterator[None]:
    """While entered, variables that a new job must not inherit from this one are not in this process's environment."""
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
    """The error for a command that failed. Slurm's words tell whether it refused or is only busy."""
    if _UNCONFIGURED.search(words):
        return UnconfiguredError(
            "Slurm's commands know of no cluster on this machine: set SLURM_CONF to its slurm.conf"
        )
    kind = ClusterBusyError if _BUSY.search(words) else ClusterError
    return kind(f"{what}: {' '.join(words.split()) or 'it says nothing'}")


def not_understood(program: str, answer: str) -> ClusterError:
    """The error for an answer that cannot be understood."""
    words = "".join(character if character.isprintable() else " " for character in answer)
    shown = " ".join(words.split())
    cut = f"{shown[:_SHOWN_CHARACTERS]}..." if len(shown) > _SHOWN_CHARACTERS else shown
    path = shutil.which(Path(program).name)
    return ClusterError(f"the answer of {program} ({path}) is not understood: {cut or 'nothing'}")


def not_installed(program: str) -> ClusterError:
    """The error for a command of Slurm's that is not installed."""
    return ClusterError(f"{program} is not installed here: this must run on a machine of a Slurm cluster")
