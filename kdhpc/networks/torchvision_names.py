"""Translates names of weights between our residual networks and torchvision's, so that either can load the other's.

Here a network consists of two parts, ``lower`` and ``head``. The names in files of weights do not have these prefixes.
"""

from collections.abc import Mapping
from typing import TypeVar

_Value = TypeVar("_Value")
_HEAD = ("layer4.", "fc.")
_OURS = ("lower.", "head.", "heads.", "gate.")


def to_torchvision(weights: Mapping[str, _Value]) -> dict[str, _Value]:
    """The weights of a plain residual network by torchvision's names."""
    return {name.removeprefix("lower.").removeprefix("head."): value for name, value in weights.items()}


def from_torchvision(weights: Mapping[str, _Value]) -> dict[str, _Value]:
    """The weights of a plain residual network by our names. Given names may be torchvision's or ours."""
    if any(name.startswith(_OURS) for name in weights):
        return dict(weights)
    return {f"{'head' if name.startswith(_HEAD) else 'lower'}.{name}": value for name, value in weights.items()}
