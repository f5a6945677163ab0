"""The steps of one learner, whose first is tried before it is trusted: compiled, and recorded where that is done.

What a step reads and writes lies at fixed addresses: weights, momentum, statistics, coefficients and rates, which other
trials overwrite in place, and the spec of the batch, which is copied into tensors of our own.
"""

import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from itertools import count
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from kdhpc.errors import CaptureError
from kdhpc.training.agreement import Expectation, StepRun, nudged
from kdhpc.training.cuda_graph import Record
from kdhpc.training.device_errors import first_line, is_of_device
from kdhpc.training.learner import Learner
from kdhpc.training.node_trainer import NodeState
from kdhpc.training.streams import OwnStream
from kdhpc.training.varying import overwritten

_TIMED_STEPS = 3
MOST_RECORDINGS = 2
"""Of a learner at a time: each keeps a stream, and the memory of a whole step."""
_NUM_NUDGED = 2
"""Steps that show how far rounding reaches."""
_NUM_ATTEMPTS = 3
"""With other weights each, before a difference counts: rounding may change where an attention map is highest, or
whether a prediction is right, in the replay alone."""
_OTHER_WEIGHTS = 0.2
"""By how much the weights that a recording is tried with are others than those it was made with, as a part of each."""

InputsT = TypeVar("InputsT", bound=tuple[Tensor, ...])


class _Recording(NamedTuple):
    """A recorded step."""

    replay: Callable[[], Tensor]
    stream: OwnStream | None
    """What it was recorded on, and nothing else will be while it lives; None: not on CUDA."""


