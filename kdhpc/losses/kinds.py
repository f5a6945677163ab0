"""The code of designs and gates: found by the catalogue's entries when a training begins, and tried before it is used.

Dimension suffixes: N samples, S source nodes, T target nodes, C classes, H, W rows and columns of an attention map.
"""

from collections.abc import Callable, Iterable
from functools import cache
from typing import NamedTuple, TypeAlias, cast

import torch
from torch import Tensor

from kdhpc.errors import ConfigError
from kdhpc.graph.catalogue import BUILT_IN_LOSSES, Code, GateEntry, LossEntry, Output, design_entry, gate_entry
from kdhpc.graph.spec import BUILT_IN_GATES, Design, Gate
from kdhpc.interpreter import import_users

LossFunction: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Of the outputs of all sources, detached, and of all targets; gives (N, S, T)."""
WeightFunction: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Of the ramp, and of which samples each source predicts correctly, (N, S); gives what can be broadcast to (N, S)."""


class PluginLoss(NamedTuple):
    """An elementary loss of a plug-in."""

    compares: Output
    """The output that it is given."""
    function: LossFunction
    """Its code."""


class KindsCode(NamedTuple):
    """What a program calls, beside kdhpc's own four elementary losses. Constant within a program."""

    losses: tuple[PluginLoss | None, ...]
    """Elementary losses of plug-ins, in their order along dimension L; None: one that need not be computed."""
    weights: tuple[WeightFunction, ...]
    """Weights of gates, in their order along dimension G."""


class Kinds(NamedTuple):
    """The elementary losses and gates that any graph of a training may use."""

    losses: tuple[LossEntry, ...]
    """In their order along dimension L: kdhpc's own four, then those of plug-ins."""
    gates: tuple[Gate, ...]
    """In their order along dimension G: kdhpc's own, then those of plug-ins."""
    code: KindsCode
    """Their code."""


def kinds_of(names: Iterable[Design | Gate]) -> Kinds:
    """kdhpc's own losses and gates, and those of plug-ins that some designs and gates need.

    Args:
        names: The designs and gates that graphs may have.

    Raises:
        ConfigError: code of a plug-in cannot be imported, or does not do what an entry of the catalogue says.
    """
    names = sorted(set(names))
    designs = [name for name in names if isinstance(name, Design) and not name.is_built_in]
    gates = [name for name in names if isinstance(name, Gate) and not name.is_built_in]
    losses = dict.fromkeys(loss for design in designs for loss in design_entry(design).losses)
    ours = tuple(gate for gate in BUILT_IN_GATES if gate is not Gate.CUTOFF)
    new = tuple(loss for loss in losses if loss not in BUILT_IN_LOSSES)
    return Kinds(
        losses=(*BUILT_IN_LOSSES, *new),
        gates=(*ours, *gates),
        code=KindsCode(
            losses=tuple(PluginLoss(loss.compares, _loss_function(loss)) for loss in new),
            weights=tuple(_weight_function(gate_entry(gate)) for gate in (*ours, *gates)),
        ),
    )


@cache
def _loss_function(entry: LossEntry) -> LossFunction:
    what = f"elementary loss {entry.name!r} of a plug-in"
    function = cast(LossFunction, _imported(entry.function, what))
    _try(what, lambda device: _try_loss(entry.compares, function, device))
    return function


@cache
def _weight_function(entry: GateEntry) -> WeightFunction:
    what = f"gate {entry.name!r}"
    weight = cast(WeightFunction, _imported(entry.weight, what))
    _try(what, lambda device: _try_weight(weight, device))
    return weight


def _imported(code: Code, what: str) -> Callable[..., object]:
    if not isinstance(code, str):
        return code
    module, _, name = code.partition(":")
    try:
        found: object = getattr(import_users(module), name)
    except Exception as exc:  # A user's code may fail in whatever way.
        raise ConfigError(f"{what}: {code} cannot be imported: {_words(exc)}") from exc
    if not callable(found):
        raise ConfigError(f"{what}: {code} is a {type(found).__name__}: name a function")
    return cast("Callable[..., object]", found)


