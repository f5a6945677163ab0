"""A GPU in a trial's way: out of memory in disguise, and errors after which the process can use it no more."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from kdhpc.cluster.signals import StopSignals
from kdhpc.config.compose import compose_search
from kdhpc.config.paths import StudyPaths
from kdhpc.errors import DeviceError, DeviceLostError
from kdhpc.searching import trial_runner as room
from kdhpc.searching import worker as worker_room
from kdhpc.searching.concurrency import Concurrency
from kdhpc.searching.local import _work
from kdhpc.searching.trial import StepKind
from kdhpc.searching.trial_runner import TrialRunner
from kdhpc.searching.worker import run_worker
from kdhpc.study.status import read_status
from kdhpc.study.storage import Storage
from kdhpc.training.runtime import resolve_runtime
from tests.study.made import make, scalar, take


def failing(error: Exception):
    def fail(*_: object) -> None:
        raise error

    return fail


NO_MEMORY = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
ILLEGAL = "CUDA error: an illegal memory access was encountered\nSearch for `cudaErrorIllegalAddress'"


@pytest.mark.parametrize("crowded", [True, False])
def test_runner_memory_in_disguise_is_memory(storage: Storage, monkeypatch, crowded) -> None:
    monkeypatch.setattr(room, "prepare_training", failing(NO_MEMORY))
    runner = TrialRunner(SimpleNamespace(), torch.device("cpu"), lambda: False, may_be_crowded=lambda: crowded)
    runner.take(take(make(storage, target=1)))
    ended = runner.step()
    assert (ended.crowded, ended.crashed) == (crowded, not crowded)
    assert scalar(storage, "SELECT attempts FROM kdhpc_slots WHERE slot = 0") == (0 if crowded else 1)


class Gpu:
    """That some trial breaks at its third step; all that is asked of it from then on fails, in words of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lost = False
        self.asked = 0
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.cuda, "synchronize", self.use)

    def use(self, *_: object) -> None:
        if self.lost:
            self.asked += 1
            raise torch.AcceleratorError(ILLEGAL)

    def train(self, leased, setting, training, should_stop):
        for step in range(1, 9):
            self.lost = self.lost or (leased.number == 1 and step == 3)
            self.use()
            yield StepKind.STEP
        raise AssertionError("never so far")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    monkeypatch.setattr(room, "prepare_training", lambda leased, *_: leased)
    gpu = Gpu(monkeypatch)
    monkeypatch.setattr(room, "run_trial", gpu.train)
    return gpu


def working(storage: Storage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *options: str):
    """What a worker of three trials at once does, and its study."""
    study = make(storage, target=6)
    config = compose_search(
        ["study=quickstart", "device=cpu", "worker.concurrent_trials=3", "worker.max_failures=3", *options]
    )
    setting = SimpleNamespace(config=config, paths=StudyPaths(tmp_path), runtime=resolve_runtime(config.device))
    monkeypatch.setattr(worker_room, "trial_setting", lambda *_: setting)
    monkeypatch.setattr(worker_room, "_compiling", lambda setting: (setting, None))

    def work() -> None:
        with StopSignals() as signals:
            run_worker(study, config, signals)

    return work


def test_worker_whose_gpu_is_lost_ends_at_once_and_one_trial_counts_one_attempt(
    storage: Storage, monkeypatch, tmp_path: Path, gpu: Gpu, caplog
) -> None:
    work = working(storage, monkeypatch, tmp_path)
    with pytest.raises(
        DeviceLostError, match=r"cannot use its GPU any more \(AcceleratorError: CUDA error: an illegal"
    ):
        work()
    slots = storage.read(lambda c: c.exec_driver_sql("SELECT slot, attempts, state FROM kdhpc_slots").all())
    assert sorted((slot, attempts) for slot, attempts, _ in slots if attempts) == [(1, 1)]
    assert {state for *_, state in slots} == {"free"}, "the others are free at once"
    (crash,) = read_status(storage, "tiny").crashes
    assert crash.reason.startswith("AcceleratorError: CUDA error: an illegal memory access was encountered")
    assert gpu.asked == 2, "by the trial, and to see whether it is lost; no other trial takes a step"
    assert sum("crashed" in entry.getMessage() for entry in caplog.records) == 1


def test_worker_whose_gpu_is_lost_between_two_turns_counts_no_attempt(
    storage: Storage, monkeypatch, tmp_path: Path, gpu: Gpu
) -> None:
    """As where the error of the last steps comes while the worker waits for the device, to time it."""

    def wait() -> None:
        gpu.lost = True
        gpu.use()

    concurrency = Concurrency(3, torch.device("cpu"), has_room=lambda: True, wait=wait)
    monkeypatch.setattr(concurrency, "note_round", lambda *_, **__: wait())
    monkeypatch.setattr(worker_room, "concurrency_on", lambda *_: concurrency)
    with pytest.raises(DeviceLostError):
        working(storage, monkeypatch, tmp_path)()
    assert scalar(storage, "SELECT count(*) FROM kdhpc_slots WHERE state <> 'free' OR attempts > 0") == 0


def test_worker_gpu_without_memory_for_the_images_ends_it_in_a_line(storage: Storage, monkeypatch) -> None:
    study = make(storage, target=1)
    monkeypatch.setattr(worker_room, "trial_setting", failing(RuntimeError("CUDA error: out of memory\nand more")))
    with (
        StopSignals() as signals,
        pytest.raises(DeviceError, match=r"memory is used up .*smaller training\.batch_size"),
    ):
        run_worker(study, compose_search(["study=quickstart"]), signals)


@pytest.mark.parametrize("error", [DeviceError("used up"), DeviceLostError("lost")])
def test_local_worker_whose_gpu_fails_may_be_replaced(monkeypatch, error) -> None:
    monkeypatch.setattr("kdhpc.searching.local.work", failing(error))
    failure = _work("tiny", "config.yaml", "0")
    assert failure is not None
    assert (failure.reason, failure.hopeless) == (str(error), False)