class TrainingStep(Generic[InputsT]):
    """Learns a batch: as the learner's programs do, or by replaying what was recorded at the first step.

    The first step of each replay key is tried. A compiler may fail as late as in the backward pass, with any error:
    whatever fails is done again without it, from the state before. And before a recording is used, two replays must
    agree with the steps that they stand for, from other weights: one with the batch and all else that was there when it
    was recorded, and one with another batch, learning rate, ramp and graph. Otherwise, as where recording fails, the
    recorder gives up.

    Args:
        learner: What learns.
        learn: A step: from the inputs to the losses before the update.
        seed: Called before each step that is done, also by a replay: seeds what networks draw. Given 1, it seeds other
            draws than with 0. None: they draw nothing.
    """

    def __init__(
        self, learner: Learner, learn: Callable[[InputsT], Tensor], *, seed: Callable[[int], None] | None = None
    ) -> None:
        self._learner = learner
        self._seed = seed
        self._variant = 0
        self._learn = learn
        self._inputs: InputsT | None = None
        self._tried: set[Hashable] = set()
        self._recordings: dict[Hashable, _Recording] = {}

    def __call__(self, inputs: InputsT) -> Tensor:
        """Learn a batch.

        Args:
            inputs: Of the same kind and shapes in all calls; the samples lie along the first dimension of each tensor.

        Returns:
            The losses before the update; overwritten by the next call where it is a replay.

        Raises:
            CaptureError: a recording failed, and this process cannot use its GPU any more.
        """
        replay_key = self._learner.replay_key
        record = self._learner.programs.recorder.record
        if record is None:
            self._recordings.clear()  # Their memory: another learner's recording may have failed.
            return self._plain(inputs, replay_key)
        own = self._own(inputs)
        recording = self._recordings.pop(replay_key, None) or self._record(record, own, replay_key)
        if recording is None:
            return self(inputs)
        self._recordings[replay_key] = recording  # The last one that was used is the last to go.
        self._seed_draws()
        return recording.replay()

    def seconds(self, inputs: InputsT) -> float:
        """How long a step takes, after which the learner is as it was before. Waits for the device."""
        before = self._learner.state()
        times = []
        for _ in range(_TIMED_STEPS):
            self._seed_draws()
            begin = time.perf_counter()
            self._learn(inputs).sum().item()
            times.append(time.perf_counter() - begin)
        self._learner.restore(before)
        return min(times)

    def _own(self, inputs: InputsT) -> InputsT:
        """The inputs, in the tensors that recordings read."""
        if self._inputs is None:
            own: InputsT = tree_map(torch.empty_like, inputs)
            self._inputs = own
        for ours, given in zip(self._inputs, inputs, strict=True):
            ours.copy_(given, non_blocking=True)
        return self._inputs

    def _plain(self, inputs: InputsT, replay_key: Hashable) -> Tensor:
        """A step that is not recorded."""
        self._seed_draws()
        compiler = self._learner.programs.compiler
        tried = replay_key, compiler.combines
        if tried in self._tried or compiler.mode == "eager":
            return self._learn(inputs)
        before = self._learner.state()
        try:
            losses = self._learn(inputs)
        except Exception as exc:
            if is_of_device(exc):
                raise
            if compiler.mode == "compile":
                compiler.give_up(exc)
            self._learner.restore(before)
            return self._plain(inputs, replay_key)
        self._tried.add(tried)
        return losses

    def _record(self, record: Record, inputs: InputsT, replay_key: Hashable) -> _Recording | None:
        """A recording that was tried, with the learner as it was before; None: the recorder has given up."""
        while len(self._recordings) >= MOST_RECORDINGS:
            del self._recordings[next(iter(self._recordings))]
        stream = OwnStream(inputs[0].device) if inputs[0].is_cuda else None
        before = self._learner.state()
        with nullcontext() if stream is None else stream.in_line():
            replay = self._tried_replay(record, inputs, replay_key)
            self._learner.restore(before)
        return None if replay is None else _Recording(replay, stream)

    def _tried_replay(self, record: Record, inputs: InputsT, replay_key: Hashable) -> Callable[[], Tensor] | None:
        """A recording that agrees with steps; None: the recorder has given up."""
        learn = partial(self._learn, inputs)
        # Plain steps also compile, and choose cuDNN's algorithms, which cannot be done while recording.
        self._plain(inputs, replay_key)
        after = self._learner.state()
        replay: Callable[[], Tensor] | None = None
        seeds = count()  # Other weights each time: those of the recording may be baked in, too.
        for setting in (nullcontext(), self._varied(inputs)):
            with setting:
                for _ in range(_NUM_ATTEMPTS):
                    start = nudged(after, next(seeds), by=_OTHER_WEIGHTS)
                    expected = self._expected(learn, start)
                    try:
                        replay = replay or record(learn)
                        problem = expected.problem(self._run(replay, start))
                    except CaptureError:
                        raise
                    except Exception as exc:
                        if is_of_device(exc):
                            raise
                        problem = first_line(exc)
                        break
                    if problem is None:
                        break
            if problem is not None:
                self._learner.programs.recorder.give_up(problem)
                return None
        return replay

    def _expected(self, learn: Callable[[], Tensor], start: tuple[NodeState, ...]) -> Expectation:
        """What a replay from that state must come to."""
        expected = Expectation(self._run(learn, start), self._learner.networks)
        for seed in range(_NUM_NUDGED):
            expected.widen(self._run(learn, nudged(start, seed)))
        return expected

    @contextmanager
    def _varied(self, inputs: InputsT) -> Iterator[None]:
        """Another step: half of the samples, each twice, and other values of all that the learner reads."""
        with ExitStack() as stack:
            stack.enter_context(self._learner.varied())
            stack.enter_context(overwritten(*((values, _half_twice(values)) for values in inputs)))
            self._variant = 1
            try:
                yield
            finally:
                self._variant = 0

    def _seed_draws(self) -> None:
        if self._seed is not None:
            self._seed(self._variant)

    def _run(self, step: Callable[[], Tensor], start: tuple[NodeState, ...]) -> StepRun:
        """A step from that state."""
        self._learner.restore(start)
        self._seed_draws()
        losses = step().to("cpu", torch.float64, copy=True)
        return StepRun(start=start, losses=losses, end=self._learner.state())


def _half_twice(values: Tensor) -> Tensor:
    return values[torch.arange(len(values), device=values.device) // 2]
