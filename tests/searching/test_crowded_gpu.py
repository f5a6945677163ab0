"""More seats than the GPU's memory holds, and what a seat says of its turns."""

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
from kdhpc.searching.concurrency import Seating
from kdhpc.searching.trial import Outcome, Turn, prepare_training, run_trial
from kdhpc.searching.trial_runner import Seat
from kdhpc.server.control import ServerOptions, start, stop
from kdhpc.study.leased_trial import Claim
from kdhpc.study.status import read_status
from kdhpc.study.storage import Storage
from kdhpc.training import checkpointing
from tests.searching.test_trial import ReportingClaim, setting_of
from tests.study.made import make, scalar, take


def no_memory(*_: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("crowded", [True, False])
def test_seat_without_memory_gives_its_trial_back_where_there_may_be_too_many(
    storage: Storage, monkeypatch, crowded
) -> None:
    monkeypatch.setattr(room, "prepare_training", no_memory)
    seat = Seat(SimpleNamespace(), torch.device("cpu"), lambda: False, may_be_crowded=lambda: crowded)
    seat.take(take(make(storage, target=1)))
    ended = seat.turn()
    assert (ended.crowded, ended.crashed, ended.finished) == (crowded, not crowded, False)
    assert scalar(storage, "SELECT attempts FROM kdhpc_slots WHERE slot = 0") == (0 if crowded else 1)
    assert bool(read_status(storage, "tiny").crashes) != crowded
    assert not seat.busy


def test_seat_whose_recording_has_lost_the_gpu_gives_its_trial_back_and_the_worker_ends(
    storage: Storage, monkeypatch
) -> None:
    def lose(*_: object) -> None:
        raise CaptureError("recording a CUDA graph failed, and this process cannot use its GPU after it")

    monkeypatch.setattr(room, "prepare_training", lose)
    seat = Seat(SimpleNamespace(), torch.device("cpu"), lambda: False)
    seat.take(take(make(storage, target=1)))
    with pytest.raises(CaptureError):
        seat.turn()
    assert not seat.busy
    assert scalar(storage, "SELECT attempts FROM kdhpc_slots WHERE slot = 0") == 0
    assert scalar(storage, "SELECT state FROM kdhpc_slots WHERE slot = 0") == "free"
    assert read_status(storage, "tiny").crashes == ()


def test_seat_without_memory_and_without_its_database_is_free_again(
    storage: Storage, server_folder: Path, monkeypatch
) -> None:
    monkeypatch.setattr(room, "prepare_training", no_memory)
    seat = Seat(SimpleNamespace(), torch.device("cpu"), lambda: False, may_be_crowded=lambda: True)
    seat.take(take(make(storage, target=1)))
    storage._patience_s = 0.1
    stop(server_folder)
    try:
        assert seat.turn().crowded
    finally:
        start(server_folder, ServerOptions())
    assert not seat.busy


class Memory:
    """Of a device that holds so many trials; a trial that has begun keeps its share for its life."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.begun: list[Claim] = []
        self.refused = 0

    def prepare(self, claim: Claim, *_: object) -> Claim:
        if len(self.begun) == self.most:
            self.refused += 1
            no_memory()
        self.begun.append(claim)
        return claim

    def train(self, claim: Claim, setting: object, training: Claim, should_stop: Callable[[], bool]):
        for _ in range(200):
            yield Turn.STEP
        claim.complete(50.0)
        self.begun.remove(claim)
        return Outcome.COMPLETE


@pytest.mark.parametrize("most", [1, 2, 4, 5])
def test_worker_that_tries_too_many_seats_counts_no_crash(
    storage: Storage, monkeypatch, tmp_path: Path, caplog, most: int
) -> None:
    memory = Memory(most)
    monkeypatch.setattr(room, "prepare_training", memory.prepare)
    monkeypatch.setattr(room, "run_trial", memory.train)
    # As fast as if no seat took another's time.
    clock = iter(range(10**6)).__next__
    seating = Seating("auto", torch.device("cuda"), has_room=lambda: True, wait=lambda: None, clock=clock)
    monkeypatch.setattr(worker_room, "seating_on", lambda *_: seating)
    config = compose_search(["study=quickstart", "device=cpu", "worker.max_failures=1"])
    setting = SimpleNamespace(config=config, paths=StudyPaths(tmp_path))
    study = make(storage, target=24)
    with StopSignals() as signals, caplog.at_level("INFO"):
        worker = worker_room._Worker(study, setting, signals, None)
        worker.work()
    assert worker.finished == 24
    assert memory.refused == 1
    assert seating.num_filled == {1: 1, 2: 2, 4: 4, 5: 4}[most]
    assert scalar(storage, "SELECT max(attempts) FROM kdhpc_slots") == 1


def test_vacated_seat_keeps_no_network(storage: Storage, monkeypatch) -> None:
    freed = []

    def prepare(*_: object) -> torch.nn.Module:
        held = torch.nn.Linear(1, 1)
        weakref.finalize(held, freed.append, True)
        held.circle = [held]
        return held

    def train(*_: object):
        yield Turn.STEP
        return Outcome.COMPLETE

    monkeypatch.setattr(room, "prepare_training", prepare)
    monkeypatch.setattr(room, "run_trial", train)
    seat = Seat(SimpleNamespace(), torch.device("cpu"), lambda: False)
    seat.take(take(make(storage, target=1)))
    while seat.busy:
        seat.turn()
    assert freed == []
    seat.vacate()
    assert freed == [True]


def test_turns_say_whether_they_were_a_step_and_nothing_else(tmp_path) -> None:
    setting, claim = setting_of(tmp_path, "training.epochs=3", "training.milestones=[]"), ReportingClaim()
    turns = list(run_trial(claim, setting, prepare_training(claim, setting, None), lambda: False))
    in_epoch = [Turn.STEP] * 3
    assert turns == [Turn.MORE, *in_epoch, Turn.SCORED, *in_epoch, Turn.SCORED, *in_epoch]


class AtOnce(ThreadPoolExecutor):
    """No write is ever still going on when the next is due."""

    def submit(self, work, *args):
        future = super().submit(work, *args)
        future.result()
        return future


def test_turn_after_an_epoch_that_is_not_scored_or_with_a_checkpoint_is_more_than_a_step(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpointing, "ThreadPoolExecutor", AtOnce)
    options = ("training.epochs=5", "training.milestones=[]", "worker.checkpoint_every_s=1e-9")
    setting, claim = setting_of(tmp_path, *options), ReportingClaim()
    turns = list(run_trial(claim, setting, prepare_training(claim, setting, None), lambda: False))
    assert Turn.STEP not in turns[1::4]
    assert turns[12] is Turn.MORE
