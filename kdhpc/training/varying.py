"""Other values for a while, in tensors that a step reads where they lie."""

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
