"""A disk in a trial's way: that is no fault of the trial, whatever it costs the worker."""

import errno
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from kdhpc.cluster.signals import StopSignals
from kdhpc.errors import StorageError, StudyMismatchError
from kdhpc.files import storage_errors
from kdhpc.searching import trial_runner as room
from kdhpc.searching import worker as worker_room
from kdhpc.searching.trial import TrialSetting
from kdhpc.searching.trial_runner import TrialRunner
from kdhpc.searching.worker import run_worker
from kdhpc.study.status import read_status
from kdhpc.study.storage import Storage
from tests.faults import FaultyDisk
from tests.searching.test_trial import FOUR, setting_of
from tests.study.made import make, optuna_trials, scalar, take


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_errors, "_PAUSES_S", (0.01, 0.01, 0.01))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def failing(error: Exception):
    def fail(*_: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    "error",
    [
        StorageError("/runs/x cannot be read: Stale file handle"),
        OSError(errno.EIO, "Input/output error", "/runs/x"),
        OSError(errno.ENOSPC, "No space left on device: /runs/x"),
        PermissionError(errno.EACCES, "Permission denied", "/runs/x"),
    ],
)
def test_runner_gives_a_trial_back_that_a_disk_is_in_the_way_of(storage: Storage, monkeypatch, error, caplog) -> None:
    monkeypatch.setattr(room, "prepare_training", failing(error))
    study, is_stopping = make(storage, target=1), []
    runner = TrialRunner(SimpleNamespace(), torch.device("cpu"), lambda: bool(is_stopping))
    runner.take(take(study))
    with pytest.raises(StorageError, match=r"^trial 0 is given back, .*/runs/x"):
        runner.step()
    assert not runner.busy
    is_stopping.append(True)
    runner.take(take(study))
    ended = runner.step()
    assert (ended.finished, ended.crashed) == (False, False)
    assert "trial 0 is given back, " in caplog.text
    assert scalar(storage, "SELECT attempts FROM kdhpc_slots WHERE slot = 0") == 0
    assert read_status(storage, "tiny").crashes == ()


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/a/library.so"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
    ],
)
def test_runner_counts_an_attempt_for_what_is_no_disk(storage: Storage, monkeypatch, error) -> None:
    monkeypatch.setattr(room, "prepare_training", failing(error))
    runner = TrialRunner(SimpleNamespace(), torch.device("cpu"), lambda: False)
    runner.take(take(make(storage, target=1)))
    assert runner.step().crashed
    assert scalar(storage, "SELECT attempts FROM kdhpc_slots WHERE slot = 0") == 1


@pytest.fixture
def setting(disk: FaultyDisk) -> TrialSetting:
    return setting_of(disk.path, *FOUR, "worker.concurrent_trials=2", "study.pruner=none")


@pytest.fixture
def work(storage: Storage, setting: TrialSetting, monkeypatch: pytest.MonkeyPatch):
    """A worker of a study whose images are in memory; how many trials it finished."""
    monkeypatch.setattr(worker_room, "trial_setting", lambda *_: setting)
    monkeypatch.setattr(worker_room, "_POLL_S", 0.1)

    def run(name: str = "tiny") -> int:
        with StopSignals() as signals:
            return run_worker(make(storage, target=4, name=name, pruner="none"), setting.config, signals)

    return run


def values(storage_url: str, name: str = "tiny") -> list[dict[int, float]]:
    return [dict(trial.intermediate_values) for trial in optuna_trials(storage_url, name)]


def undisturbed_values(storage_url: str, work, monkeypatch, tmp_path) -> list[dict[int, float]]:
    """Of a study of the same seed that nothing happens to."""
    calm = setting_of(tmp_path / "calm", *FOUR)
    with monkeypatch.context() as patch:
        patch.setattr(worker_room, "trial_setting", lambda *_: calm)
        assert work("calm") == 4
    return values(storage_url, "calm")


