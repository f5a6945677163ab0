"""Names of weights as torchvision has them, for networks that are torchvision's, so that either loads the other's.

In this process a network is cut in two, ``lower`` and ``head``; files of weights do not show it.
"""

from collections.abc import Mapping
from typing import TypeVar

_Value = TypeVar("_Value")
_HEAD = ("layer4.", "fc.")
_OURS = ("lower.", "head.", "heads.", "gate.")


def to_torchvision(weights: Mapping[str, _Value]) -> dict[str, _Value]:
    """Weights of a plain residual network under torchvision's names."""
    return {name.removeprefix("lower.").removeprefix("head."): value for name, value in weights.items()}


def from_torchvision(weights: Mapping[str, _Value]) -> dict[str, _Value]:
    """Weights of a plain residual network under our names, whichever they have."""
    if any(name.startswith(_OURS) for name in weights):
        return dict(weights)
    return {f"{'head' if name.startswith(_HEAD) else 'lower'}.{name}": value for name, value in weights.items()}
