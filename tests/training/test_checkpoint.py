import dataclasses
import hashlib
import io
import pickle
import signal
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from kdhpc.errors import CheckpointError, StorageError
from kdhpc.files import storage_errors
from kdhpc.training.checkpoint import (
    CheckpointKey,
    load_checkpoint,
    read_header,
    remove_checkpoint,
    save_checkpoint,
)
from kdhpc.training.loop import TrainingState
from kdhpc.training.node_trainer import NodeState
from tests.workspace import until

KEY = CheckpointKey(study="dogs2", number=7, graph_key="0123456789ab", seed=5, settings="fedcba9876543210")


@pytest.fixture(autouse=True)
def little_patience(monkeypatch):
    """With disks that fail."""
    monkeypatch.setattr(storage_errors, "_PAUSES_S", (0.01, 0.01, 0.01))


def state_of(*, step=3, size=4):
    generator = torch.Generator().manual_seed(step)
    tensors = {
        "weight": torch.randn(size, 3, generator=generator),
        "num_batches_tracked": torch.tensor(step),
    }
    momentum = {"weight": torch.randn(size, 3, generator=generator)}
    node = NodeState(tensors=tensors, momentum=momentum, loss_scale={"scale": 512.0})
    return TrainingState(
        step=100 + step,
        epoch=2,
        step_in_epoch=step,
        seconds=1.5,
        mode="eager",
        loss_sums=torch.randn(2, generator=generator, dtype=torch.float64),
        nodes=(node, dataclasses.replace(node, loss_scale={})),
    )


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "trials" / "7" / "checkpoint.pt"
    save_checkpoint(path, state_of(), KEY)
    return path


def test_checkpoint_round_trip_gives_back_every_bit(saved):
    found, expected = load_checkpoint(saved, KEY), state_of()
    assert (found.epoch, found.step_in_epoch, found.seconds) == (2, 3, 1.5)
    assert torch.equal(found.loss_sums, expected.loss_sums)
    for ours, theirs in zip(found.nodes, expected.nodes, strict=True):
        assert ours.loss_scale == theirs.loss_scale
        for group in ("tensors", "momentum"):
            assert getattr(ours, group).keys() == getattr(theirs, group).keys()
            for name, tensor in getattr(theirs, group).items():
                assert torch.equal(getattr(ours, group)[name], tensor)


def test_save_checkpoint_leaves_nothing_but_the_checkpoint(saved):
    save_checkpoint(saved, state_of(step=4), KEY)
    assert [path.name for path in saved.parent.iterdir()] == ["checkpoint.pt"]
    assert load_checkpoint(saved, KEY).step_in_epoch == 4


@pytest.mark.parametrize(
    ("field", "value"),
    [("study", "dogs3"), ("number", 8), ("graph_key", "000000000000"), ("seed", 6), ("settings", "0" * 16)],
)
def test_load_checkpoint_of_another_trial_says_what_differs(saved, field, value):
    with pytest.raises(CheckpointError, match=f"belongs to another trial: its {field} is .*, this trial has '?{value}"):
        load_checkpoint(saved, dataclasses.replace(KEY, **{field: value}))


def damage_flip(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: b"", "it has 0 bytes"),
        (lambda content: content[:40], "it has 40 bytes, its header alone needs 92"),
        (lambda content: content[:-1], "its payload has"),
        (lambda content: content + b"x", "its payload has"),
        (damage_flip, "its checksum does not agree"),
        (lambda content: b"PK\x03\x04" + content[4:], "it is no kdhpc checkpoint"),
        (lambda content: content[:50] + b"\xff" + content[51:], "its checksum does not agree"),
        (lambda content: bytes(len(content)), "it is no kdhpc checkpoint"),
    ],
)
def test_load_checkpoint_damaged_file_is_named_with_the_reason(saved, damage, reason):
    saved.write_bytes(damage(saved.read_bytes()))
    with pytest.raises(CheckpointError, match=reason) as caught:
        load_checkpoint(saved, KEY)
    assert str(saved) in str(caught.value)
    assert "\n" not in str(caught.value)