def interrupt_after(work, monkeypatch: pytest.MonkeyPatch, num_steps: int) -> None:
    """A worker that is told to stop after so many steps of its trials."""
    left = iter(range(10**6))
    with monkeypatch.context() as patch:
        patch.setattr(worker_room._Worker, "_is_stopping", lambda worker: next(left) > num_steps)
        work()


@pytest.mark.parametrize("error", ["EIO", "EACCES"])
def test_worker_whose_disk_does_not_give_a_checkpoint_back_ends_and_costs_no_attempt(
    storage: Storage,
    storage_url: str,
    setting: TrialSetting,
    disk: FaultyDisk,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    work,
    error: str,
) -> None:
    caplog.set_level("INFO")
    interrupt_after(work, monkeypatch, 20)
    checkpoints = [setting.paths.checkpoint(number) for number in (0, 1)]
    before = [path.read_bytes() for path in checkpoints]
    disk.rules(f"open /0/checkpoint err={error}")
    with pytest.raises(StorageError, match=rf"^trial 0 is given back, {checkpoints[0]} cannot be read: "):
        work()
    disk.rules()
    assert checkpoints[0].read_bytes() == before[0], "it is sound"
    status = read_status(storage, "tiny")
    assert (status.crashes, status.workers, status.trials.waiting) == ((), (), 4)
    assert scalar(storage, "SELECT max(attempts) FROM kdhpc_slots") == 0
    caplog.clear()
    assert work() == 4
    assert [f"trial {number} goes on after epoch" in caplog.text for number in (0, 1)] == [True, True]
    status = read_status(storage, "tiny")
    assert (status.trials.complete, status.trials.failed) == (4, 0)
    assert scalar(storage, "SELECT max(attempts) FROM kdhpc_slots") == 1
    assert values(storage_url) == undisturbed_values(storage_url, work, monkeypatch, tmp_path)


@pytest.mark.parametrize("error", ["ENOSPC", "EACCES"])
def test_search_on_a_disk_that_takes_nothing_below_trials_loses_no_trial(
    storage: Storage, storage_url: str, disk: FaultyDisk, monkeypatch, tmp_path: Path, work, error: str
) -> None:
    disk.rules(f"mkdir,create,openw,write,rename,unlink,rmdir,truncate /trials err={error}")
    assert work() == 4
    status = read_status(storage, "tiny")
    assert (status.trials.complete, status.trials.failed, status.crashes) == (4, 0, ())
    assert scalar(storage, "SELECT max(attempts) FROM kdhpc_slots") == 1
    assert values(storage_url) == undisturbed_values(storage_url, work, monkeypatch, tmp_path)
    assert not (disk.backing / "trials").exists()


def test_search_in_which_every_trial_diverges_uses_its_budget_and_no_other_machine(
    storage: Storage, storage_url: str, disk: FaultyDisk, monkeypatch, work
) -> None:
    wild = setting_of(disk.path, *FOUR, "training.learning_rate=1e12")
    monkeypatch.setattr(worker_room, "trial_setting", lambda *_: wild)
    assert work() == 4
    status = read_status(storage, "tiny")
    assert (status.trials.diverged, status.trials.finished) == (4, 4)
    assert [trial.epoch for trial in status.diverged] == [1] * 4
    assert {trial.reason for trial in status.diverged} <= {f"the loss of node {n} is not finite" for n in (1, 2)}
    assert [trial.state.name for trial in optuna_trials(storage_url)] == ["PRUNED"] * 4
    assert values(storage_url) == [{}] * 4
    assert work() == 0, "nothing is left"


def test_worker_of_an_older_launch_does_not_train_a_study_that_was_made_again(storage: Storage) -> None:
    study = make(storage)
    config = setting_of("/nowhere", "training.epochs=40").config
    with StopSignals() as signals, pytest.raises(StudyMismatchError, match=r"was made with something else: .*epoch"):
        run_worker(study, config, signals)
