import dataclasses
import logging
import threading

import pytest
import torch

from kdhpc.errors import CheckpointError, StorageError
from kdhpc.files import storage_errors
from kdhpc.training import checkpointing as module
from kdhpc.training.checkpoint import CheckpointKey, load_checkpoint, read_header, save_checkpoint
from kdhpc.training.checkpointing import Checkpointing
from tests.training.test_loop import StopAfter, assert_same_state, never, training_of

KEY = CheckpointKey(study="s", number=0, graph_key="g", seed=3, settings="x")


@pytest.fixture(autouse=True)
def little_patience(monkeypatch):
    """With disks that fail."""
    monkeypatch.setattr(storage_errors, "_PAUSES_S", (0.01, 0.01, 0.01))


def checkpointing(path, training, **options):
    return Checkpointing(path, training, KEY, **{"every_s": 1e9, "name": "trial 0", **options})


@pytest.fixture
def slow_disk(monkeypatch):
    """Writes wait until they are let go."""
    go = threading.Event()
    save = module.save_checkpoint

    def wait_and_save(*args, **options):
        assert go.wait(60)
        return save(*args, **options)

    monkeypatch.setattr(module, "save_checkpoint", wait_and_save)
    return go


def test_save_writes_the_moment_of_the_call_while_training_goes_on(tmp_path, slow_disk):
    training = training_of()
    list(training.epochs(StopAfter(3)))
    then = training.state()
    with checkpointing(tmp_path / "c", training) as checkpoint:
        checkpoint.save_after(0)
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


def test_save_after_writes_only_what_is_so_long_after_the_last(tmp_path):
    training = training_of()
    with checkpointing(tmp_path / "c", training) as checkpoint:
        checkpoint.save_after(3600)  # Since the beginning.
        list(training.epochs(StopAfter(1)))
        checkpoint.save_after(0)
        then = training.state()
        list(training.epochs(StopAfter(1)))
        checkpoint.save_after(3600)
    assert_same_state(load_checkpoint(tmp_path / "c", KEY), then)


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
            checkpoint.save_after(0)
            checkpoint.save_after(0)
        with pytest.raises(CheckpointError, match="cannot be written: Is a directory"):
            checkpoint.save_now()
    messages = [record.getMessage() for record in caplog.records]
    assert messages
    assert all(
        f"trial 0 trains on without a new checkpoint: {tmp_path}/c cannot be written" in message for message in messages
    )


def test_writer_that_lost_its_trial_leaves_the_file_to_its_new_owner(tmp_path, slow_disk):
    lost = threading.Event()
    training = training_of()
    with checkpointing(tmp_path / "c", training, may_write=lambda: not lost.is_set()) as checkpoint:
        slow_disk.set()
        assert checkpoint.save_now()
        written = (tmp_path / "c").read_bytes()
        list(training.epochs(StopAfter(1)))
        lost.set()
        checkpoint.save_after(0)
        assert not checkpoint.save_now()
    assert (tmp_path / "c").read_bytes() == written


def test_state_is_a_copy_that_later_steps_leave_alone():
    training = training_of()
    list(training.epochs(StopAfter(1)))
    state = training.state()
    kept = {name: tensor.clone() for name, tensor in state.nodes[0].tensors.items()}
    list(training.epochs(StopAfter(2)))
    assert all(torch.equal(tensor, kept[name]) for name, tensor in state.nodes[0].tensors.items())


def written(path, num_steps):
    """A checkpoint after so many steps."""
    training = training_of()
    list(training.epochs(StopAfter(num_steps)))
    with checkpointing(path, training) as checkpoint:
        assert checkpoint.save_now()
    return training


def test_restore_that_the_disk_fails_for_a_moment_goes_on_from_the_file(disk):
    path = disk.path / "c"
    written(path, 3)
    disk.rules("open /c err=EIO 1", "open /c err=ESTALE 1")
    training = training_of()
    with checkpointing(path, training) as checkpoint:
        assert checkpoint.restore()
    assert training.step == 3


@pytest.mark.parametrize("error", ["EIO", "EACCES"])
def test_restore_that_the_disk_refuses_neither_begins_again_nor_harms_the_file(disk, error):
    path = disk.path / "c"
    written(path, 3)
    disk.rules(f"open /c err={error}")
    with checkpointing(path, training_of()) as checkpoint, pytest.raises(StorageError, match=f"{path} cannot be read"):
        checkpoint.restore()
    disk.rules()
    assert load_checkpoint(path, KEY).step == 3


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-1])


def damaged_within(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def of_another_study(path):
    training = training_of()
    list(training.epochs(StopAfter(3)))
    save_checkpoint(path, training.state(), dataclasses.replace(KEY, study="t"), rejected=read_header(path))


@pytest.mark.parametrize("spoil", [cut_short, damaged_within, of_another_study])
def test_restore_of_a_file_that_is_none_is_told_once_and_replaced_by_the_first_checkpoint(tmp_path, caplog, spoil):
    written(tmp_path / "c", 3)
    spoil(tmp_path / "c")
    training = training_of()
    with checkpointing(tmp_path / "c", training) as checkpoint:
        assert checkpoint.restore()
        assert caplog.text.count("trial 0 starts from its beginning: checkpoint") == 1
        list(training.epochs(StopAfter(1)))
        assert checkpoint.save_now()
    assert load_checkpoint(tmp_path / "c", KEY).step == 1


def test_restore_removes_what_killed_writers_have_left(tmp_path):
    written(tmp_path / "c", 3)
    (tmp_path / ".c.0123456789abcdef.tmp").write_bytes(b"half a checkpoint")
    with checkpointing(tmp_path / "c", training_of()) as checkpoint:
        assert checkpoint.restore()
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_restore_of_a_state_that_is_refused_starts_from_the_beginning(tmp_path, caplog):
    written(tmp_path / "c", 3)
    training = training_of()

    def refuse(state):
        raise CheckpointError(f"not from step {state.step}")

    with checkpointing(tmp_path / "c", training) as checkpoint:
        assert checkpoint.restore(refuse)
    assert training.step == 0
    assert "trial 0 starts from its beginning: not from step 3" in caplog.text


def test_only_what_is_on_the_disk_is_said_to_be_written(disk):
    steps, training = [], training_of()
    with checkpointing(disk.path / "c", training, on_written=steps.append) as checkpoint:
        for rules in ([], ["fsync /.c late=EDQUOT"], []):
            disk.rules(*rules)
            list(training.epochs(StopAfter(1)))
            checkpoint.save_after(0)
            checkpoint._wait()
        assert steps == [1, 3]
        written(disk.path / "c", 9)
        assert not checkpoint.save_now()
    assert steps == [1, 3]
    assert load_checkpoint(disk.path / "c", KEY).step == 9