def header(payload):
    head = struct.pack("<8sI32sQQ", b"KDHPCCKP", 3, KEY.digest, 103, len(payload))
    return head + hashlib.sha256(head + payload).digest()


def test_checkpoint_header_is_as_it_is_written_down(saved):
    payload = saved.read_bytes()[len(header(b"")) :]
    assert saved.read_bytes() == header(payload) + payload
    found = read_header(saved)
    assert (found.key_digest, found.step, found.length) == (KEY.digest, 103, len(payload))
    assert read_header(saved.parent) is read_header(saved / "below") is read_header(saved.parent / "nowhere") is None


def test_load_checkpoint_of_the_first_format_is_refused(saved):
    payload = b"what an older kdhpc wrote"
    saved.write_bytes(struct.pack("<8sIQ32s", b"KDHPCCKP", 1, len(payload), hashlib.sha256(payload).digest()) + payload)
    with pytest.raises(CheckpointError, match="has format version 1, this kdhpc reads 3"):
        load_checkpoint(saved, KEY)
    assert read_header(saved) is None
    assert save_checkpoint(saved, state_of(step=1), KEY), "it is in nobody's way"


def test_load_checkpoint_missing_file_is_not_a_damaged_one(tmp_path):
    for path in (tmp_path / "nowhere", tmp_path / "no" / "folder"):
        with pytest.raises(FileNotFoundError):
            load_checkpoint(path, KEY)
    with pytest.raises(CheckpointError, match="is damaged: it is a folder"):
        load_checkpoint(tmp_path, KEY)


@pytest.mark.parametrize("error", ["EIO", "ESTALE", "EACCES"])
def test_load_checkpoint_that_the_file_system_does_not_give_is_no_damage(disk, error):
    path = disk.path / "checkpoint.pt"
    save_checkpoint(path, state_of(), KEY)
    disk.rules(f"open checkpoint err={error}")
    with pytest.raises(StorageError, match=f"^{path} cannot be read: "):
        load_checkpoint(path, KEY)
    disk.rules(*([] if error == "EACCES" else [f"open checkpoint err={error} 2"]))
    assert load_checkpoint(path, KEY).step == 103


def test_save_checkpoint_leaves_one_that_is_further_on(saved):
    later = saved.read_bytes()
    assert not save_checkpoint(saved, state_of(step=2), KEY)
    assert saved.read_bytes() == later
    assert save_checkpoint(saved, state_of(step=3), KEY)
    assert save_checkpoint(saved, state_of(step=4), KEY)
    assert [path.name for path in saved.parent.iterdir()] == ["checkpoint.pt"]


def test_save_checkpoint_replaces_one_that_is_further_on_and_cannot_be_gone_on_from(saved):
    other = dataclasses.replace(KEY, study="the study of the same name before")
    assert save_checkpoint(saved, state_of(step=9), other)
    assert save_checkpoint(saved, state_of(step=1), KEY), "another study's"
    save_checkpoint(saved, state_of(step=9), KEY)
    rejected = read_header(saved)
    assert not save_checkpoint(saved, state_of(step=1), KEY)
    assert save_checkpoint(saved, state_of(step=1), KEY, rejected=rejected)
    save_checkpoint(saved, state_of(step=8), KEY)
    assert not save_checkpoint(saved, state_of(step=1), KEY, rejected=rejected), "it is another one by now"


def test_save_checkpoint_slowed_down_by_the_disk_does_not_replace_a_newer_one(disk):
    path, lease_asked = disk.path / "checkpoint.pt", []
    disk.rules("fsync checkpoint delay=1500 1")
    with ThreadPoolExecutor(1) as other_worker:
        older = other_worker.submit(save_checkpoint, path, state_of(step=1), KEY)
        until(lambda: [found for found in disk.backing.iterdir() if found.stat().st_size], every_s=0.02)
        assert save_checkpoint(path, state_of(step=2), KEY, may_write=lambda: not lease_asked.append(path.exists()))
        assert not older.result()
    assert lease_asked == [False], "asked when all was on the disk"
    assert load_checkpoint(path, KEY).step == 102
    assert [found.name for found in disk.backing.iterdir()] == ["checkpoint.pt"]


