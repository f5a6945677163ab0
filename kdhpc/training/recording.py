"""A whole step recorded once, as a CUDA graph, and replayed: one launch where there were thousands.

What a step reads and writes lies at fixed addresses: weights, momentum, statistics, coefficients and rates, which other
trials overwrite in place, and the recipe of the batch, which is copied into the recording's own tensors.

Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

import logging
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

_LOG = logging.getLogger(__name__)
_TRIED_STEPS = 3
_TOLERANCE = 1e-2

Inputs = tuple[Tensor, ...]
Record = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]
"""Makes of a function of fixed tensors another that does the same work and gives the same tensor, with new values."""


def record_cuda_graph(function: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Record what a function launches on the device, without doing it."""
    graph = torch.cuda.CUDAGraph()
    # Only this thread: another one may write a checkpoint, or pin memory for the next batch.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        output = function()

    def replay() -> Tensor:
        graph.replay()
        return output

    return replay


class Recorder:
    """Recording, until it fails.

    Args:
        record: `record_cuda_graph`; none: nothing is recorded.
    """

    def __init__(self, record: Record | None) -> None:
        self.record = record

    def give_up(self, reason: str) -> None:
        """Record nothing from now on, and say why."""
        self.record = None
        _LOG.warning("the step cannot be a CUDA graph, going on without (device.mode=compile does not try): %s", reason)


class RecordedStep:
    """Steps of one learner, recorded at the first, for each structure of the step.

    Before a recording is used, it is tried: from the same state, with the same batch, replays must give the losses that
    as many steps gave which were not recorded. Otherwise, as where recording fails, the recorder gives up.

    Args:
        learn: A step: from the inputs to the losses before the update.
        keep: Copies all that a step changes; the function that it returns brings it back, in place.
        recorder: What records.
    """

    def __init__(
        self, learn: Callable[[Inputs], Tensor], keep: Callable[[], Callable[[], None]], recorder: Recorder
    ) -> None:
        self._learn = learn
        self._keep = keep
        self._recorder = recorder
        self._inputs: Inputs | None = None
        self._replays: dict[Hashable, Callable[[], Tensor]] = {}

    def __call__(self, inputs: Inputs, structure: Hashable) -> Tensor:
        """Learn a batch.

        Args:
            inputs: Of the same shapes in all calls.
            structure: What else, beside values of tensors, distinguishes a step from another; each has its recording.

        Returns:
            The losses before the update; overwritten by the next call where it is a replay.
        """
        if self._recorder.record is None:
            return self._learn(inputs)
        if self._inputs is None:
            self._inputs = tuple(torch.empty_like(tensor) for tensor in inputs)
        for ours, given in zip(self._inputs, inputs, strict=True):
            ours.copy_(given, non_blocking=True)
        if structure not in self._replays:
            replay = self._recorded(self._recorder.record, self._inputs)
            if replay is None:
                return self._learn(inputs)
            self._replays[structure] = replay
        return self._replays[structure]()

    def _recorded(self, record: Record, inputs: Inputs) -> Callable[[], Tensor] | None:
        """A recording that was tried, with the learner as it was before; none: the recorder has given up."""
        bring_back = self._keep()
        # These also compile, and choose cuDNN's algorithms, which cannot be done while recording.
        expected = torch.stack([self._learn(inputs).clone() for _ in range(_TRIED_STEPS)])
        bring_back()
        try:
            replay = record(lambda: self._learn(inputs))
            replayed = torch.stack([replay().clone() for _ in range(_TRIED_STEPS)])
        except RuntimeError as exc:
            bring_back()
            self._recorder.give_up(f"{type(exc).__name__}: {str(exc).strip().partition(chr(10))[0]}")
            return None
        bring_back()
        if not torch.allclose(replayed, expected, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True):
            self._recorder.give_up(f"replays gave losses {replayed.tolist()}, steps {expected.tolist()}")
            return None
        return replay
