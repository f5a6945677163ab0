"""The database of a launch. If no server runs, the launching process hosts one."""

import logging
import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from kdhpc.cluster import slurm
from kdhpc.cluster.signals import StopSignals
from kdhpc.config.paths import server_dir
from kdhpc.config.schema import ClusterConfig
from kdhpc.errors import ClusterError, DatabaseError, StorageError
from kdhpc.server.control import (
    ServerOptions,
    Started,
    adopt,
    reopen,
    running,
    running_here,
    start,
    stop,
    unstopped,
)
from kdhpc.server.endpoint import Endpoint, is_loopback, read_endpoint
from kdhpc.server.ownership import NotCertainError
from kdhpc.server.take_over import TakeoverTimeouts, refuse_beside_take_over, take_over

T = TypeVar("T")

_LOG = logging.getLogger(__name__)
_PATIENCE_S = 300.0
_POLL_S = 2.0
_TIMEOUTS = TakeoverTimeouts()
HOSTED = "KDHPC_HOSTED"
"""A variable of the environment: the process that started this one keeps the server running, and ends it."""


class ServerHost:
    """A context that keeps the embedded server running, unless another process does.

    Several launching jobs may share one server. The first hosts it; when it goes, one of the others does. Who hosts it
    stands in the server's record and the endpoint file.

    Args:
        cluster: Config that says where the server listens, and how many workers it serves.
        stop: Tells whether this process is to stop.
        timeouts: How long a take-over from another machine waits.
    """

    def __init__(self, cluster: ClusterConfig, stop: StopSignals, timeouts: TakeoverTimeouts = _TIMEOUTS) -> None:
        self._folder = server_dir().resolve()
        self._signals = stop
        self._timeouts = timeouts
        self._job = slurm.own_job()
        self._options = ServerOptions(
            listen=cluster.listen, allow=cluster.networks, workers=max(100, 2 * cluster.workers), job=self._job
        )
        # By another server's URL, or by the process that started this one.
        self._is_given = bool(os.environ.get("KDHPC_STORAGE") or os.environ.get(HOSTED))
        self._has_started = False

    @property
    def is_bound(self) -> bool:
        """Whether the server ends with this or another launching process, which must therefore stay."""
        if self._is_given:
            return False
        endpoint = read_endpoint(self._folder)
        return self._has_started or (self._job is not None and endpoint is not None and endpoint.job is not None)

    @property
    def ends_server(self) -> bool:
        """Whether the server ends with this process. One that was started from a shell stays: it ends with no job."""
        endpoint = None if self._is_given or self._job is None else running_here(self._folder)
        return endpoint is not None and endpoint.job == self._job

    @property
    def leaves_none(self) -> bool:
        """Whether workers have no server any more once this process is done: it ends with this one, or soon after."""
        return self.ends_server or bool(os.environ.get(HOSTED))

    def __enter__(self) -> "ServerHost":
        # A job may find that another one is just starting it, or that Slurm does not know yet that its node is dead.
        self.attend(lambda: None, patience_s=_PATIENCE_S if self._job else 0.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.ends_server:
            # Where a signal came, the little time that is left is for the shutdown.
            stopped = stop(self._folder, write_dump=not self._signals.requested)
            _LOG.info("PostgreSQL stopped%s", f", dump: {stopped.dump}" if stopped.dump else "")

    def attend(self, work: Callable[[], T], *, patience_s: float = _PATIENCE_S) -> T:
        """Do work on the database, and start the server again if it is away.

        Args:
            work: Called again after each failure of the database.
            patience_s: For how many seconds it is tried again.

        Raises:
            ClusterError: the workers could not reach the server.
            DatabaseError: it stays away, or this process is to stop.
        """
        deadline = time.monotonic() + patience_s
        while True:
            try:
                self.keep_up()
                return work()
            except DatabaseError as exc:
                if self._signals.requested or time.monotonic() > deadline:
                    raise
                _LOG.warning("%s; trying again", exc)
            time.sleep(_POLL_S)

    def keep_up(self) -> None:
        """Start the server if none answers.

        Raises:
            ClusterError: workers on other machines cannot reach it.
            DatabaseError: it does not start (also where a disk refuses), or another machine may still run it.
        """
        if self._is_given:
            return
        try:
            self._find_or_start()
        except StorageError as exc:
            # A disk that is full now may have room later, as a database that is away may come back.
            raise DatabaseError(f"the database cannot be kept up: {exc}") from exc

    def _find_or_start(self) -> None:
        endpoint = running(self._folder)
        if is_loopback(self._options.listen):
            raise ClusterError(_loopback(self._options.listen, "set cluster.listen to `all` or this machine's name"))
        if endpoint is None:
            self._has(self._start())
        elif is_loopback(endpoint.host):
            self._has(self._open(endpoint))
        elif self._is_orphan(endpoint) and adopt(self._folder, endpoint, self._job):
            self._has_started = True
            _LOG.info("PostgreSQL at %s:%d outlived job %s", endpoint.host, endpoint.port, endpoint.job)

    def _has(self, started: Started) -> None:
        if not started.already:
            self._has_started = True
            _LOG.info("PostgreSQL at %s:%d", started.endpoint.host, started.endpoint.port)

    def _open(self, endpoint: Endpoint) -> Started:
        """Let a server that was started for this machine alone serve the workers of other machines, too.

        Raises:
            ClusterError: it cannot be restarted, which somebody would notice, or from here.
        """
        started = reopen(self._folder, endpoint, self._options)
        if started is None or is_loopback(started.endpoint.host):
            raise ClusterError(
                _loopback(
                    endpoint.host,
                    "it is in use, or not to be ended from here: `kdhpc db stop` where it runs, then launch again",
                )
            )
        if not started.already:
            _LOG.info("PostgreSQL listened on %s only, and was restarted for workers on other machines", endpoint.host)
        return started

    def _start(self) -> Started:
        """Start the server here. If the last one may still run: only when the job that hosted it has ended."""
        before = unstopped(self._folder)
        if before is not None:
            # This machine may be cut off, and its server given up by the others.
            refuse_beside_take_over(self._folder)
        try:
            return start(self._folder, self._options)
        except NotCertainError:
            if before is None or not self._has_ended(before.job):
                raise
        return take_over(self._folder, self._options, before, self._timeouts, lambda: self._signals.requested)

    def _is_orphan(self, endpoint: Endpoint) -> bool:
        """Whether the server runs on this machine, and was another job's, which has ended."""
        is_others = endpoint.job not in (None, self._job)
        return is_others and running_here(self._folder) == endpoint and self._has_ended(endpoint.job)

    def _has_ended(self, job: str | None) -> bool:
        if job is None:
            return False
        if job == self._job:  # This is the same job, requeued.
            return True
        try:
            return not slurm.is_started(job)
        except ClusterError as exc:
            _LOG.warning("cannot tell whether job %s has ended: %s", job, exc)
            return False


def _loopback(host: str, way: str) -> str:
    return f"the database listens on {host} only, where workers on other machines cannot reach it: {way}"
