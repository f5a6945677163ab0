"""MLflow: a run in an experiment of the group's name, in a store of files unless ``MLFLOW_TRACKING_URI`` names another.

A store of files, as each run has a folder of its own in it: workers on many nodes write side by side. SQLite, MLflow's
default, has one file, which must not be shared over NFS.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Mapping

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from kdhpc.files.locking import FileLock
from kdhpc.tracking.run import State, TrackedRun

_STATUS: Mapping[State, str] = {
    "complete": "FINISHED",
    "pruned": "FINISHED",
    "diverged": "FAILED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}
_ALWAYS_THERE = "loss/mean"
_LONGEST_VALUE = 500
_MOST_PARAMS = 100
"""MLflow takes no more at once."""


class MLflow:
    """Metrics over epochs; state and versions as tags; config and graph as artifacts.

    Parameters are values of the config that differ in the group: each is a file, and a study has thousands of trials.
    """

    def __init__(self, run: TrackedRun) -> None:
        named = os.environ.get("MLFLOW_TRACKING_URI")
        uri = named or run.store.as_uri()
        # Not the URI itself, which may hold a password; and not a path, which may be another one on another machine.
        store = hashlib.sha256(uri.encode()).hexdigest()[:16] if named else "files"
        self._client = MlflowClient(tracking_uri=uri)
        known_store, _, known_run = (run.token or "").partition(" ")
        if known_store == store and self._goes_on(known_run):
            self._id = known_run
            # kdhpc may have been killed before it wrote down how far it was.
            self._known = {point.step for point in self._client.get_metric_history(known_run, _ALWAYS_THERE)}
        else:
            self._known = set()
            self._id = self._create(run, None if named else run.store)
        self.token = f"{store} {self._id}"

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        """Log an epoch's metrics."""
        if epoch in self._known:
            return
        now_ms = int(time.time() * 1000)
        self._client.log_batch(self._id, metrics=[Metric(key, value, now_ms, epoch) for key, value in values.items()])

    def end(self, state: State, reason: str) -> None:
        """Set its status; MLflow has fewer than kdhpc, whose own is a tag."""
        if state == "lost":
            return
        self._client.log_batch(self._id, tags=[RunTag("kdhpc.state", state), RunTag("kdhpc.reason", reason)])
        self._client.set_terminated(self._id, _STATUS[state])

    def _goes_on(self, run_id: str) -> bool:
        """Whether the store still has the run, which then runs again."""
        try:
            found = self._client.get_run(run_id)
        except MlflowException as exc:
            if exc.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        if found.info.lifecycle_stage != "active":
            return False
        self._client.update_run(run_id, status="RUNNING")
        return True

    def _create(self, run: TrackedRun, store: "os.PathLike[str] | None") -> str:
        experiment = self._experiment(run, is_local=store is not None)
        tags = {"kdhpc.run": run.run_id, "kdhpc.state": "running"}
        tags |= {f"kdhpc.{key}": value for key, value in run.made_with.items()}
        run_id: str = self._client.create_run(experiment, run_name=run.name, tags=tags).info.run_id
        params = [Param(key, str(value)[:_LONGEST_VALUE]) for key, value in run.own.items()]
        for first in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(run_id, params=params[first : first + _MOST_PARAMS])
        self._client.log_dict(run_id, dict(run.config), "config.json")
        if run.graph:
            self._client.log_text(run_id, run.graph, "graph.json")
            self._client.log_text(run_id, run.drawing, "graph.txt")
        return run_id

    def _experiment(self, run: TrackedRun, *, is_local: bool) -> str:
        """The experiment of the group, or of MLFLOW_EXPERIMENT_NAME; one of several processes makes it."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or run.group
        if not is_local:
            return self._found(name) or self._made(name)
        with FileLock.take(run.store.with_name(f"{run.store.name}.lock"), wait=True) or contextlib.nullcontext():
            return self._found(name) or self._made(name)

    def _found(self, name: str) -> str | None:
        found = self._client.get_experiment_by_name(name)
        return None if found is None else str(found.experiment_id)

    def _made(self, name: str) -> str:
        try:
            return str(self._client.create_experiment(name))
        except MlflowException:
            if (found := self._found(name)) is None:
                raise
            return found
