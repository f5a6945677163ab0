"""Workers on this machine that fail or warn, and what their launcher says about it."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import submitit
from submitit.core.utils import FailedJobError

from kdhpc.config.compose import compose_search
from kdhpc.errors import CaptureError, ClusterError, ConfigError, KdhpcError, StudyMismatchError
from kdhpc.searching import local
from kdhpc.searching.local import LocalFleet, for_this_machine
from kdhpc.searching.manifest import freeze_launch


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalFleet:
    monkeypatch.setenv("KDHPC_RUNS", str(tmp_path))
    return LocalFleet(freeze_launch("study", compose_search(["study=quickstart"])))


def test_search_whose_workers_cannot_work_says_why_and_stops_at_the_first(workspace, monkeypatch) -> None:
    """A GPU that is promised and is not there shows only to torch, in a worker."""
    monkeypatch.setitem(workspace.environment, "CUDA_VISIBLE_DEVICES", "99")
    done = workspace.run("search", "--study", "no-gpu", "study=tiny", "device.device=cuda", "--workers", "1")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("kdhpc: workers cannot work here: device.device=cuda cannot be used: torch ")
    logs = list((workspace.folder / "runs" / "no-gpu" / "jobs").glob("*/*_log.out"))
    assert len(logs) == 1
    assert f"(log: {logs[0]})" in last
    assert "Traceback" in logs[0].read_text()
    assert not list((workspace.folder / "runs" / "no-gpu" / "jobs").glob("*%*"))


def test_search_tells_what_workers_warn_of(workspace) -> None:
    checkpoint = workspace.folder / "runs" / "warned" / "trials" / "0" / "checkpoint.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"half a check")
    done = workspace.run("search", "--study", "warned", "study=tiny", "--trials", "1", "training.epochs=1")
    assert done.returncode == 0, done.stderr
    assert "kdhpc: trial 0 starts from its beginning: checkpoint" in done.stderr


def test_new_warnings_are_told_once_and_in_whole_lines(fleet: LocalFleet, tmp_path: Path) -> None:
    (config,) = (tmp_path / "study" / "config").iterdir()
    logs = tmp_path / "study" / "jobs" / config.stem
    logs.mkdir()
    one, other = logs / "1_0_log.out", logs / "2_0_log.out"
    one.write_text("2026-01-01 10:00:00,123 INFO starts\n2026-01-01 10:00:00,124 WARNING disk\n  more\n2026-01-01 10")
    other.write_text("2026-01-01 10:00:00,125 WARNING disk\n2026-01-01 10:00:00,126 ERROR trial 3 crashed\nTraceback\n")
    assert fleet.new_warnings() == ["disk", "trial 3 crashed"]
    assert fleet.new_warnings() == []
    with one.open("a") as log:
        log.write(":00:01,000 WARNING network\n2026-01-01 10:00:02,000 WARNING disk\n")
    assert fleet.new_warnings() == ["network"]


def _ended(folder: Path, error: str | None) -> SimpleNamespace:
    pickle = folder / "result.pkl"
    if error is not None:
        pickle.touch()
    paths = SimpleNamespace(result_pickle=pickle, stdout=folder / "log.out")
    return SimpleNamespace(done=lambda: True, exception=lambda: FailedJobError(error), paths=paths)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (None, "1 worker failed, the last: it was killed, or died before it could say why (log: "),
        (
            "Job (task=0) failed during processing with trace:\n----\nTraceback (most recent call last):\n"
            '  File "x.py", line 3, in work\nMemoryError: too large\n\n----\n'
            "You can check full logs with 'job.stderr(0)' at paths:\n  - /logs/7_log.out\n",
            "1 worker failed, the last: MemoryError: too large (log: ",
        ),
    ],
)
def test_check_says_how_the_last_worker_failed(
    fleet: LocalFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str | None, said: str
) -> None:
    monkeypatch.setattr(fleet, "_jobs", [_ended(tmp_path, error)])
    fleet.check(max_failures=1)
    with pytest.raises(ClusterError) as raised:
        fleet.check(max_failures=0)
    assert said in str(raised.value)


def test_check_counts_only_workers_that_failed_since_a_trial_ended_well(
    fleet: LocalFleet, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(fleet, "_jobs", [_ended(tmp_path, None)])
    with pytest.raises(ClusterError):
        fleet.check(max_failures=0)
    fleet.forgive()
    fleet.check(max_failures=0)


def test_for_this_machine_without_a_gpu_refuses_what_needs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    config = for_this_machine(compose_search(["study=quickstart", "cluster.workers=1000"]))
    assert (config.device.device, config.device.threads) == ("cpu", 1)
    for override in (
        "device.device=cuda",
        "device.precision=fp16",
        "device.mode=cudagraph",
        "device.node_streams=true",
    ):
        with pytest.raises(ConfigError, match=override):
            for_this_machine(compose_search(["study=quickstart", override]))


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [("0,1", ["0", "1"]), ("GPU-1a, MIG-2b", ["GPU-1a", "MIG-2b"]), ("0,-1,1", ["0"]), ("-1", [""]), ("", [""])],
)
def test_workers_are_given_one_visible_gpu_each_by_index_or_uuid(
    visible: str, gpus: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setenv("KDHPC_RUNS", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(local, "work", lambda study, config: seen.append(os.environ["CUDA_VISIBLE_DEVICES"]))
    monkeypatch.setattr(
        submitit.LocalExecutor, "submit", lambda executor, call, *arguments: SimpleNamespace(failed=call(*arguments))
    )
    LocalFleet(freeze_launch("study", compose_search(["study=quickstart"]))).start(len(gpus))
    assert seen == gpus


def test_search_on_cpus_does_not_mind_how_gpus_are_named(workspace, monkeypatch) -> None:
    monkeypatch.setitem(workspace.environment, "CUDA_VISIBLE_DEVICES", "MIG-0a1b")
    done = workspace.run(
        *("search", "--study", "by-uuid", "study=tiny", "--trials", "1", "training.epochs=1", "device.device=cpu")
    )
    assert done.returncode == 0, done.stderr


def test_for_this_machine_with_a_gpu_leaves_the_device_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    config = for_this_machine(compose_search(["study=quickstart", "device.threads=3", "device.mode=cudagraph"]))
    assert (config.device.device, config.device.threads) == ("auto", 3)


@pytest.mark.parametrize(
    ("error", "hopeless"),
    [(CaptureError("recording a CUDA graph failed"), False), (StudyMismatchError("made with something else"), True)],
)
def test_worker_that_fails_says_whether_another_would(error: KdhpcError, hopeless: bool, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(local, "work", fail)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert local._work("study", "config", "") == local.Failure(reason=str(error), hopeless=hopeless)