def test_save_checkpoint_of_a_worker_displaced_while_it_wrote_is_dropped(saved):
    before = saved.read_bytes()
    assert not save_checkpoint(saved, state_of(step=9), KEY, may_write=lambda: False)
    assert saved.read_bytes() == before


@pytest.mark.parametrize("rule", ["flush,fsync checkpoint late=EDQUOT", "write checkpoint err=ENOSPC"])
def test_save_checkpoint_that_the_disk_refuses_at_the_last_moment_keeps_the_old_one(disk, rule):
    path = disk.path / "checkpoint.pt"
    save_checkpoint(path, state_of(step=1), KEY)
    disk.rules(rule)
    with pytest.raises(CheckpointError, match=f"^{path} cannot be written: .*; make room, or allow writing there$"):
        save_checkpoint(path, state_of(step=2), KEY)
    disk.rules()
    assert load_checkpoint(path, KEY).step == 101


def test_save_checkpoint_that_cannot_see_what_is_there_leaves_it(disk):
    path = disk.path / "checkpoint.pt"
    save_checkpoint(path, state_of(step=2), KEY)
    disk.rules("open /checkpoint err=EACCES")
    with pytest.raises(CheckpointError, match="cannot be read: Permission denied"):
        save_checkpoint(path, state_of(step=3), KEY)
    disk.rules()
    assert load_checkpoint(path, KEY).step == 102


def test_remove_checkpoint_that_the_disk_refuses_is_a_warning(disk, caplog):
    path = disk.path / "checkpoint.pt"
    save_checkpoint(path, state_of(), KEY)
    disk.rules("unlink checkpoint err=EACCES")
    remove_checkpoint(path)
    assert f"{path} cannot be removed; nothing needs it any more" in caplog.text
    caplog.clear()
    disk.rules("unlink checkpoint err=EIO 1")
    remove_checkpoint(path)
    disk.rules("unlink checkpoint err=EROFS", "readdir * err=EIO")
    remove_checkpoint(path)
    assert not path.exists()
    assert caplog.text == "", "there is none"


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("zipped", [True, False])
def test_load_checkpoint_payload_with_code_is_refused_and_not_run(tmp_path, zipped):
    sprung = tmp_path / "sprung"
    document = {"key": dataclasses.asdict(KEY), "state": Trap(sprung)}
    buffer = io.BytesIO()
    if zipped:
        torch.save(document, buffer)
    payload = buffer.getvalue() or pickle.dumps(document, protocol=2)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(header(payload) + payload)
    with pytest.raises(CheckpointError, match="its payload cannot be understood"):
        load_checkpoint(path, KEY)
    assert not sprung.exists()


@pytest.mark.parametrize(
    "document",
    [
        {},
        [1, 2],
        {"key": {"study": "dogs2"}, "state": {}},
        {"key": dataclasses.asdict(KEY), "state": {"epoch": 1}},
        {"key": dataclasses.asdict(KEY), "state": None},
    ],
)
def test_load_checkpoint_payload_of_another_shape_is_refused(tmp_path, document):
    buffer = io.BytesIO()
    torch.save(document, buffer)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(header(buffer.getvalue()) + buffer.getvalue())
    with pytest.raises(CheckpointError, match="its payload cannot be understood"):
        load_checkpoint(path, KEY)


def test_save_checkpoint_where_nothing_can_be_written_keeps_the_old_one(saved):
    blocked = saved / "below-a-file" / "checkpoint.pt"
    with pytest.raises(CheckpointError, match=f"^{blocked.parent} cannot be made: .*is a file and no folder"):
        save_checkpoint(blocked, state_of(), KEY)
    assert load_checkpoint(saved, KEY).step_in_epoch == 3


WRITER = """
import dataclasses
import sys
from pathlib import Path
from kdhpc.training.checkpoint import save_checkpoint
from tests.training.test_checkpoint import KEY, state_of
states = [state_of(step=step, size=100_000) for step in range(4)]
for count in range(1_000_000):
    save_checkpoint(Path(sys.argv[1]), dataclasses.replace(states[count % 4], step=count), KEY)
    print(count, flush=True)
"""


