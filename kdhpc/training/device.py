"""Where and how the arithmetic runs: the device config with its ``auto`` settled."""

import logging
import os
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import nn

from kdhpc.config.document import parse_group, to_document
from kdhpc.config.schema import DeviceConfig
from kdhpc.errors import ConfigError

Mode = Literal["eager", "compile", "cudagraph", "eager cudagraph"]
"""How a step runs: see ``DeviceConfig.mode``. ``eager cudagraph``: recorded after torch.compile had failed."""
Precision = Literal["float32", "bf16", "fp16"]
"""``DeviceConfig.precision`` with its ``auto`` settled."""
_NetworkT = TypeVar("_NetworkT", bound=nn.Module)
_LOG = logging.getLogger(__name__)
_SHORTCUTS = (
    *("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "TORCHINDUCTOR_USE_FAST_MATH"),
    *("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"),
)
"""Variables of the environment by which torch's libraries compute in less, or in another way, than they are told."""
_HALF: dict[Precision, torch.dtype | None] = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(config: DeviceConfig) -> torch.device:
    """The device that the config means here.

    Raises:
        ConfigError: CUDA is asked for and there is none, or there are GPUs that torch cannot use.
    """
    if config.device == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if config.device == "cuda":
        raise ConfigError(
            f"device.device=cuda cannot be used: torch {torch.__version__} sees no CUDA device here; "
            "use device.device=cpu or auto, or run where there is a GPU"
        )
    if _was_given_gpus():
        raise ConfigError(
            f"torch {torch.__version__} cannot use this machine's GPUs: is the driver older than CUDA "
            f"{torch.version.cuda} needs (nvidia-smi)? Or train on the CPU with device.device=cpu"
        )
    return torch.device("cpu")


def _was_given_gpus() -> bool:
    """Whether this machine has NVIDIA GPUs and this process may use some: a job, only those that Slurm gave it."""
    if "SLURM_JOB_ID" in os.environ:
        given = any(os.environ.get(name) for name in ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "SLURM_GPUS_ON_NODE"))
    else:
        given = os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1")
    return given and bool(_gpus())


def _gpus() -> list[Path]:
    return list(Path("/dev").glob("nvidia[0-9]*"))


def enforce_precision() -> None:
    """Let ``float32`` mean float32 in this process, on any device and in any environment.

    torch lets convolutions on GPUs since Ampere multiply in TF32, which keeps 10 bits of the fraction: trials on such
    a GPU would not compare with trials elsewhere. To be called before anything is computed.
    """
    for name in _SHORTCUTS:
        if os.environ.pop(name, None) is not None:
            _LOG.warning("%s is ignored: device.precision alone says how networks are computed", name)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def place(network: _NetworkT, device: torch.device, *, channels_last: bool) -> _NetworkT:
    """The network, moved there, in the memory format that it will run in."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return network.to(device, memory_format=memory_format)  # type: ignore[call-overload,no-any-return]


def has_node_streams(config: DeviceConfig, device: torch.device) -> bool:
    """Whether each node's network runs on a CUDA stream of its own.

    Raises:
        ConfigError: it is asked for on a CPU.
    """
    if config.node_streams and device.type != "cuda":
        raise ConfigError(f"device.node_streams=true needs CUDA, the device is {device.type}: leave it out")
    return config.node_streams


def combines_nodes(config: DeviceConfig, device: torch.device) -> bool:
    """Whether compiled programs launch the equal work of all nodes together: not on a CPU, which launches nothing."""
    return config.combine and device.type == "cuda" and not config.node_streams


def resolve_precision(config: DeviceConfig, device: torch.device) -> Precision:
    """What the networks run in there.

    Raises:
        ConfigError: fp16 is asked for on a CPU.
    """
    if config.precision == "auto":
        return "bf16" if device.type == "cuda" and _multiplies_bf16() else "float32"
    if config.precision == "fp16" and device.type == "cpu":
        raise ConfigError("device.precision=fp16 needs CUDA, the device is cpu: use float32 or bf16")
    return config.precision


def fixed_precision(config: DeviceConfig, device: torch.device, precision: str) -> DeviceConfig:
    """The config of a process that must compute in a given precision, as all workers of a study.

    Args:
        config: Asks for that precision, or for ``auto``.
        device: Where it computes.
        precision: What it must compute in.

    Raises:
        ConfigError: the device cannot, or the config asks for something that does not go with it.
    """
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("fp16 needs CUDA, and the device here is cpu: run it where there is a GPU")
    if precision == "bf16" and device.type == "cuda" and not _multiplies_bf16():
        _LOG.warning("%s emulates bf16: trials are slow here", torch.cuda.get_device_name(device))
    return parse_group("device", DeviceConfig, {**to_document(config), "precision": precision})


def _multiplies_bf16() -> bool:
    """GPUs before Ampere emulate bf16, slower than float32. Where no GPU is, one that is meant is taken for a newer."""
    return not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)


def autocast_dtype(config: DeviceConfig, device: torch.device) -> torch.dtype | None:
    """The half precision that networks run in, or none for float32.

    Raises:
        ConfigError: fp16 is asked for on a CPU.
    """
    return _HALF[resolve_precision(config, device)]


def preferred_mode(config: DeviceConfig, device: torch.device) -> Mode:
    """What the config asks for, or the fastest that the device can.

    Raises:
        ConfigError: CUDA graphs are asked for where there are none, or with fp16, whose loss scale they do not carry.
    """
    can_record = device.type == "cuda" and config.precision != "fp16"
    if config.mode == "cudagraph" and not can_record:
        raise ConfigError(
            f"device.mode=cudagraph needs CUDA and a precision other than fp16, here are {device.type} and "
            f"{config.precision}: use device.mode=auto"
        )
    if config.mode != "auto":
        return config.mode
    if device.type != "cuda":
        return "eager"
    return "cudagraph" if can_record else "compile"
