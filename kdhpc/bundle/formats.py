"""The formats of a bundle, and the packages that each of them needs. Free of torch."""

import importlib.util
from dataclasses import dataclass

from kdhpc.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class BundleFormat:
    """One format."""

    what: str
    """What is in it, for help pages and the model card."""
    needs: str
    """What a reader must have installed, in words."""
    packages: tuple[str, ...] = ()
    """What writing and checking it imports beside kdhpc's own dependencies; the extra has the format's name."""


FORMATS: dict[str, BundleFormat] = {
    "torch": BundleFormat(
        what="one program of all networks, model.pt2, which `torch.export.load` reads",
        needs="torch, and no other package",
    ),
    "onnx": BundleFormat(
        what="one program of all networks, model.onnx",
        needs="onnxruntime, or another program that runs ONNX; no torch",
        packages=("onnx", "onnxscript", "onnxruntime"),
    ),
    "safetensors": BundleFormat(
        what="the weights of each network, and in config.json how to build it",
        needs="safetensors and torch, and the package that has the network: torchvision, timm or kdhpc",
    ),
    "timm": BundleFormat(
        what="each network in timm's own layout, for `timm.create_model`",
        needs="timm",
        packages=("timm",),
    ),
}


def check_packages(name: str) -> None:
    """Refuse a format whose packages are not installed.

    Raises:
        ConfigError: the message names the package and the extra that brings it.
    """
    missing = [package for package in FORMATS[name].packages if not _is_installed(package)]
    if missing:
        raise ConfigError(
            f"--format {name} needs {', '.join(missing)}, which is not installed: pip install 'kdhpc[{name}]'"
        )


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False
