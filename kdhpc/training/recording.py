"""Recording what a step launches on the device, as a CUDA graph: one launch where there were thousands.

Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

_LOG = logging.getLogger(__name__)

Record = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]
"""Makes of a function of fixed tensors another that does the same work and gives the same tensor, with new values."""


def record_cuda_graph(function: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Record what a function launches on the current stream, without doing it.

    Never on torch's own capture stream, which all recordings of a process would share, and with it one cuBLAS
    workspace: replays that overlap would write into each other's (pytorch issue 193402).
    """
    graph = torch.cuda.CUDAGraph()
    # Only this thread: another one may write a checkpoint, or pin memory for the next batch.
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"):
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
