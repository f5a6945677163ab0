"""The database of a launch: used where one runs, hosted by the launching process where none does."""

import logging
import os
import time
from dataclasses import replace
from types import TracebackType

from kdhpc.cluster import slurm
from kdhpc.cluster.signals import StopSignals
from kdhpc.config.paths import server_dir
from kdhpc.config.schema import ClusterConfig
from kdhpc.errors import ClusterError, DatabaseError
from kdhpc.study.endpoint import Endpoint, read_endpoint, write_endpoint
from kdhpc.study.server import ServerOptions, running, start, stop
from kdhpc.study.server_process import running_pid

_LOG = logging.getLogger(__name__)
_PATIENCE_S = 300.0
_POLL_S = 2.0


class Hosting:
    """Keeps the embedded server up while entered, if nobody else does.

    Several launching jobs may share one server. The first hosts it; when it goes, one of the others does.

    Args:
        cluster: Whom the server listens to, and how many workers it serves.
        stop: Whether this process is to stop.
    """

    def __init__(self, cluster: ClusterConfig, stop: StopSignals) -> None:
        self._folder = server_dir()
        self._signals = stop
        self._job = slurm.own_job()
        self._options = ServerOptions(
            listen=cluster.listen, allow=cluster.networks, workers=max(100, 2 * cluster.workers), job=self._job
        )
        self._is_given = bool(os.environ.get("KDHPC_STORAGE"))
        self._hosts = False

    @property
    def is_bound(self) -> bool:
        """Whether the server ends with this or another launching process, which must therefore stay."""
        if self._is_given:
            return False
        endpoint = read_endpoint(self._folder)
        return self._hosts or (self._job is not None and endpoint is not None and endpoint.job is not None)

    def __enter__(self) -> "Hosting":
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                self.keep_up()
                return self
            except DatabaseError as exc:
                # Another launching job may just be starting it, or Slurm not know yet that its node is dead.
                if self._job is None or self._signals.requested or time.monotonic() > deadline:
                    raise
                _LOG.warning("%s; trying again", exc)
            time.sleep(_POLL_S)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A server started from a shell stays: it ends with no job, and `kdhpc status` needs it.
        if self._hosts and self._job is not None:
            stopped = stop(self._folder, write_dump=not self._signals.terminated)
            _LOG.info("PostgreSQL stopped%s", f", dump: {stopped.dump}" if stopped.dump else "")

    def keep_up(self) -> None:
        """Start the server if none answers.

        Raises:
            DatabaseError: it does not start, or another machine may still run it.
        """
        if self._is_given:
            return
        endpoint = running(self._folder)
        if endpoint is None:
            endpoint = start(self._folder, self._options, take_over=self._is_abandoned()).endpoint
            self._hosts = True
            _LOG.info("PostgreSQL at %s:%d", endpoint.host, endpoint.port)
        elif not self._hosts and endpoint.job is not None and self._is_orphan(endpoint):
            write_endpoint(self._folder, replace(endpoint, job=self._job))
            self._hosts = True
            _LOG.info("PostgreSQL at %s:%d outlived job %s", endpoint.host, endpoint.port, endpoint.job)

    def _is_abandoned(self) -> bool:
        """Whether the job that hosted the server has ended for certain."""
        endpoint = read_endpoint(self._folder)
        return endpoint is not None and self._has_ended(endpoint.job)

    def _is_orphan(self, endpoint: Endpoint) -> bool:
        """Whether the server runs on this machine and its job has ended."""
        return running_pid(self._folder) == endpoint.pid and self._has_ended(endpoint.job)

    def _has_ended(self, job: str | None) -> bool:
        if job is None:
            return False
        if job == self._job:  # This is the same job, requeued.
            return True
        try:
            return all(queued.state == "PENDING" for queued in slurm.queue() if queued.job == job)
        except ClusterError as exc:
            _LOG.warning("cannot tell whether job %s has ended: %s", job, exc)
            return False
