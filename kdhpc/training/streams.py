"""Work on several CUDA streams that starts after what came before it, and ends before what comes after it."""

from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


class Streams:
    """A stream for each of several independent pieces of work.

    Autograd runs the backward pass of each piece on the stream of its forward pass.

    Args:
        num_streams: 0: the work is done piece by piece, where the caller is.
        device: CUDA where there are streams.
    """

    def __init__(self, num_streams: int, device: torch.device) -> None:
        self._streams = [torch.cuda.Stream(device) for _ in range(num_streams)]  # type: ignore[no-untyped-call]

    def each(self, work: Callable[[int], T], count: int) -> list[T]:
        """The results of ``work(0)``, ``work(1)``, ..., that the caller's stream may use."""
        if not self._streams:
            return [work(index) for index in range(count)]
        ours = torch.cuda.current_stream()
        results = []
        for index in range(count):
            self._streams[index].wait_stream(ours)
            with torch.cuda.stream(self._streams[index]):
                results.append(work(index))
        for stream in self._streams[:count]:
            ours.wait_stream(stream)
        return results
