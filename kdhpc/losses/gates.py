"""The weights of kdhpc's own gates. Dimension suffixes: N samples, S source nodes.

A gate's weight is a function of the ramp, k / k_end, a scalar tensor from 0 to 1, and of which samples each source
predicts correctly, (N, S), 1 or 0. It gives a tensor that can be broadcast to (N, S). ``cutoff`` has no weight: its
edges have no loss.

Source: paper Eq. 8-11.
"""

import torch
from torch import Tensor


def through(ramp: Tensor, right_NS: Tensor) -> Tensor:
    """1."""
    return torch.ones_like(ramp)


def linear(ramp: Tensor, right_NS: Tensor) -> Tensor:
    """k / k_end."""
    return ramp


def correct(ramp: Tensor, right_NS: Tensor) -> Tensor:
    """1 for the samples that the source predicts correctly, else 0."""
    return right_NS
