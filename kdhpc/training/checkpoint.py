"""Checkpoints: written whole or not at all, checked before use, loaded without executing anything that they hold.

The file: a header, then the payload, which is torch.save's. The header has magic, format version, digest of the key,
optimiser step, length of the payload, and the SHA-256 of all that and the payload. A writer reads the header of the
file that is there: a checkpoint never replaces a later one of the same training.
"""

import dataclasses
import hashlib
import io
import json
import logging
import math
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, get_args

import torch
from torch import Tensor

from kdhpc.errors import CheckpointError, StorageError
from kdhpc.files.reading import read_whole
from kdhpc.files.removing import remove
from kdhpc.files.storage_errors import is_of_storage, storage_error
from kdhpc.files.writing import write_whole
from kdhpc.training.device import Mode
from kdhpc.training.loop import TrainingState
from kdhpc.training.node_trainer import NodeState

_LOG = logging.getLogger(__name__)
_MAGIC = b"KDHPCCKP"
_VERSION = 3
_FORMAT = struct.Struct("<8sI")
"""Magic and version: the same in all versions."""
_FIELDS = struct.Struct("<32sQQ")
"""Digest of the key, step, length of the payload."""
_CHECKSUM_BYTES = 32
_REASON_LENGTH = 200
_HEADER_BYTES = _FORMAT.size + _FIELDS.size + _CHECKSUM_BYTES


@dataclass(frozen=True, kw_only=True)
class CheckpointKey:
    """Identifies the training that a checkpoint belongs to. Only a training with an equal key goes on from it."""

    study: str
    """For a trial, the study's unique id (``SharedStudy.uid``), which a later study of the same name does not share.
    For a final training, its name."""
    number: int
    """The trial's number in its study; for a final training, its seed."""
    graph_key: str
    """Key of the graph."""
    seed: int
    """Seed of the training."""
    settings: str
    """Digest of all else that the numbers depend on: settings, images, and which images are trained on."""

    @property
    def digest(self) -> bytes:
        """SHA-256 of the key, 32 bytes."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).digest()


@dataclass(frozen=True, kw_only=True)
class CheckpointHeader:
    """The header of a checkpoint. Files with equal headers are equal."""

    key_digest: bytes
    """`CheckpointKey.digest` of its training."""
    step: int
    """Optimiser steps done."""
    length: int
    """Length of the payload, in bytes."""
    checksum: bytes
    """SHA-256 of the header's other fields and the payload."""


def save_checkpoint(
    path: Path,
    state: TrainingState,
    key: CheckpointKey,
    *,
    may_write: Callable[[], bool] = lambda: True,
    rejected: CheckpointHeader | None = None,
) -> bool:
    """Write under a temporary name, flush to the disk, rename: a reader finds the old checkpoint or the new one.

    Args:
        path: The file.
        state: What to write.
        key: Identifies the training.
        may_write: Whether this training may still write it. Asked before the rename, on a slow disk minutes later.
        rejected: Header of a file from which this training could not go on: it is replaced even if it is further on.

    Returns:
        False: nothing was written, as that is not allowed any more, or a later checkpoint of this training is there.

    Raises:
        CheckpointError: the disk refuses (full, read-only, no permission); the old checkpoint is still there.
    """
    buffer = io.BytesIO()
    torch.save({"key": dataclasses.asdict(key), "state": _to_payload(state)}, buffer)
    answers: list[bool] = []

    def may_replace() -> bool:
        there = read_header(path)
        is_further = there is not None and there.key_digest == key.digest and there.step > state.step
        answers.append(may_write() and (not is_further or there == rejected))
        return answers[-1]

    payload = buffer.getvalue()  # Not a view: if an error kept the view alive, the buffer could not be closed.
    head = _FORMAT.pack(_MAGIC, _VERSION) + _FIELDS.pack(key.digest, state.step, len(payload))
    try:
        write_whole(path, head, _checksum(head, payload), payload, may_replace=may_replace)
    except StorageError as exc:
        raise CheckpointError(f"{exc}; make room, or allow writing there") from exc
    return answers[-1]


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint that is no longer needed, and the temporary files of killed writers. Warn if it stays."""
    if not remove(path) and os.path.lexists(path):
        _LOG.warning("%s cannot be removed; nothing needs it any more, remove it when that is possible", path)
    remove_leftovers(path)


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files that killed writers of a file have left, as far as that is possible."""
    try:
        leftovers = list(path.parent.glob(f".{path.name}.*.tmp"))
    except OSError:
        return
    for leftover in leftovers:
        remove(leftover)


def load_checkpoint(path: Path, key: CheckpointKey) -> TrainingState:
    """The state of a training that was saved in a file.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: damaged, of another format version, or of another training.
        StorageError: the file system refuses to read it, which says nothing about what is in it.
    """
    header, payload = _checked(path)
    try:
        # Even with the right checksum it may hold anything, and torch's decoder may raise anything.
        document = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
        if not isinstance(document, dict) or document.keys() != {"key", "state"}:
            raise ValueError("it has other parts than key and state")
        found = CheckpointKey(**_fields(document["key"], study=str, number=int, graph_key=str, seed=int, settings=str))
        state = _from_payload(document["state"])
        if state.step != header.step:
            raise ValueError(f"it stands at step {state.step}, its header at {header.step}")
    except Exception as exc:
        if isinstance(exc, MemoryError) or is_of_storage(exc):
            raise
        reason = " ".join(f"{type(exc).__name__}: {exc}".split())[:_REASON_LENGTH]
        raise _damaged(path, f"its payload cannot be understood ({reason})") from exc
    for field in dataclasses.fields(CheckpointKey):
        ours, theirs = getattr(key, field.name), getattr(found, field.name)
        if ours != theirs:
            raise CheckpointError(
                f"checkpoint {path} belongs to another trial: its {field.name} is {str(theirs)[:_REASON_LENGTH]!r}, "
                f"this trial has {ours!r}"
            )
    return state


