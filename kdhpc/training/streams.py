"""Work on several CUDA streams that starts after what came before it, and ends before what comes after it.

cuBLAS has one workspace a stream, and torch hands out a few streams in turn. So whatever may run at the same time must
be on streams that are different for sure: those beside a stream are made once, and kept as long as the process lives.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")

NUM_STREAMS = 32
"""Different streams that torch has for a device; the next one is the first again."""


@functools.cache
def _beside(stream: torch.cuda.Stream, number: int) -> torch.cuda.Stream:
    """The stream of that number (0-based) that works for this one."""
    return torch.cuda.Stream(stream.device)  # type: ignore[no-untyped-call]


def on_streams(work: Callable[[int], T], count: int) -> list[T]:
    """The results of ``work(0)``, ``work(1)``, ..., each on a stream of its own, that the current stream may use.

    Autograd runs the backward pass of each piece on the stream of its forward pass.
    """
    ours = torch.cuda.current_stream()
    streams = [_beside(ours, index) for index in range(count)]
    results = []
    for index, stream in enumerate(streams):
        stream.wait_stream(ours)
        with torch.cuda.stream(stream):
            results.append(work(index))
    for stream in streams:
        ours.wait_stream(stream)
    return results


@contextmanager
def off_default_stream(device: torch.device) -> Iterator[None]:
    """Work on a stream that can be recorded: the current one, or one beside it if it is the default stream."""
    if device.type != "cuda" or torch.cuda.current_stream(device) != torch.cuda.default_stream(device):
        yield
        return
    ours = torch.cuda.current_stream(device)
    side = _beside(ours, 0)
    side.wait_stream(ours)
    with torch.cuda.stream(side):
        yield
    ours.wait_stream(side)
