"""A trial that crashes: whose fault it is, who tries it again, and that every worker comes to an end."""

import os
import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from kdhpc.cluster.signals import StopSignals
from kdhpc.searching import trial_runner as room
from kdhpc.searching.trial_runner import Ended, TrialRunner
from kdhpc.searching.worker import _is_more_to_come
from kdhpc.study.status import read_status
from kdhpc.study.storage import Storage
from tests.searching.test_search import worker_logs
from tests.study.made import HERE, make, scalar, take

ELSEWHERE = replace(HERE, host="elsewhere", token="e" * 32)


def crash(storage: Storage, monkeypatch: pytest.MonkeyPatch, stop: StopSignals) -> Ended:
    """A trial that takes a signal and crashes over it, in a trial runner."""

    def interrupted(*_: object) -> None:
        signal.raise_signal(signal.SIGTERM)
        raise RuntimeError("DataLoader worker\nexited unexpectedly")

    monkeypatch.setattr(room, "prepare_training", interrupted)
    runner = TrialRunner(SimpleNamespace(), torch.device("cpu"), lambda: stop.requested)
    runner.take(take(make(storage, target=1)))
    ended = runner.step()
    assert ended is not None
    assert not runner.busy
    return ended


def test_crash_counts_an_attempt_and_names_the_machine(storage: Storage, monkeypatch) -> None:
    monkeypatch.setattr(signal, "raise_signal", lambda number: None)
    with StopSignals() as stop:
        assert crash(storage, monkeypatch, stop).crashed
    (crashed,) = read_status(storage, "tiny").crashes
    assert crashed.reason == f"RuntimeError: DataLoader worker exited unexpectedly (on {HERE.host})"
    assert crashed.attempts == 1


def test_crash_while_the_worker_is_being_ended_counts_no_attempt(storage: Storage, monkeypatch) -> None:
    with StopSignals() as stop:
        assert not crash(storage, monkeypatch, stop).crashed
    assert read_status(storage, "tiny").crashes == ()
    assert scalar(storage, "SELECT attempts FROM kdhpc_slots WHERE slot = 0") == 0


def test_worker_waits_for_a_trial_that_is_left_to_others(storage: Storage) -> None:
    study = make(storage, target=2)
    crashing, busy = take(study), take(study, ELSEWHERE)
    assert not _is_more_to_come(study, renew_s=20)
    crashing.crash("CUDA error")
    assert study.lease(HERE, lease_s=60, renew_s=20) is None
    assert _is_more_to_come(study, renew_s=20), "it may have it later"
    study.drain()
    assert not _is_more_to_come(study, renew_s=20)
    busy.release()


_BUG = """
from kdhpc.study.leased_trial import LeasedTrial

describe = LeasedTrial.describe


def crash(trial, **how):
    if trial.number == 0:
        raise RuntimeError("a bug\\nin the middle of a trial")
    describe(trial, **how)


LeasedTrial.describe = crash
"""


def test_search_with_a_trial_that_always_crashes_ends_and_says_why(workspace, tmp_path, monkeypatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(_BUG)  # Python runs it in every process at its start.
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    monkeypatch.setitem(workspace.environment, "PYTHONPATH", path)
    done = workspace.run("search", "--study", "broken", "study=tiny", "--workers", "1", "--trials", "2")
    assert done.returncode == 1, done.stderr
    status = workspace.status("broken")
    assert (status["trials"]["failed"], status["trials"]["complete"]) == (1, 1)
    (crash,) = status["crashes"]
    assert (crash["number"], crash["attempts"], crash["state"]) == (0, 3, "failed")
    assert crash["reason"].startswith("RuntimeError: a bug in the middle of a trial (on ")
    assert "RuntimeError: a bug" in workspace.run("status", "--study", "broken").stdout
    logs = worker_logs(workspace, "broken")
    assert logs.index("trial 1, slot 1, attempt 1: starts") < logs.index("trial 0, slot 0, attempt 2: starts")
