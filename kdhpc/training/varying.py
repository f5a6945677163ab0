"""Temporary values for tensors whose place in memory must not change, as a recorded step reads them there."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor


@contextmanager
def overwritten(*pairs: tuple[Tensor, Tensor]) -> Iterator[None]:
    """Within it, the first tensor of each pair holds the values of the second, which has its shape."""
    before = [tensor.clone() for tensor, _ in pairs]
    for tensor, values in pairs:
        tensor.copy_(values)
    try:
        yield
    finally:
        for (tensor, _), values in zip(pairs, before, strict=True):
            tensor.copy_(values)
