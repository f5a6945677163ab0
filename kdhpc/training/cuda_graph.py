"""Recording what a step launches on the device, as a CUDA graph: one launch where there were thousands.

Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

import ctypes
import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import cast

import torch
from torch import Tensor

from kdhpc.errors import CaptureError
from kdhpc.training.device_errors import first_line, is_out_of_memory

_LOG = logging.getLogger(__name__)

Record = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]
"""Turns a function that works on fixed tensors into one that repeats its work and returns the same tensor object, with
new values."""

_failed_graphs: list[torch.cuda.CUDAGraph] = []
"""Kept for good: torch 2.11 to 2.13 go on asking a graph whose capture failed whether new pinned memory is its own."""


def record_cuda_graph(function: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Record what a function launches on the current stream, without doing it.

    The stream must be the caller's own while the recording lives, see `OwnStream`. The restrictions of a capture hold
    for this thread alone: another one may write a checkpoint, or pin memory for the next batch.

    Args:
        function: Launches the same work in every call, on tensors that stay where they are. It has run before, so that
            nothing is compiled, loaded or chosen any more.

    Returns:
        A function that launches the work on the stream that is current then, and gives the tensor of the recorded call.

    Raises:
        CaptureError: the recording failed, and this process cannot use its GPU any more.
        Exception: what the function, or torch, raised. The process can go on: the capture has ended, and its memory is
            given back.
    """
    torch.cuda.synchronize()  # An error of earlier work must not be taken for one of the recording.
    graph, pool = torch.cuda.CUDAGraph(), torch.cuda.MemPool()
    counter = torch.zeros((), device="cuda")
    try:
        with _no_garbage(), _capture(graph, pool):
            output = function()
    except BaseException as exc:
        _undo_capture(graph, pool, counter, exc)
        raise

    def replay() -> Tensor:
        graph.replay()
        return output

    return replay


def _capture(graph: torch.cuda.CUDAGraph, pool: torch.cuda.MemPool | None = None) -> torch.cuda.graph:
    # torch before 2.14 takes the pool's id, and not the pool itself.
    handle = None if pool is None else cast("torch.cuda._POOL_HANDLE", pool.id)
    stream = torch.cuda.current_stream()
    return torch.cuda.graph(graph, pool=handle, stream=stream, capture_error_mode="thread_local")


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Collect garbage now, and none within: destroying another graph, or freeing its memory, would end the capture."""
    gc.collect()
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _undo_capture(graph: torch.cuda.CUDAGraph, pool: torch.cuda.MemPool, counter: Tensor, cause: BaseException) -> None:
    """Bring the process back to where it was before a capture that failed.

    When the capture was invalidated, torch 2.11 to 2.13 forget two things: the allocator still counts it as underway,
    and the pool still counts the graph as its user (pytorch PR 180395, PR 190348). Later versions do it in ``reset``.
    So each step is taken; one that is not needed any more is refused by torch.

    Raises:
        CaptureError: that is not possible.
    """
    _failed_graphs.append(graph)
    try:
        if torch.cuda.is_current_stream_capturing():  # torch has not ended the capture itself.
            with suppress(RuntimeError):
                graph.capture_end()
        with suppress(RuntimeError):
            graph.reset()
        device = torch.cuda.current_device()
        with suppress(RuntimeError):
            torch._C._cuda_endAllocateToPool(device, pool.id)
        while pool.use_count() > 1:  # One use is this function's.
            torch._C._cuda_releasePool(device, pool.id)
        _check_recovery(counter)
    except Exception as exc:
        # Its destructor would free memory, which fails here, and a C++ destructor that fails aborts the process.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(pool))
        raise CaptureError(
            f"recording a CUDA graph failed ({first_line(cause)}), and this process cannot use its GPU after it "
            f"({first_line(exc)}): start it again, with device.mode=compile if that happens again"
        ) from cause


def _check_recovery(counter: Tensor) -> None:
    """Record something small.

    A capture that succeeds also resets torch's random generator, which 2.11 to 2.13 leave in capture mode.

    Args:
        counter: 0, a scalar on the device, made while there was memory for it.

    Raises:
        RuntimeError: the device, or torch, is not as it was before the failed capture.
    """
    graph = torch.cuda.CUDAGraph()
    try:
        with _capture(graph):
            counter.add_(1)
        graph.replay()
        value = counter.item()
    except RuntimeError as exc:
        if is_out_of_memory(exc):  # A device that is full is not broken.
            return
        raise
    if value != 1:
        raise RuntimeError("a small CUDA graph does not do what was recorded")


class Recorder:
    """Decides whether steps are recorded: they are, until it fails.

    Args:
        record: Usually `record_cuda_graph`; None: nothing is recorded.
    """

    def __init__(self, record: Record | None) -> None:
        self.record = record

    def give_up(self, reason: str) -> None:
        """Record nothing from now on, and say why."""
        self.record = None
        _LOG.warning("the step cannot be a CUDA graph, going on without (device.mode=compile does not try): %s", reason)
