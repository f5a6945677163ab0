"""A search on this machine: workers as processes, by submitit's local executor, watched until the budget is done."""

import contextlib
import os
import re
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import submitit

from kdhpc.cluster.signals import StopSignals
from kdhpc.config.schema import SearchConfig
from kdhpc.errors import ClusterError, ConfigError, DatabaseError, DeviceError, KdhpcError, StorageError
from kdhpc.interpreter import child_python
from kdhpc.searching.gpus import visible_gpus
from kdhpc.searching.job import work
from kdhpc.searching.manifest import Manifest
from kdhpc.server.control import ensure_server
from kdhpc.study.status import StudyStatus, read_status
from kdhpc.study.storage import Storage
from kdhpc.study.study import SharedStudy
from kdhpc.words import counted

_POLL_S = 1.0
_PATIENCE_S = 900.0
_YEAR_MIN = 60 * 24 * 365  # submitit's local executor always has a time limit; this machine has none.
_WARNING = re.compile(r"^\S+ \S+ (?:WARNING|ERROR) (.+)$", re.MULTILINE)  # Lines of `log_to_stderr`.


def search_locally(
    study: SharedStudy,
    config: SearchConfig,
    manifest: Manifest,
    storage: Storage,
    stop: StopSignals,
    show: Callable[[StudyStatus], None],
    tell: Callable[[str], None],
) -> bool:
    """Start workers on this machine and watch them until the budget is done or a signal comes.

    Workers that die are replaced, and their trials freed at once: this machine can see that their process is gone. An
    embedded database that is lost is started again. However this ends, no worker is left that nobody watches.

    Args:
        study: The study.
        config: Its config.
        manifest: Of the launch whose frozen config the workers read.
        storage: The database; its calls should not wait for long, as this process may be what brings it back.
        stop: Ends the search; a second signal ends the workers at once.
        show: Called with the status about once a second.
        tell: Called with what workers warn of, each thing once.

    Returns:
        True when every slot is done, False when stopped before.

    Raises:
        ClusterError: a worker cannot work, and no other could; or workers keep dying. The message says why.
        DatabaseError: the database stays away.
    """
    fleet = LocalFleet(manifest)
    stop.call_at_second(fleet.kill)
    try:
        is_done = _watch(fleet, study, config, storage, stop, show, tell)
        if not is_done:
            fleet.stop()
        fleet.wait()
    except BaseException:
        fleet.stop()
        fleet.wait()
        raise
    return is_done or _is_done(storage, study, show)


def _watch(
    fleet: "LocalFleet",
    study: SharedStudy,
    config: SearchConfig,
    storage: Storage,
    stop: StopSignals,
    show: Callable[[StudyStatus], None],
    tell: Callable[[str], None],
) -> bool:
    """Whether every slot is done; False when stopped or drained before."""
    outage = _Outage(storage, tell)
    num_ended_well = 0
    while not stop.requested:
        for warning in fleet.new_warnings():
            tell(warning)
        try:
            study.expire_dead()
            status = read_status(storage, study.definition.name, uid=study.uid)
        except DatabaseError as exc:
            if not stop.requested:
                outage.end(exc)
            continue
        outage.is_over()
        show(status)
        if status.unfinished == 0:
            return True
        if status.draining:
            return False
        fleet.check(max_failures=config.worker.max_failures * config.cluster.workers)
        if status.ended_well > num_ended_well:
            num_ended_well = status.ended_well
            fleet.forgive()
        wanted = min(config.cluster.workers, status.waiting + fleet.running())
        fleet.start(wanted - fleet.running())
        time.sleep(_POLL_S)
    return False


