"""CUDA streams that have a single owner, and work that is spread over several of them.

cuBLAS has one workspace a stream, and torch hands out a few streams in turn. So whatever may run at the same time must
be on different streams. And a recording needs a stream that no other recording uses: when a CUDA graph is destroyed,
the workspaces of the stream that it was recorded on are freed, those of other graphs recorded there included (pytorch
issue 193402, PR 175276).
"""

import functools
import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")

NUM_STREAMS = 32
"""Different streams that torch has for a device; the next one is the first again."""


@functools.cache
def _free_streams(index: int) -> list[torch.cuda.Stream]:
    """The streams of a device that have no owner, each once, even if torch has fewer than `NUM_STREAMS`."""
    streams = [torch.cuda.Stream(index) for _ in range(NUM_STREAMS)]  # type: ignore[no-untyped-call]
    return list({stream.stream_id: stream for stream in streams}.values())


class OwnStream:
    """A CUDA stream that nobody else has while this object lives.

    Args:
        device: A CUDA device; without an index, the current one.

    Raises:
        RuntimeError: all streams are taken.
    """

    def __init__(self, device: torch.device) -> None:
        free = _free_streams(torch.cuda.current_device() if device.index is None else device.index)
        if not free:
            gc.collect()  # An owner that is in a circle of references.
        if not free:
            raise RuntimeError(f"all {NUM_STREAMS} CUDA streams are taken")
        self.stream = free.pop()
        weakref.finalize(self, free.append, self.stream)

    @contextmanager
    def in_line(self) -> Iterator[None]:
        """Make this the current stream, in order with the one that is current before.

        Work that is launched within starts after all that was launched on the other stream before, and ends before
        anything that is launched there afterwards.
        """
        before = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(before)
        try:
            with torch.cuda.stream(self.stream):
                yield
        finally:  # After an error, too: what was launched still writes to memory that is given to others next.
            before.wait_stream(self.stream)


def on_streams(work: Callable[[int], T], streams: Sequence[OwnStream]) -> list[T]:
    """The results of ``work(0)``, ``work(1)``, ..., each on its stream, that the current stream may use.

    Autograd runs the backward pass of each piece on the stream of its forward pass.
    """
    ours = torch.cuda.current_stream()
    results = []
    for index, own in enumerate(streams):
        own.stream.wait_stream(ours)
        with torch.cuda.stream(own.stream):
            results.append(work(index))
    for own in streams:
        ours.wait_stream(own.stream)
    return results
