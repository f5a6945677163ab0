"""More seats than the GPU's memory holds, and what a seat says of its turns."""

import weakref
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch

from kdhpc.cluster import seat as room
from kdhpc.cluster.seat import Seat
from kdhpc.study.storage import Storage
from kdhpc.study.summary import read_status
from kdhpc.training import checkpointing
from kdhpc.trial import Turn, prepare_training, run_trial
from tests.study.made import make, scalar, take
from tests.test_trial import FakeClaim, setting_of


@pytest.mark.parametrize("exploring", [True, False])
def test_seat_without_memory_gives_its_trial_back_while_the_worker_explores(
    storage: Storage, monkeypatch, exploring
) -> None:
    def crowded(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(room, "prepare_training", crowded)
    seat = Seat(SimpleNamespace(), torch.device("cpu"), lambda: False, exploring=lambda: exploring)
    seat.take(take(make(storage, target=1)))
    ended = seat.turn()
    assert (ended.crowded, ended.crashed, ended.finished) == (exploring, not exploring, False)
    assert scalar(storage, "SELECT attempts FROM kdhpc_slots WHERE slot = 0") == (0 if exploring else 1)
    assert bool(read_status(storage, "tiny").crashes) != exploring
    assert not seat.busy


def test_vacated_seat_keeps_no_network(monkeypatch) -> None:
    seat = Seat(SimpleNamespace(), torch.device("cpu"), lambda: False)
    held = torch.nn.Linear(1, 1)
    freed = []
    weakref.finalize(held, freed.append, True)
    held.circle = [held]
    seat._training = held
    del held
    seat.vacate()
    assert freed == [True]


class ReportingClaim(FakeClaim):
    def report(self, epoch, accuracy):
        return False

    def complete(self, accuracy):
        pass


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
