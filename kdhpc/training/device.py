"""Where and how the arithmetic runs: the device config with its ``auto`` settled."""

from typing import Literal

import torch

from kdhpc.config.schema import DeviceConfig
from kdhpc.errors import ConfigError

Mode = Literal["eager", "compile"]
"""How the programs of a step run."""


def resolve_device(config: DeviceConfig) -> torch.device:
    """The device that the config means here.

    Raises:
        ConfigError: CUDA is asked for and there is none.
    """
    if config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError(
            f"device.device={config.device} cannot be used: torch {torch.__version__} sees no CUDA device here; "
            "use device.device=cpu or auto, or run where there is a GPU"
        )
    return torch.device("cuda")


def autocast_dtype(config: DeviceConfig, device: torch.device) -> torch.dtype | None:
    """The half precision that networks run in, or none for float32.

    Raises:
        ConfigError: fp16 is asked for on a CPU.
    """
    if config.precision == "float32" or (config.precision == "auto" and device.type == "cpu"):
        return None
    if config.precision == "fp16":
        if device.type == "cpu":
            raise ConfigError("device.precision=fp16 needs CUDA, the device is cpu: use float32 or bf16")
        return torch.float16
    return torch.bfloat16


def preferred_mode(config: DeviceConfig, device: torch.device) -> Mode:
    """``compile`` where the config says so, or leaves it open on CUDA."""
    wanted = config.compile == "on" or (config.compile == "auto" and device.type == "cuda")
    return "compile" if wanted else "eager"
