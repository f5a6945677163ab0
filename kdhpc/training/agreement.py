"""Whether a recorded step does what the step does that was recorded.

Two runs of one step from one state differ by rounding, and by how much depends on the network and its precision. In
bf16, a change in the seventh digit of the weights moves first gradients by a tenth to a half, while losses and the
statistics of batch norms move by a hundredth at most. So the yardstick is measured: the step is run again from the same
state but for rounding, and a replay may lie a few times as far from the step as these runs do. Each tensor is judged by
itself, since gradients near the outputs are far less noisy than others.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kdhpc.training.node_trainer import NodeState, Remembered, remembered_kind

_NOISE_FACTOR = 3.0
"""A replay may lie as many times further from the step than the step run again, which is a single draw."""
_FLOORS = {
    **{"loss": 0.002, "weight": 0.02, "statistic": 0.005, "counter": 0.0},
    **{"momentum": 0.02, "mean": 0.02, "mean square": 0.02, "number of steps": 0.0},
}
"""What it may differ by at least: a part of all losses together, or of the movement of all of the node's tensors of a
kind. What moves by rounding alone, as a bias before a batch norm does, cannot be judged by its own movement."""
_REMEMBERED = {
    Remembered.MOMENTUM: "momentum",
    Remembered.MEAN: "mean",
    Remembered.MEAN_SQUARE: "mean square",
    Remembered.STEPS: "number of steps",
}
"""What messages call them; each is a kind of its own, since they are of other sizes."""
_NUDGE = 1e-6
"""Some units of float32's last place: in bf16 hardly less than any other rounding."""


@dataclass(frozen=True, kw_only=True)
class StepRun:
    """A step that was done."""

    start: tuple[NodeState, ...]
    """Before it."""
    losses: Tensor
    """(num_losses,), float64, on the CPU."""
    end: tuple[NodeState, ...]
    """After it."""


class _Part(NamedTuple):
    """A part of what a step comes to."""

    name: str
    """For people."""
    kind: tuple[int, str]
    """The node, and the kind of tensor."""
    start: Tensor
    """Before the step, on the CPU."""
    end: Tensor
    """After it."""


def nudged(states: Sequence[NodeState], seed: int, by: float = _NUDGE) -> tuple[NodeState, ...]:
    """The states, each number a little larger or smaller.

    Args:
        states: Of all nodes.
        seed: Which numbers are larger follows from it.
        by: How much, as a part of the number; if not given, as much as rounding.
    """
    largest = max(tensor.numel() for state in states for tensor in state.tensors.values())
    signs = torch.randint(0, 2, (largest,), generator=torch.Generator().manual_seed(seed), dtype=torch.int8) * 2 - 1
    factors = 1 + by * signs  # The same for all tensors: to draw as many as there are weights takes seconds.

    def nudge(tensor: Tensor) -> Tensor:
        return tensor * factors[: tensor.numel()].view_as(tensor) if tensor.is_floating_point() else tensor

    return tuple(
        replace(
            state,
            tensors={name: nudge(tensor) for name, tensor in state.tensors.items()},
            momentum={name: nudge(tensor) for name, tensor in state.momentum.items()},
        )
        for state in states
    )


class Expectation:
    """What a replay must come to.

    Args:
        run: The step, not recorded.
        networks: What learns, one a node.
    """

    def __init__(self, run: StepRun, networks: Sequence[nn.Module]) -> None:
        self._weights = [{name for name, _ in network.named_parameters()} for network in networks]
        self._expected = run
        self._noise: dict[str, float] = {}
        self._whole: dict[tuple[int, str], float] = {}
        for part in self._parts(run):
            change = _norm(part.end - part.start)
            if math.isfinite(change):
                self._whole[part.kind] = math.hypot(self._whole.get(part.kind, 0.0), change)

    def widen(self, again: StepRun) -> None:
        """Take into account how far the same step from a nudged state lies away."""
        for name, _, distance in self._distances(again):
            self._noise[name] = max(distance, self._noise.get(name, 0.0))

    def problem(self, found: StepRun) -> str | None:
        """What a replay from the same state did that the step did not; None: they agree."""
        for name, kind, distance in self._distances(found):
            allowed = _NOISE_FACTOR * self._noise.get(name, 0.0) + _FLOORS[kind[1]] * self._whole.get(kind, 0.0)
            if not distance <= allowed:
                return (
                    f"a replay came to another {name} than a step: {distance:.2g} away, rounding explains {allowed:.2g}"
                )
        return None

    def _distances(self, run: StepRun) -> Iterator[tuple[str, tuple[int, str], float]]:
        """How far each part lies from the step's, where that is finite."""
        for ours, theirs in zip(self._parts(run), self._parts(self._expected), strict=True):
            apart = ours.end - theirs.end
            if ours.start is not theirs.start:
                apart = apart - (ours.start - theirs.start)
            distance = _norm(apart)
            if math.isfinite(distance) or theirs.end.isfinite().all():
                yield theirs.name, theirs.kind, distance

    def _parts(self, run: StepRun) -> Iterator[_Part]:
        for index, loss in enumerate(run.losses):
            yield _Part(f"loss {index + 1}", (0, "loss"), torch.zeros_like(loss), loss)
        for node, (start, end) in enumerate(zip(run.start, run.end, strict=True)):
            for name, tensor in end.tensors.items():
                kind = "weight" if name in self._weights[node] else "statistic"
                kind = kind if tensor.is_floating_point() else "counter"
                yield _Part(f"{name} of node {node + 1}", (node, kind), start.tensors[name], tensor)
            for name, tensor in end.momentum.items():
                kind = _REMEMBERED[remembered_kind(name)]
                part = f"{kind} of {name.rpartition('/')[2]} of node {node + 1}"
                yield _Part(part, (node, kind), start.momentum[name], tensor)


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor if tensor.is_floating_point() else tensor.double()))
