"""The steps of one learner, whose first is tried before it is trusted: compiled, and recorded where that is done.

What a step reads and writes lies at fixed addresses: weights, momentum, statistics, coefficients and rates, which other
trials overwrite in place, and the recipe of the batch, which is copied into tensors of our own.
"""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from kdhpc.training.learner import Learner
from kdhpc.training.node import NodeState
from kdhpc.training.recording import Record
from kdhpc.training.streams import off_default_stream

_TRIED_STEPS = 3
_LOSS_TOLERANCE = 1e-2
_STATE_TOLERANCE = 0.1
"""Of what a tensor has moved: what is not recorded is missed by all of it."""
_ROUNDING = 1e-4
"""Of a tensor."""

InputsT = TypeVar("InputsT", bound=tuple[Tensor, ...])


class TrainingStep(Generic[InputsT]):
    """Learns a batch: as the learner's programs do, or by replaying what was recorded at the first step.

    The first step of each structure is tried. A compiler may fail as late as in the backward pass, with any error:
    whatever fails is done again without it, from the state before. And before a recording is used, replays from that
    state, with the same batch, must give the losses and the state that plain steps gave; otherwise, as where recording
    fails, the recorder gives up.

    Args:
        learner: What learns.
        learn: A step: from the inputs to the losses before the update.
    """

    def __init__(self, learner: Learner, learn: Callable[[InputsT], Tensor]) -> None:
        self._learner = learner
        self._learn = learn
        self._compiler, self._recorder = learner.programs.compiler, learner.programs.recorder
        self._inputs: InputsT | None = None
        self._tried: set[Hashable] = set()
        self._replays: dict[Hashable, Callable[[], Tensor]] = {}

    def __call__(self, inputs: InputsT) -> Tensor:
        """Learn a batch.

        Args:
            inputs: Of the same kind and shapes in all calls.

        Returns:
            The losses before the update; overwritten by the next call where it is a replay.
        """
        structure = self._learner.structure
        record = self._recorder.record
        if record is None:
            self._replays.clear()  # Their memory: another learner's recording may have failed.
            return self._plain(inputs, structure)
        own = self._own(inputs)
        if structure not in self._replays:
            with off_default_stream(own[0].device):
                replay = self._recorded(record, own, structure)
            if replay is None:
                return self(inputs)
            self._replays[structure] = replay
        return self._replays[structure]()

    def _own(self, inputs: InputsT) -> InputsT:
        """The inputs, in the tensors that recordings read."""
        if self._inputs is None:
            own: InputsT = tree_map(torch.empty_like, inputs)
            self._inputs = own
        for ours, given in zip(self._inputs, inputs, strict=True):
            ours.copy_(given, non_blocking=True)
        return self._inputs

    def _plain(self, inputs: InputsT, structure: Hashable) -> Tensor:
        """A step that is not recorded."""
        tried = structure, self._compiler.combines
        if tried in self._tried or self._compiler.mode == "eager":
            return self._learn(inputs)
        before = self._learner.state()
        try:
            losses = self._learn(inputs)
        except torch.OutOfMemoryError:
            raise
        except Exception as exc:
            if self._compiler.mode == "compile":
                self._compiler.give_up(exc)
            self._learner.restore(before)
            return self._plain(inputs, structure)
        self._tried.add(tried)
        return losses

    def _recorded(self, record: Record, inputs: InputsT, structure: Hashable) -> Callable[[], Tensor] | None:
        """A recording that was tried, with the learner as it was before; none: the recorder has given up."""
        before = self._learner.state()
        # Plain steps also compile, and choose cuDNN's algorithms, which cannot be done while recording.
        expected = self._try(lambda: self._plain(inputs, structure), before)
        try:
            replay = record(lambda: self._learn(inputs))
            problem = _difference(self._try(replay, before), expected, before)
        except RuntimeError as exc:
            for error in (exc, exc.__context__):  # Ending the recording of what failed fails, too.
                if isinstance(error, torch.OutOfMemoryError):
                    raise error from None
            self._learner.restore(before)
            problem = f"{type(exc).__name__}: {str(exc).strip().partition(chr(10))[0]}"
        if problem is None:
            return replay
        self._recorder.give_up(problem)
        return None

    def _try(self, step: Callable[[], Tensor], before: tuple[NodeState, ...]) -> "_Trial":
        """A few steps from that state, and back to it."""
        losses = [step().clone()]
        state = self._learner.state()
        losses += [step().clone() for _ in range(_TRIED_STEPS - 1)]
        trial = _Trial(losses=torch.stack(losses), state=state)
        self._learner.restore(before)
        return trial


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """What a few steps came to."""

    losses: Tensor
    """(steps, losses of a step)."""
    state: tuple[NodeState, ...]
    """After the first: rounding errors grow from step to step."""


def _difference(found: _Trial, expected: _Trial, before: tuple[NodeState, ...]) -> str | None:
    """What replays did that plain steps did not."""
    if not torch.allclose(found.losses, expected.losses, rtol=_LOSS_TOLERANCE, atol=_LOSS_TOLERANCE, equal_nan=True):
        return f"replays gave losses {found.losses.tolist()}, steps {expected.losses.tolist()}"
    for replayed, plain, start in zip(_tensors(found.state), _tensors(expected.state), _tensors(before), strict=True):
        (name, ours), (_, theirs), (_, old) = replayed, plain, start
        allowed = _STATE_TOLERANCE * (theirs - old).norm() + _ROUNDING * theirs.norm()
        if theirs.isfinite().all() and not (ours - theirs).norm() <= allowed:
            return f"a replay left another {name} than a step"
    return None


def _tensors(states: tuple[NodeState, ...]) -> Iterator[tuple[str, Tensor]]:
    """All tensors of the nodes, in float64, with names for people."""
    for index, state in enumerate(states):
        for kind, tensors in (("", state.tensors), ("momentum of ", state.momentum)):
            for name, tensor in tensors.items():
                yield f"{kind}{name} of node {index + 1}", tensor.double()
