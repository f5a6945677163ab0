"""More trials at once than the GPU's memory holds, and what a runner says of its steps."""

import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from kdhpc.cluster.signals import StopSignals
from kdhpc.config.compose import compose_search
from kdhpc.config.paths import StudyPaths
from kdhpc.errors import CaptureError
from kdhpc.searching import trial_runner as room
from kdhpc.searching import worker as worker_room
from kdhpc.searching.concurrency import Concurrency
from kdhpc.searching.trial import StepKind, prepare_training, run_trial
from kdhpc.searching.trial_runner import TrialRunner
from kdhpc.server.control import ServerOptions, start, stop
from kdhpc.study.leased_trial import LeasedTrial
from kdhpc.study.outcome import Outcome
from kdhpc.study.status import read_status
from kdhpc.study.storage import Storage
from kdhpc.training import checkpointing
from kdhpc.training.runtime import resolve_runtime
from tests.searching.test_trial import ReportingTrial, setting_of
from tests.study.made import make, scalar, take


def no_memory(*_: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("crowded", [True, False])
def test_runner_without_memory_gives_its_trial_back_where_there_may_be_too_many(
    storage: Storage, monkeypatch, crowded
) -> None:
    monkeypatch.setattr(room, "prepare_training", no_memory)
    runner = TrialRunner(SimpleNamespace(), torch.device("cpu"), lambda: False, may_be_crowded=lambda: crowded)
    runner.take(take(make(storage, target=1)))
    ended = runner.step()
    assert (ended.crowded, ended.crashed, ended.finished) == (crowded, not crowded, False)
    assert scalar(storage, "SELECT attempts FROM kdhpc_slots WHERE slot = 0") == (0 if crowded else 1)
    assert bool(read_status(storage, "tiny").crashes) != crowded
    assert not runner.busy


def test_runner_whose_recording_has_lost_the_gpu_gives_its_trial_back_and_the_worker_ends(
    storage: Storage, monkeypatch
) -> None:
    def lose(*_: object) -> None:
        raise CaptureError("recording a CUDA graph failed, and this process cannot use its GPU after it")

    monkeypatch.setattr(room, "prepare_training", lose)
    runner = TrialRunner(SimpleNamespace(), torch.device("cpu"), lambda: False)
    runner.take(take(make(storage, target=1)))
    with pytest.raises(CaptureError):
        runner.step()
    assert not runner.busy
    assert scalar(storage, "SELECT attempts FROM kdhpc_slots WHERE slot = 0") == 0
    assert scalar(storage, "SELECT state FROM kdhpc_slots WHERE slot = 0") == "free"
    assert read_status(storage, "tiny").crashes == ()


def test_runner_without_memory_and_without_its_database_is_free_again(
    storage: Storage, server_folder: Path, monkeypatch
) -> None:
    monkeypatch.setattr(room, "prepare_training", no_memory)
    runner = TrialRunner(SimpleNamespace(), torch.device("cpu"), lambda: False, may_be_crowded=lambda: True)
    runner.take(take(make(storage, target=1)))
    storage._patience_s = 0.1
    stop(server_folder)
    try:
        assert runner.step().crowded
    finally:
        start(server_folder, ServerOptions())
    assert not runner.busy


class Memory:
    """Of a device that holds so many trials; a trial that has begun keeps its share for its life."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.begun: list[LeasedTrial] = []
        self.refused = 0

    def prepare(self, trial: LeasedTrial, *_: object) -> LeasedTrial:
        if len(self.begun) == self.most:
            self.refused += 1
            no_memory()
        self.begun.append(trial)
        return trial

    def train(self, trial: LeasedTrial, setting: object, training: LeasedTrial, should_stop: Callable[[], bool]):
        for _ in range(200):
            yield StepKind.STEP
        trial.complete(50.0)
        self.begun.remove(trial)
        return Outcome.COMPLETE


@pytest.mark.parametrize("most", [1, 2, 4, 5])
def test_worker_that_tries_too_many_trials_at_once_counts_no_crash(
    storage: Storage, monkeypatch, tmp_path: Path, caplog, most: int
) -> None:
    memory = Memory(most)
    monkeypatch.setattr(room, "prepare_training", memory.prepare)
    monkeypatch.setattr(room, "run_trial", memory.train)
    # As fast as if no trial took another's time.
    clock = iter(range(10**6)).__next__
    concurrency = Concurrency("auto", torch.device("cuda"), has_room=lambda: True, wait=lambda: None, clock=clock)
    monkeypatch.setattr(worker_room, "concurrency_on", lambda *_: concurrency)
    config = compose_search(["study=quickstart", "device=cpu", "worker.max_failures=1"])
    setting = SimpleNamespace(config=config, paths=StudyPaths(tmp_path), runtime=resolve_runtime(config.device))
    study = make(storage, target=24)
    with StopSignals() as signals, caplog.at_level("INFO"):
        worker = worker_room._Worker(study, setting, signals, None)
        worker.work()
    assert worker.finished == 24
    assert memory.refused == 1
    assert concurrency.num_trials == {1: 1, 2: 2, 4: 4, 5: 4}[most]
    assert scalar(storage, "SELECT max(attempts) FROM kdhpc_slots") == 1


def test_runner_that_has_freed_its_memory_keeps_no_network(storage: Storage, monkeypatch) -> None:
    freed = []

    def prepare(*_: object) -> torch.nn.Module:
        held = torch.nn.Linear(1, 1)
        weakref.finalize(held, freed.append, True)
        held.circle = [held]
        return held

    def train(*_: object):
        yield StepKind.STEP
        return Outcome.COMPLETE

    monkeypatch.setattr(room, "prepare_training", prepare)
    monkeypatch.setattr(room, "run_trial", train)
    runner = TrialRunner(SimpleNamespace(), torch.device("cpu"), lambda: False)
    runner.take(take(make(storage, target=1)))
    while runner.busy:
        runner.step()
    assert freed == []
    runner.free_memory()
    assert freed == [True]


def test_steps_say_whether_they_were_a_step_and_nothing_else(tmp_path) -> None:
    setting, trial = setting_of(tmp_path, "training.epochs=3", "training.milestones=[]"), ReportingTrial()
    kinds = list(run_trial(trial, setting, prepare_training(trial, setting, None), lambda: False))
    in_epoch = [StepKind.STEP] * 3
    assert kinds == [StepKind.MORE, *in_epoch, StepKind.SCORED, *in_epoch, StepKind.SCORED, *in_epoch]


class AtOnce(ThreadPoolExecutor):
    """No write is ever still going on when the next is due."""

    def submit(self, work, *args):
        future = super().submit(work, *args)
        future.result()
        return future


def test_step_after_an_epoch_that_is_not_scored_or_with_a_checkpoint_is_more_than_a_step(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpointing, "ThreadPoolExecutor", AtOnce)
    options = ("training.epochs=5", "training.milestones=[]", "worker.checkpoint_every_s=1e-9")
    setting, trial = setting_of(tmp_path, *options), ReportingTrial()
    kinds = list(run_trial(trial, setting, prepare_training(trial, setting, None), lambda: False))
    assert StepKind.STEP not in kinds[1::4]
    assert kinds[12] is StepKind.MORE


def test_runner_gives_the_slot_of_an_interrupted_trial_back_and_counts_no_attempt(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*_: object):
        yield StepKind.STEP
        return Outcome.INTERRUPTED

    monkeypatch.setattr(room, "prepare_training", lambda *_: None)
    monkeypatch.setattr(room, "run_trial", train)
    runner = TrialRunner(SimpleNamespace(), torch.device("cpu"), lambda: True)
    runner.take(take(make(storage, target=1)))
    assert runner.step() is StepKind.STEP
    ended = runner.step()
    assert (ended.finished, ended.crashed) == (False, False)
    slot = storage.read(lambda c: c.exec_driver_sql("SELECT state, attempts, reason FROM kdhpc_slots").one())
    assert tuple(slot) == ("free", 0, None)
