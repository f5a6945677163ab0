"""The precision that losses are computed in."""

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """The values in float32 if they are in half precision, else as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