def test_save_checkpoint_killed_while_writing_leaves_a_whole_one(tmp_path):
    path = tmp_path / "checkpoint.pt"
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) as writer:
        for _ in range(5):
            writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
    state = load_checkpoint(path, KEY)
    expected = state_of(step=state.step_in_epoch, size=100_000)
    assert torch.equal(state.nodes[0].tensors["weight"], expected.nodes[0].tensors["weight"])
    (tmp_path / ".checkpoint.pt.0123.tmp").write_bytes(b"left by a writer that was killed")
    remove_checkpoint(path)
    assert list(tmp_path.iterdir()) == []
    remove_checkpoint(path)


def test_load_checkpoint_of_a_harmless_hand_is_read(saved):
    """The payload that the damaged ones below are made of, written as they are."""
    rewrite(saved, lambda document: document)
    assert load_checkpoint(saved, KEY).step == 103


def rewrite(path, change):
    """What a hand that repairs the checksum may write."""
    payload = path.read_bytes()[len(header(b"")) :]
    buffer = io.BytesIO()
    torch.save(change(torch.load(io.BytesIO(payload), weights_only=True)), buffer)
    path.write_bytes(header(buffer.getvalue()) + buffer.getvalue())


def with_state(**changes):
    return lambda document: document | {"state": document["state"] | changes}


def with_node(**changes):
    def change(document):
        nodes = document["state"]["nodes"]
        return document | {"state": document["state"] | {"nodes": [nodes[0] | changes, *nodes[1:]]}}

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda document: [],
        lambda document: {"key": document["key"]},
        lambda document: document | {"more": 1},
        lambda document: document | {"key": document["key"] | {"number": "7"}},
        lambda document: document | {"key": {}},
        lambda document: document | {"state": torch.zeros(2)},
        with_state(step="103"),
        with_state(step=104),
        with_state(epoch=-1),
        with_state(epoch=True),
        with_state(seconds=float("nan")),
        with_state(loss_sums=[0.0, 0.0]),
        with_state(nodes={}),
        with_state(nodes=[1]),
        with_state(more=1),
        with_node(tensors=[]),
        with_node(tensors={"weight": 1.0}),
        with_node(tensors={3: torch.zeros(4, 3)}),
        with_node(tensors={"weight": torch.zeros(4, 3).to_sparse()}),
        with_node(tensors={"weight": torch.zeros(1).expand(10**9, 10**9)}),
        with_node(tensors={"weight": torch.zeros(4, 3, device="meta")}),
        with_node(tensors={"weight": torch.zeros(4, 3, requires_grad=True)}),
        with_node(loss_scale={"scale": "512"}),
        with_node(loss_scale={"scale": float("inf")}),
    ],
)
def test_load_checkpoint_of_another_content_with_a_right_checksum_is_one_line(saved, change):
    rewrite(saved, change)
    with pytest.raises(CheckpointError, match="is damaged: its payload cannot be understood") as caught:
        load_checkpoint(saved, KEY)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x80\x04K\x01.",
        pickle.dumps({"key": Path("/")}),
        b"PK\x05\x06" + bytes(18),
        b"\x80\x02" + b"(" * 100_000,
        b"\x80\x04\x95" + b"\xff" * 8,
    ],
)
def test_load_checkpoint_of_no_torch_content_with_a_right_checksum_is_one_line(saved, payload):
    saved.write_bytes(header(payload) + payload)
    with pytest.raises(CheckpointError, match="is damaged: its payload cannot be understood") as caught:
        load_checkpoint(saved, KEY)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


def test_load_checkpoint_damaged_anywhere_with_a_right_checksum_is_told_or_harmless(saved):
    """No byte of it, turned over, raises anything but our own error."""
    payload = saved.read_bytes()[len(header(b"")) :]
    num_told = 0
    for place in range(0, len(payload), 7):
        changed = payload[:place] + bytes([payload[place] ^ 0xFF]) + payload[place + 1 :]
        saved.write_bytes(header(changed) + changed)
        try:
            load_checkpoint(saved, KEY)
        except CheckpointError:
            num_told += 1
    assert num_told > 20
