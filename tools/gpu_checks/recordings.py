"""Recorded steps against plain ones, bit by bit, through all that a worker does between two replays."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from kdhpc.config.schema import DeviceConfig, ObjectiveConfig, SearchConfig
from kdhpc.graph.spec import Gate, GraphSpec
from kdhpc.methods.graph import GraphMethod
from kdhpc.training.compile import Programs
from kdhpc.training.device import Precision
from kdhpc.training.runtime import resolve_runtime
from tools.benchmarks.noise import noise_batches
from tools.gpu_checks.check import NOTE, Check, DiffersError, Numbers, Scale
from tools.gpu_checks.setting import (
    advance,
    config_of,
    deterministic_cudnn,
    device_of,
    programs_of,
    random_graph,
    recorder_of,
    short_training,
    tensors_of,
    training_of,
    write_weights,
)

_STEPS_PER_EPOCH = 4
_FEW_NODES = 2
"""Where programs are compiled for a single check: that takes as long as there are nodes."""
_AS_PLAIN = 3
"""Times the difference of two plain runs that a recorded one may differ, where those differ at all."""


def checks(scale: Scale) -> Iterator[Check]:
    """The first network, in the precision that ``auto`` is: checks of trials side by side take the same programs."""
    yield _recorded(scale, scale.step_networks[0], scale.num_nodes)


def more_checks(scale: Scale, scratch: Path) -> Iterator[Check]:
    """The other networks; frozen nodes; then the other precisions. All of them compile anew."""
    first, *others = scale.step_networks
    yield from (_recorded(scale, network, _FEW_NODES) for network in reversed(others))
    yield Check(name=f"frozen nodes, {first}", run=functools.partial(frozen_check, scale, first, scratch), limit_s=240)
    precisions: tuple[Precision, ...] = ("float32", "bf16", "fp16")
    for precision in () if scale.cpu else precisions:
        device = DeviceConfig(device="cuda", precision=precision)
        is_usual = precision == resolve_runtime(DeviceConfig(device="cuda"), device=device_of(scale)).precision
        if not is_usual and resolve_runtime(device, device=device_of(scale)).mode == "cudagraph":
            yield Check(
                name=f"recorded against plain, {first}, {precision}",
                run=functools.partial(recorded_check, scale, first, num_nodes=_FEW_NODES, precision=precision),
                limit_s=240,
            )


def _recorded(scale: Scale, network: str, num_nodes: int) -> Check:
    return Check(
        name=f"recorded against plain, {network}",
        run=functools.partial(recorded_check, scale, network, num_nodes=num_nodes),
        limit_s=420,
    )


def recorded_check(scale: Scale, network: str, *, num_nodes: int, precision: str = "auto") -> Numbers:
    """Steps, an evaluation, a checkpoint, another graph and seed, and back to the checkpoint."""
    device = DeviceConfig(device="cpu" if scale.cpu else "cuda", precision=precision)  # type: ignore[arg-type]
    config = config_of(scale, network, num_nodes=num_nodes, device=device, training=short_training(scale))
    graphs = [random_graph(num_nodes, number) for number in (0, 1)]
    return _compare(scale, config, graphs)


def frozen_check(scale: Scale, network: str, scratch: Path) -> Numbers:
    """The same where a node is frozen, another one in the other graph; frozen weights stay as they are in the file."""
    config = config_of(scale, network, training=short_training(scale))
    train, evaluation = noise_batches(config, _STEPS_PER_EPOCH)
    path = scratch / "frozen.safetensors"
    weights = write_weights(training_of(config, random_graph(scale.num_nodes, 0), train, evaluation, seed=9), path)
    config = dataclasses.replace(config, objective=ObjectiveConfig(unlearned="pretrained", pretrained=str(path)))
    graphs = [_with_unlearned(random_graph(scale.num_nodes, node), node) for node in (0, 1)]
    return _compare(scale, config, graphs, frozen=weights)


def _with_unlearned(graph: GraphSpec, node: int) -> GraphSpec:
    """The graph, with all edges into a node cut off, and no others of labels."""
    gates = [Gate.CUTOFF if index == node else Gate.THROUGH for index in range(graph.num_nodes)]
    edges = [
        dataclasses.replace(edge, gate=Gate.CUTOFF) if edge.target == node else edge for edge in graph.edges
    ]  # fmt: skip
    return GraphSpec(label_gates=tuple(gates), edges=tuple(edges))


def _compare(
    scale: Scale, config: SearchConfig, graphs: Sequence[GraphSpec], *, frozen: dict[str, Tensor] | None = None
) -> Numbers:
    with deterministic_cudnn():
        plain, plain_mode = _journey(config, graphs, programs_of(scale, None), frozen)
        again, _ = _journey(config, graphs, programs_of(scale, None), frozen)
        recorded, mode = _journey(config, graphs, programs_of(scale, recorder_of(scale)), frozen)
    if "cudagraph" not in mode:
        raise DiffersError(f"steps were not recorded (mode {mode}): the line before says why")
    if scale.compiles and (mode, plain_mode) != ("cudagraph", "compile"):
        raise DiffersError(f"torch.compile failed (modes {mode}, {plain_mode}): the line before says why")
    if scale.compiles and not programs_of(scale, None).combines:
        raise DiffersError("kernels of all nodes could not be combined: the line before says why")
    numbers: Numbers = {
        "tensors": len(plain),
        "mode": mode,
        "precision": resolve_runtime(config.device, device=device_of(scale)).precision,
    }
    noise, _ = _farthest(again, plain)
    off, name = _farthest(recorded, plain)
    if off > _AS_PLAIN * noise:
        if noise == 0:
            raise DiffersError(f"{name} differs by {off:.2g} of its norm; two plain runs are the same to the bit")
        raise DiffersError(f"{name} differs by {off:.2g} of its norm; two plain runs by {noise:.2g}")
    note = "the same bits" if noise == 0 else f"two plain runs differ by {noise:.2g}: no bits to compare"
    return numbers | {"off by": off, NOTE: note}


def _journey(
    config: SearchConfig, graphs: Sequence[GraphSpec], computing: Programs, frozen: dict[str, Tensor] | None
) -> tuple[dict[str, Tensor], str]:
    """All tensors at three points, and the reports on the way; the mode at the end."""
    train, evaluation = noise_batches(config, _STEPS_PER_EPOCH)
    training = training_of(config, graphs[0], train, evaluation, seed=1, programs=computing)
    found: dict[str, Tensor] = {}

    def note(place: str, reports: list[float]) -> None:
        found[f"reports {place}"] = torch.tensor(reports, dtype=torch.float64)
        found.update({f"{name}, {place}": tensor for name, tensor in tensors_of(training).items()})

    # Past an evaluation, into an epoch with another learning rate.
    note("at the checkpoint", advance(training, _STEPS_PER_EPOCH + 2))
    kept = training.state()
    _check_frozen(training.state().nodes[0].tensors if frozen else {}, frozen or {})
    training.restart(GraphMethod(graph=graphs[1]), 2)
    note("of another graph and seed", advance(training, _STEPS_PER_EPOCH + 1))
    _check_frozen(training.state().nodes[1].tensors if frozen else {}, frozen or {})
    training.restart(GraphMethod(graph=graphs[0]), 1)
    training.restore(kept)
    note("after the checkpoint", advance(training, _STEPS_PER_EPOCH))
    for name, tensor in found.items():
        if not tensor.isfinite().all():
            raise DiffersError(f"{name} is not finite")
    return found, training.mode


def _check_frozen(found: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    for name, tensor in weights.items():
        if not torch.equal(found[name], tensor):
            raise DiffersError(f"{name} of a frozen node has moved")


def _farthest(found: dict[str, Tensor], expected: dict[str, Tensor]) -> tuple[float, str]:
    """The largest difference, as a share of a tensor's norm, and of which tensor; 0 if all bits are the same."""
    farthest = (0.0, "nothing")
    for name, theirs in expected.items():
        ours = found[name]
        if ours.shape != theirs.shape:
            raise DiffersError(f"{name} has {tuple(ours.shape)} numbers instead of {tuple(theirs.shape)}")
        if not torch.equal(ours, theirs):
            difference = (ours.double() - theirs.double()).norm() / theirs.double().norm().clamp_min(1e-30)
            farthest = max(farthest, (max(difference.item(), 1e-30), name))
    return farthest
