"""The networks of torchvision and timm, with initial weights."""

import importlib
from collections.abc import Callable
from typing import cast

import torchvision
from torch import nn

from kdhpc.config.library_names import check_library_name
from kdhpc.errors import NetworkError

_NO_AUXILIARY = {"aux_logits": False, "init_weights": True}
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


def _of_torchvision(name: str) -> Callable[[int, int], nn.Module]:
    builder = cast("Callable[..., nn.Module]", torchvision.models.get_model_builder(name))

    def make(num_classes: int, image_size: int) -> nn.Module:
        options: dict[str, object] = {}
        if name in ("googlenet", "inception_v3"):
            options = dict(_NO_AUXILIARY)
        elif name.startswith("vit_"):
            options = {"image_size": image_size}
        elif name.startswith("maxvit_"):
            options = {"input_size": (image_size, image_size)}
        return builder(weights=None, num_classes=num_classes, **options)

    return make


def _of_timm(name: str) -> Callable[[int, int], nn.Module]:
    # Only here: timm is an extra.
    try:
        timm = importlib.import_module("timm")
    except Exception as exc:  # It does not fit to what else is installed.
        reason = f"{type(exc).__name__}: {' '.join(str(exc).split())[:200]}"
        raise NetworkError(f"networks of timm need timm, which cannot be imported ({reason}): install it anew") from exc
    try:
        known = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
    except RuntimeError as exc:
        raise NetworkError(f"network 'timm/{name}' has no such tag: leave it out, no weights are loaded by it") from exc
    has_size = known is not None and known.fixed_input_size

    def make(num_classes: int, image_size: int) -> nn.Module:
        options: dict[str, object] = {"img_size": image_size} if has_size else {}
        return cast(nn.Module, timm.create_model(name, pretrained=False, num_classes=num_classes, **options))

    return make
