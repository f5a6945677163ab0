import logging
import threading

import pytest
import torch

from kdhpc.errors import CheckpointError
from kdhpc.training import checkpointing as module
from kdhpc.training.checkpoint import CheckpointKey, load_checkpoint
from kdhpc.training.checkpointing import Checkpointing
from tests.training.test_loop import StopAfter, assert_same_state, never, training_of

KEY = CheckpointKey(study="s", number=0, graph_key="g", seed=3, settings="x")


def checkpointing(path, training, *, every_s=1e9, may_write=lambda: True):
    return Checkpointing(path, training, KEY, every_s=every_s, name="trial 0", may_write=may_write)


@pytest.fixture
def slow_disk(monkeypatch):
    """Writes wait until they are let go."""
    go = threading.Event()
    save = module.save_checkpoint

    def wait_and_save(*args):
        assert go.wait(10)
        save(*args)

    monkeypatch.setattr(module, "save_checkpoint", wait_and_save)
    return go


def test_save_writes_the_moment_of_the_call_while_training_goes_on(tmp_path, slow_disk):
    training = training_of()
    list(training.epochs(StopAfter(3)))
    then = training.state()
    with checkpointing(tmp_path / "c", training) as checkpoint:
        checkpoint.save()
        list(training.epochs(StopAfter(2)))  # Not held up by the disk.
        assert not (tmp_path / "c").exists()
        slow_disk.set()
    assert_same_state(load_checkpoint(tmp_path / "c", KEY), then)


def test_save_if_due_does_not_queue_behind_a_slow_disk(tmp_path, slow_disk):
    training = training_of()
    copies = []
    with checkpointing(tmp_path / "c", training, every_s=1e-9) as checkpoint:
        state = training.state
        training.state = lambda: copies.append(training.step) or state()
        for _ in range(4):
            list(training.epochs(StopAfter(1)))
            checkpoint.save_if_due()
        assert copies == [1]
        slow_disk.set()


def test_training_stopped_anywhere_goes_on_from_what_was_written_last(tmp_path):
    whole = training_of()
    expected = list(whole.epochs(never))
    for _ in range(20):
        training = training_of()
        with checkpointing(tmp_path / "c", training) as checkpoint:
            checkpoint.restore()
            list(training.epochs(StopAfter(2)))
            if training.finished:
                checkpoint.delete()
                break
            checkpoint.save_now()
    assert expected[-1].epoch == training.epoch
    assert_same_state(training.state(), whole.state())
    assert list(tmp_path.iterdir()) == []


def test_disk_that_refuses_is_told_and_only_save_now_raises(tmp_path, caplog):
    (tmp_path / "c").mkdir()
    with checkpointing(tmp_path / "c", training_of()) as checkpoint:
        with caplog.at_level(logging.WARNING):
            checkpoint.save()
            checkpoint.save()
        with pytest.raises(CheckpointError, match="cannot write checkpoint"):
            checkpoint.save_now()
    messages = [record.getMessage() for record in caplog.records]
    assert messages
    assert all("trial 0 trains on without a new checkpoint: cannot write" in message for message in messages)


def test_writer_that_lost_its_trial_leaves_the_file_to_its_new_owner(tmp_path, slow_disk):
    lost = threading.Event()
    training = training_of()
    with checkpointing(tmp_path / "c", training, may_write=lambda: not lost.is_set()) as checkpoint:
        slow_disk.set()
        assert checkpoint.save_now()
        written = (tmp_path / "c").read_bytes()
        list(training.epochs(StopAfter(1)))
        lost.set()
        checkpoint.save()
        assert not checkpoint.save_now()
    assert (tmp_path / "c").read_bytes() == written


def test_state_is_a_copy_that_later_steps_leave_alone():
    training = training_of()
    list(training.epochs(StopAfter(1)))
    state = training.state()
    kept = {name: tensor.clone() for name, tensor in state.nodes[0].tensors.items()}
    list(training.epochs(StopAfter(2)))
    assert all(torch.equal(tensor, kept[name]) for name, tensor in state.nodes[0].tensors.items())