class _Outage:
    """A database that is away, and what a search can do about it.

    Args:
        storage: The database.
        tell: Called with what is done about it, each thing once.
    """

    def __init__(self, storage: Storage, tell: Callable[[str], None]) -> None:
        self._storage = storage
        self._tell = tell
        self._began: float | None = None
        self._told: set[str] = set()

    def is_over(self) -> None:
        """It answers."""
        self._began = None
        self._told.clear()

    def end(self, error: DatabaseError) -> None:
        """Start an embedded server again, unless somebody has stopped it; else wait a moment.

        Raises:
            DatabaseError: it has been away for too long.
        """
        now = time.monotonic()
        self._began = self._began or now
        if now - self._began > _PATIENCE_S:
            raise error
        try:
            if self._storage.address.is_stopped:
                self._say("the database was stopped: `kdhpc db start` starts it; waiting for it")
            else:
                ensure_server()
        except (DatabaseError, StorageError, OSError) as exc:
            self._say(f"{exc}; trying again")
        time.sleep(_POLL_S)

    def _say(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._tell(text)


def _is_done(storage: Storage, study: SharedStudy, show: Callable[[StudyStatus], None]) -> bool:
    """Whether the workers, when they were asked to stop, had just ended the last trials; False if nobody answers."""
    try:
        status = read_status(storage, study.definition.name, uid=study.uid)
    except DatabaseError:
        return False
    show(status)
    return status.unfinished == 0


def for_this_machine(config: SearchConfig) -> SearchConfig:
    """The config with which workers share this machine: the CPU where there is no GPU, and the cores, if not yet told.

    Raises:
        ConfigError: the workers would find no CUDA device here, and are to use one.
    """
    device = config.device
    if not visible_gpus():
        if device.device == "cuda":
            raise ConfigError("device.device=cuda cannot be used, this machine shows no GPU: use device.device=auto")
        # What needs CUDA is refused.
        device = replace(device, device="cpu")
    if device.threads is None:
        device = replace(device, threads=max(1, len(os.sched_getaffinity(0)) // config.cluster.workers))
    return replace(config, device=device)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """How a worker failed."""

    reason: str
    """One line."""
    hopeless: bool
    """Another worker would fail in the same way."""


class LocalFleet:
    """Worker processes that outlive neither their study nor a request to stop.

    Args:
        manifest: Of the launch that they belong to.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._study, self._config = manifest.study, manifest.config
        self._logs = manifest.logs
        self._jobs: list[submitit.Job[Failure | None]] = []
        self._num_started = 0
        self._gpus = visible_gpus()
        self._read: dict[Path, int] = {}
        self._warned: set[str] = set()

    def start(self, count: int) -> None:
        """Start more workers, over the visible GPUs in turn."""
        for _ in range(count):
            gpu = self._gpus[self._num_started % len(self._gpus)] if self._gpus else ""
            self._num_started += 1
            executor = submitit.LocalExecutor(self._logs, python=child_python())
            executor.update_parameters(timeout_min=_YEAR_MIN, stderr_to_stdout=True)
            with _ignoring_interrupts():
                self._jobs.append(executor.submit(_work, self._study, str(self._config), gpu))

    def running(self) -> int:
        """Workers whose process is alive."""
        return sum(not job.done() for job in self._jobs)

    def stop(self) -> None:
        """Ask every worker to checkpoint its trial and exit."""
        for job in self._jobs:
            if not job.done():
                # Its controller, which passes it on.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(job.job_id), signal.SIGTERM)

    def kill(self) -> None:
        """End every worker at once: its trial goes on from its last checkpoint, some day."""
        for job in self._jobs:
            controller = int(job.job_id)
            # The worker first: without its controller it would be nobody's child.
            for pid in (*_children(controller), controller):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def wait(self) -> None:
        """Until every worker has ended."""
        while self.running():
            time.sleep(_POLL_S / 10)

    def forgive(self) -> None:
        """Count no worker any more that has failed until now."""
        self._jobs = [job for job in self._jobs if not job.done()]

    def check(self, *, max_failures: int) -> None:
        """Look at the workers that have ended.

        Raises:
            ClusterError: one of them cannot work, or more than ``max_failures`` failed; the message has the reason.
        """
        failures = [(job, failure) for job in self._jobs if job.done() and (failure := _failure(job))]
        for job, failure in failures:
            if failure.hopeless:
                raise ClusterError(f"workers cannot work here: {failure.reason} (log: {job.paths.stdout})")
        if len(failures) > max_failures:
            job, failure = failures[-1]
            raise ClusterError(
                f"{counted(len(failures), 'worker')} failed, the last: {failure.reason} (log: {job.paths.stdout})"
            )

    def new_warnings(self) -> list[str]:
        """What workers have warned of since the last call, and never before."""
        told: list[str] = []
        for path in sorted(self._logs.glob("*_log.out")):
            with path.open("rb") as log:
                log.seek(self._read.get(path, 0))
                lines = log.read().rpartition(b"\n")[0]
            self._read[path] = self._read.get(path, 0) + len(lines)
            told += _WARNING.findall(lines.decode(errors="replace"))
        new = [warning for warning in dict.fromkeys(told) if warning not in self._warned]
        self._warned.update(new)
        return new


def _work(study: str, config_path: str, gpu: str) -> Failure | None:
    """What a worker process calls: tells its launcher in one line why it fails, and its log all of it."""
    # Before torch is loaded. submitit would do it, but for indices only, and many sites give a job's GPUs by UUID.
    os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    try:
        work(study, config_path)
    except KdhpcError as exc:
        traceback.print_exc()
        passes = isinstance(exc, (DatabaseError, ClusterError, DeviceError, StorageError))
        return Failure(reason=" ".join(str(exc).split()), hopeless=not passes)
    return None


def _failure(job: "submitit.Job[Failure | None]") -> Failure | None:
    """How a worker that has ended failed; None: it did not."""
    if not job.paths.result_pickle.exists():
        return Failure(reason="it was killed, or died before it could say why", hopeless=False)
    if job.exception() is None:
        return job.result()
    traced = [line for line in str(job.exception()).splitlines() if re.match(r"[\w.]+(: |$)", line)]
    return Failure(reason=traced[-1] if traced else type(job.exception()).__name__, hopeless=False)


@contextlib.contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """Children started here ignore Ctrl-C and a terminal that is closed, which are sent to them, too: submitit's
    controller would answer the one by killing its worker within a second, and die of the other. The launcher passes the
    wish on as SIGTERM instead."""
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    return []
