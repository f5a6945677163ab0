import dataclasses
import hashlib
import io
import pickle
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kdhpc.errors import CheckpointError
from kdhpc.training.checkpoint import CheckpointKey, load_checkpoint, remove_checkpoint, save_checkpoint
from kdhpc.training.loop import TrainingState
from kdhpc.training.node import NodeState

KEY = CheckpointKey(study="dogs2", number=7, graph_key="0123456789ab", seed=5, settings="fedcba9876543210")


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
        (lambda content: content[:40], "it has 40 bytes"),
        (lambda content: content[:-1], "its payload has"),
        (lambda content: content + b"x", "its payload has"),
        (damage_flip, "its checksum does not agree"),
        (lambda content: b"PK\x03\x04" + content[4:], "it is no kdhpc checkpoint"),
    ],
)
def test_load_checkpoint_damaged_file_is_named_with_the_reason(saved, damage, reason):
    saved.write_bytes(damage(saved.read_bytes()))
    with pytest.raises(CheckpointError, match=reason) as caught:
        load_checkpoint(saved, KEY)
    assert str(saved) in str(caught.value)
    assert "\n" not in str(caught.value)


def header(payload, *, version=1):
    return struct.pack("<8sIQ32s", b"KDHPCCKP", version, len(payload), hashlib.sha256(payload).digest())


def test_load_checkpoint_of_another_version_is_refused(saved):
    payload = saved.read_bytes()[len(header(b"")) :]
    saved.write_bytes(header(payload, version=2) + payload)
    with pytest.raises(CheckpointError, match="has format version 2, this kdhpc reads 1"):
        load_checkpoint(saved, KEY)


def test_load_checkpoint_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot read checkpoint .*nowhere.*No such file"):
        load_checkpoint(tmp_path / "nowhere", KEY)


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("zipped", [True, False])
def test_load_checkpoint_payload_with_code_is_refused_and_not_run(tmp_path, zipped):
    sprung = tmp_path / "sprung"
    document = {"identity": dataclasses.asdict(KEY), "state": Trap(sprung)}
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
        {"identity": {"study": "dogs2"}, "state": {}},
        {"identity": dataclasses.asdict(KEY), "state": {"epoch": 1}},
        {"identity": dataclasses.asdict(KEY), "state": None},
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
    with pytest.raises(CheckpointError, match="cannot write checkpoint"):
        save_checkpoint(blocked, state_of(), KEY)
    assert load_checkpoint(saved, KEY).step_in_epoch == 3


WRITER = """
import sys
from pathlib import Path
from kdhpc.training.checkpoint import save_checkpoint
from tests.training.test_checkpoint import KEY, state_of
states = [state_of(step=step, size=100_000) for step in range(4)]
for count in range(1_000_000):
    save_checkpoint(Path(sys.argv[1]), states[count % 4], KEY)
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
    (tmp_path / ".checkpoint.pt.0123.partial").write_bytes(b"left by a writer that was killed")
    remove_checkpoint(path)
    assert list(tmp_path.iterdir()) == []
    remove_checkpoint(path)
