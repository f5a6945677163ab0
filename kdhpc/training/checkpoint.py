"""Checkpoints: written whole or not at all, checked before use, loaded without executing anything that they hold.

The file: magic, format version, length and SHA-256 of the payload, then the payload, which is torch.save's.
"""

import contextlib
import dataclasses
import hashlib
import io
import os
import pickle
import secrets
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor

from kdhpc.errors import CheckpointError
from kdhpc.training.loop import TrainingState
from kdhpc.training.node import NodeState

_MAGIC = b"KDHPCCKP"
_VERSION = 1
_HEADER = struct.Struct("<8sIQ32s")


@dataclass(frozen=True, kw_only=True)
class TrialIdentity:
    """Whose checkpoint it is. All of it must agree before a trial goes on from one."""

    study: str
    """Name of the study."""
    number: int
    """The trial's number in it."""
    graph_key: str
    """Of the trial's graph."""
    seed: int
    """The trial's."""
    settings: str
    """Digest of every setting that the arithmetic depends on."""


def save_checkpoint(path: Path, state: TrainingState, identity: TrialIdentity) -> None:
    """Write under a temporary name, flush to the disk, rename: a reader finds the old checkpoint or the new one.

    Raises:
        CheckpointError: the disk refuses (full, read-only, no permission); the old checkpoint is still there.
    """
    buffer = io.BytesIO()
    torch.save({"identity": dataclasses.asdict(identity), "state": _to_payload(state)}, buffer)
    payload = buffer.getbuffer()
    # A name of its own: a worker that has lost its lease without knowing yet may be writing here too.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(_HEADER.pack(_MAGIC, _VERSION, len(payload), hashlib.sha256(payload).digest()))
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _flush_folder(path.parent)
    except OSError as exc:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise CheckpointError(
            f"cannot write checkpoint {path}: {exc.strerror or exc}; free or allow space there"
        ) from exc


def remove_checkpoint(path: Path) -> None:
    """Remove it, and what writers that were killed have left of theirs."""
    path.unlink(missing_ok=True)
    for partial in path.parent.glob(f".{path.name}.*.partial"):
        partial.unlink(missing_ok=True)


def load_checkpoint(path: Path, identity: TrialIdentity) -> TrainingState:
    """The state that was saved there for that trial.

    Raises:
        CheckpointError: unreadable, damaged, of another format version, or of another trial.
    """
    payload = _checked_payload(path)
    try:
        document = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
        found = TrialIdentity(**document["identity"])
        state = _from_payload(document["state"])
    except (pickle.UnpicklingError, RuntimeError, KeyError, TypeError, AttributeError, ValueError, EOFError) as exc:
        raise _damaged(path, f"its payload cannot be understood ({type(exc).__name__})") from exc
    for field in dataclasses.fields(TrialIdentity):
        ours, theirs = getattr(identity, field.name), getattr(found, field.name)
        if ours != theirs:
            raise CheckpointError(
                f"checkpoint {path} belongs to another trial: its {field.name} is {theirs!r}, this trial has {ours!r}; "
                "remove it, or go on with what it was made with"
            )
    return state


def _checked_payload(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise CheckpointError(f"cannot read checkpoint {path}: {exc.strerror or exc}") from exc
    if len(content) < _HEADER.size:
        raise _damaged(path, f"it has {len(content)} bytes, its header alone needs {_HEADER.size}")
    magic, version, length, digest = _HEADER.unpack_from(content)
    if magic != _MAGIC:
        raise _damaged(path, "it is no kdhpc checkpoint")
    if version != _VERSION:
        raise CheckpointError(
            f"checkpoint {path} has format version {version}, this kdhpc reads {_VERSION}: "
            "go on with the kdhpc that wrote it, or remove it"
        )
    payload = content[_HEADER.size :]
    if len(payload) != length:
        raise _damaged(path, f"its payload has {len(payload)} bytes instead of {length}")
    if hashlib.sha256(payload).digest() != digest:
        raise _damaged(path, "its checksum does not agree")
    return payload


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"checkpoint {path} is damaged: {reason}; remove it to start the trial again")


class _NodePayload(TypedDict):
    tensors: dict[str, Tensor]
    momentum: dict[str, Tensor]
    loss_scale: dict[str, float]


class _StatePayload(TypedDict):
    """Only what ``weights_only`` loading lets through: tensors, numbers, strings, dicts and lists."""

    epoch: int
    step_in_epoch: int
    seconds: float
    loss_sums: Tensor
    nodes: list[_NodePayload]


def _to_payload(state: TrainingState) -> _StatePayload:
    return {
        "epoch": state.epoch,
        "step_in_epoch": state.step_in_epoch,
        "seconds": state.seconds,
        "loss_sums": state.loss_sums,
        "nodes": [
            {"tensors": node.tensors, "momentum": node.momentum, "loss_scale": node.loss_scale} for node in state.nodes
        ],
    }


def _from_payload(payload: _StatePayload) -> TrainingState:
    return TrainingState(
        epoch=payload["epoch"],
        step_in_epoch=payload["step_in_epoch"],
        seconds=payload["seconds"],
        loss_sums=payload["loss_sums"],
        nodes=tuple(NodeState(**node) for node in payload["nodes"]),
    )


def _flush_folder(folder: Path) -> None:
    """Make the rename itself outlast a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