def _try(what: str, run: Callable[[str], None]) -> None:
    """On no data at all, where whatever waits for the values of a tensor fails, then on a few numbers."""
    try:
        run("meta")
        run("cpu")
    except _WrongResultError as exc:
        raise ConfigError(f"{what} {exc}") from exc
    except Exception as exc:
        hint = " (it may ask for the values of a tensor, which no step can wait for)" if "meta" in str(exc) else ""
        raise ConfigError(f"{what} fails on tensors of the right shapes: {_words(exc)}{hint}") from exc


class _WrongResultError(Exception):
    """What a function gave is not what it should; the message says what."""


def _try_loss(compares: Output, function: LossFunction, device: str) -> None:
    num_samples, num_nodes = 2, 3
    shape = (num_samples, num_nodes, *((5,) if compares == "probability" else (4, 4)))
    source = _numbers(shape, device)
    target = source.clone().requires_grad_()
    loss = _called_twice(lambda given: function(given, target), source)
    _check(loss, "gives", (num_samples, num_nodes, num_nodes))
    if not loss.requires_grad:
        raise _WrongResultError(f"does not depend on the target's {compares}, which it is said to compare")
    if device != "meta":
        (gradient,) = torch.autograd.grad(loss.sum(), target)
        if not (loss.isfinite().all() and gradient.isfinite().all()):
            raise _WrongResultError(
                "gives a loss or a gradient that is no finite number where source and target are the same node: clamp "
                "before a root, a division or a logarithm"
            )


def _try_weight(weight: WeightFunction, device: str) -> None:
    right_NS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]], device=device)
    for ramp in (0.0, 0.5, 1.0):
        found = _called_twice(weight, torch.tensor(ramp, device=device), right_NS)
        _check(found, "gives")
        sizes = zip(reversed(found.shape), reversed(right_NS.shape), strict=False)
        if found.ndim > 2 or any(size not in (1, whole) for size, whole in sizes):
            raise _WrongResultError(f"gives a weight of shape {tuple(found.shape)}, which must fit (samples, sources)")
        if device != "meta" and not found.isfinite().all():
            raise _WrongResultError(f"gives a weight that is no finite number at ramp {ramp}")


def _called_twice(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """What a function gives, which must be the same for the same inputs: a training that goes on has no other state."""
    first, again = function(*inputs), function(*inputs)
    if any(tensor._version for tensor in inputs):
        raise _WrongResultError("changes a tensor that it is given, which other losses need: make a new one")
    is_same = not isinstance(first, Tensor) or first.is_meta or torch.equal(first.nan_to_num(), again.nan_to_num())
    if not is_same:
        raise _WrongResultError(
            "gives another result for the same tensors when it is called again: no training could be repeated, or go "
            "on from a checkpoint; keep no numbers, and draw none"
        )
    return first


def _check(result: object, verb: str, shape: tuple[int, ...] | None = None) -> None:
    if not isinstance(result, Tensor) or not result.is_floating_point():
        shown = str(result.dtype) if isinstance(result, Tensor) else type(result).__name__
        raise _WrongResultError(f"{verb} {shown}: it must give a tensor of floating point")
    if shape is not None and tuple(result.shape) != shape:
        names = ("samples", "sources", "targets")
        wanted = ", ".join(f"{size} {name}" for size, name in zip(shape, names, strict=True))
        raise _WrongResultError(f"{verb} losses of shape {tuple(result.shape)}, which must be ({wanted})")


def _numbers(shape: tuple[int, ...], device: str) -> Tensor:
    """The same ones each time, positive as attention maps are."""
    values = torch.arange(1, 1 + torch.Size(shape).numel(), dtype=torch.float32)
    return (values * 0.7548777).frac().view(shape).to(device)


def _words(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {' '.join(str(exc).split())[:200]}"


BUILT_IN_KINDS = kinds_of(())
"""Without any plug-in's."""