def read_header(path: Path) -> CheckpointHeader | None:
    """What the file says of itself, without reading all of it; None: there is no checkpoint of this format.

    Raises:
        StorageError: the file system refuses to read it.
    """
    try:
        content = read_whole(path, first=_HEADER_BYTES)
    except OSError:  # There is none, or it is no file.
        return None
    if len(content) < _HEADER_BYTES or _FORMAT.unpack_from(content) != (_MAGIC, _VERSION):
        return None
    return _header(content)


def _header(content: bytes) -> CheckpointHeader:
    key_digest, step, length = _FIELDS.unpack_from(content, _FORMAT.size)
    checksum = content[_HEADER_BYTES - _CHECKSUM_BYTES : _HEADER_BYTES]
    return CheckpointHeader(key_digest=key_digest, step=step, length=length, checksum=checksum)


def _checksum(head: bytes, payload: bytes | memoryview) -> bytes:
    digest = hashlib.sha256(head)
    digest.update(payload)
    return digest.digest()


def _checked(path: Path) -> tuple[CheckpointHeader, memoryview]:
    try:
        content = read_whole(path)
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise FileNotFoundError(str(path)) from exc
    except IsADirectoryError as exc:
        raise _damaged(path, "it is a folder") from exc
    except OSError as exc:
        raise storage_error(exc, path, "read") from exc
    if len(content) < _FORMAT.size:
        raise _damaged(path, f"it has {len(content)} bytes")
    magic, version = _FORMAT.unpack_from(content)
    if magic != _MAGIC:
        raise _damaged(path, "it is no kdhpc checkpoint")
    if version != _VERSION:
        raise CheckpointError(f"checkpoint {path} has format version {version}, this kdhpc reads {_VERSION}")
    if len(content) < _HEADER_BYTES:
        raise _damaged(path, f"it has {len(content)} bytes, its header alone needs {_HEADER_BYTES}")
    header, payload = _header(content), memoryview(content)[_HEADER_BYTES:]
    if len(payload) != header.length:
        raise _damaged(path, f"its payload has {len(payload)} bytes instead of {header.length}")
    if _checksum(content[: _HEADER_BYTES - _CHECKSUM_BYTES], payload) != header.checksum:
        raise _damaged(path, "its checksum does not agree")
    return header, payload


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"checkpoint {path} is damaged: {reason}")


class _NodePayload(TypedDict):
    tensors: dict[str, Tensor]
    momentum: dict[str, Tensor]
    loss_scale: dict[str, float]


class _StatePayload(TypedDict):
    """Only what ``weights_only`` loading lets through: tensors, numbers, strings, dicts and lists."""

    step: int
    epoch: int
    step_in_epoch: int
    seconds: float
    mode: str
    loss_sums: Tensor
    nodes: list[_NodePayload]


def _to_payload(state: TrainingState) -> _StatePayload:
    return {
        "step": state.step,
        "epoch": state.epoch,
        "step_in_epoch": state.step_in_epoch,
        "seconds": state.seconds,
        "mode": state.mode,
        "loss_sums": state.loss_sums,
        "nodes": [
            {"tensors": node.tensors, "momentum": node.momentum, "loss_scale": node.loss_scale} for node in state.nodes
        ],
    }


def _from_payload(payload: object) -> TrainingState:
    """The state, if its fields are there and of their types. The learner compares names and shapes of tensors.

    Raises:
        ValueError: it is something else.
    """
    counts = {"step": int, "epoch": int, "step_in_epoch": int, "seconds": float}
    fields = _fields(payload, **counts, mode=str, loss_sums=Tensor, nodes=list)
    if min(fields["step"], fields["epoch"], fields["step_in_epoch"]) < 0 or not math.isfinite(fields["seconds"]):
        raise ValueError("a count or a time of it is none")
    if fields["mode"] not in get_args(Mode):
        raise ValueError(f"it has no mode {fields['mode'][:_REASON_LENGTH]!r}")
    nodes = [_fields(node, tensors=dict, momentum=dict, loss_scale=dict) for node in fields["nodes"]]
    for node in nodes:
        for name, number in node["loss_scale"].items():
            if not isinstance(name, str) or type(number) not in (int, float) or not math.isfinite(number):
                raise ValueError("a loss scale of it is no number")
    named = [item for node in nodes for item in (*node["tensors"].items(), *node["momentum"].items())]
    for name, tensor in (("loss_sums", fields["loss_sums"]), *named):
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or not _is_plain(tensor):
            raise ValueError(f"{str(name)[:_REASON_LENGTH]!r} is no plain tensor")
    return TrainingState(**fields | {"nodes": tuple(NodeState(**node) for node in nodes)})


def _fields(document: object, **kinds: type) -> dict[str, Any]:
    """The fields of a mapping that has those, each exactly of its type, and no others."""
    if not isinstance(document, dict) or document.keys() != kinds.keys():
        raise ValueError(f"it is no mapping of {', '.join(kinds)}")
    for name, kind in kinds.items():
        if type(document[name]) is not kind:
            raise ValueError(f"its {name} is of type {type(document[name]).__name__}")
    return document


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is dense, on the CPU, without a gradient, and has memory for each of its values."""
    is_dense = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    return is_dense and not tensor.requires_grad and tensor.untyped_storage().nbytes() >= tensor.nbytes
