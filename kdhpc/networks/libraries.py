"""The networks of torchvision and timm, with initial weights."""

import importlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import cast

import torchvision
from torch import nn

from kdhpc.config.library_names import check_library_name
from kdhpc.errors import NetworkError

_NO_AUXILIARY: Mapping[str, object] = {"aux_logits": False, "init_weights": True}
"""Of networks with further classifiers: those learn from labels alone, by weights that no graph knows of."""


def library_maker(name: str) -> Callable[[int, int], nn.Module]:
    """A function that makes a library's network, given the number of classes and the side of the images in pixels.

    Args:
        name: ``torchvision/NAME`` or ``timm/NAME``.

    Raises:
        NetworkError: there is no such network, or the library is not installed.
    """
    check_library_name(name)
    library, _, network = name.partition("/")
    return _of_torchvision(network) if library == "torchvision" else _of_timm(network)


def torchvision_options(name: str, image_size: int) -> Mapping[str, object]:
    """What a network of torchvision's is made with, beside the number of classes.

    Args:
        name: In torchvision.
        image_size: Side of the images, in pixels.
    """
    if name in ("googlenet", "inception_v3"):
        return _NO_AUXILIARY
    if name.startswith("vit_"):
        return {"image_size": image_size}
    return {"input_size": (image_size, image_size)} if name.startswith("maxvit_") else {}


def timm_options(name: str, image_size: int) -> Mapping[str, object]:
    """What a network of timm's is made with, beside the number of classes.

    Args:
        name: In timm.
        image_size: Side of the images, in pixels.

    Raises:
        NetworkError: timm cannot be imported, or has no such tag.
    """
    try:
        known = _timm().models.get_pretrained_cfg(name, allow_unregistered=True)
    except RuntimeError as exc:
        raise NetworkError(f"network 'timm/{name}' has no such tag: leave it out, no weights are loaded by it") from exc
    return {"img_size": image_size} if known is not None and known.fixed_input_size else {}


def _of_torchvision(name: str) -> Callable[[int, int], nn.Module]:
    builder = cast("Callable[..., nn.Module]", torchvision.models.get_model_builder(name))

    def make(num_classes: int, image_size: int) -> nn.Module:
        return builder(weights=None, num_classes=num_classes, **torchvision_options(name, image_size))

    return make


def _of_timm(name: str) -> Callable[[int, int], nn.Module]:
    timm_options(name, 1)  # A wrong tag is told at once.

    def make(num_classes: int, image_size: int) -> nn.Module:
        options = timm_options(name, image_size)
        return cast(nn.Module, _timm().create_model(name, pretrained=False, num_classes=num_classes, **options))

    return make


def _timm() -> ModuleType:
    """timm, which is an extra: imported only where it is asked for."""
    try:
        return importlib.import_module("timm")
    except Exception as exc:  # It does not fit to what else is installed.
        reason = f"{type(exc).__name__}: {' '.join(str(exc).split())[:200]}"
        raise NetworkError(f"networks of timm need timm, which cannot be imported ({reason}): install it anew") from exc
