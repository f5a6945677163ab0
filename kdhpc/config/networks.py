"""The networks that a node can be, by name: kdhpc's own, those of libraries, and users' own."""

import re
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What a name stands for."""

    family: Literal["cifar", "imagenet"]
    """``cifar``: three stages, for small images. ``imagenet``: torchvision's four stages."""
    depth: int
    """Weighted layers on the longest path, as in the name."""
    width: int | None = None
    """k of a wide residual network of pre-activation blocks, ``cifar`` only; None: He et al.'s residual network."""
    attention_branch: bool = False
    """Attention branch network: an attention map weights the features that enter the last stage."""

    @property
    def crops(self) -> tuple[int, ...]:
        """Sides of the crops of its attention map that are compared, unless the config says otherwise."""
        return (3, 7, 11) if self.attention_branch else (3, 5, 7)

    @property
    def reduction(self) -> int:
        """Image pixels that one pixel of the last stage's features spans."""
        return 4 if self.family == "cifar" else 32

    @property
    def map_reduction(self) -> int:
        """Image pixels that one pixel of the attention map spans.

        A plain network's map comes from its last stage, an attention branch network's from one stage before.
        """
        return self.reduction // 2 if self.attention_branch else self.reduction


_PLAIN: dict[str, Architecture] = {
    "resnet8": Architecture(family="cifar", depth=8),
    "resnet14": Architecture(family="cifar", depth=14),
    "resnet20": Architecture(family="cifar", depth=20),
    "resnet26": Architecture(family="cifar", depth=26),
    "resnet32": Architecture(family="cifar", depth=32),
    "resnet44": Architecture(family="cifar", depth=44),
    "resnet56": Architecture(family="cifar", depth=56),
    "resnet110": Architecture(family="cifar", depth=110),
    "wrn16_2": Architecture(family="cifar", depth=16, width=2),
    "wrn28_2": Architecture(family="cifar", depth=28, width=2),
    "resnet18": Architecture(family="imagenet", depth=18),
    "resnet34": Architecture(family="imagenet", depth=34),
    "resnet50": Architecture(family="imagenet", depth=50),
    "resnet101": Architecture(family="imagenet", depth=101),
    "resnet152": Architecture(family="imagenet", depth=152),
}

NETWORKS: dict[str, Architecture] = {
    **_PLAIN,
    **{f"abn_{name}": replace(plain, attention_branch=True) for name, plain in _PLAIN.items()},
}

LIBRARIES = ("torchvision", "timm")
"""Packages whose classifiers are networks, as ``torchvision/NAME``."""
_LIBRARY_NAME = re.compile(rf"({'|'.join(LIBRARIES)})/[\w.-]+", re.ASCII)
_MODULE_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def is_of_library(name: str) -> bool:
    """Whether a name has the form ``torchvision/NAME`` or ``timm/NAME``."""
    return _LIBRARY_NAME.fullmatch(name) is not None


def is_foreign(name: str) -> bool:
    """Whether a name is that of a library's network, or of a user's own, ``module:Name``, by its form alone."""
    return is_of_library(name) or is_place(name)


def is_place(name: str) -> bool:
    """Whether a name has the form ``module:Name``, of code that is imported."""
    return _MODULE_NAME.fullmatch(name) is not None


def network_folder(name: str) -> str:
    """A network's name as a part of a folder's."""
    return re.sub("[/:]", "-", name)


def network_group(name: str) -> dict[str, object]:
    """The group ``network`` of a config that this name chooses, where no file of the user's has it."""
    return {"name": name, "crops": list(NETWORKS[name].crops)} if name in NETWORKS else {"name": name}
