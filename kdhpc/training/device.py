"""Where and how networks compute: what the values of a device config, ``auto`` included, mean on this machine."""

import logging
import os
import platform
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import nn

from kdhpc.config.document import parse_group, to_document
from kdhpc.config.schema import DeviceConfig
from kdhpc.errors import ConfigError
from kdhpc.networks.network import Network

Mode = Literal["eager", "compile", "cudagraph", "eager cudagraph"]
"""How a step runs: see ``DeviceConfig.mode``. ``eager cudagraph``: recorded after torch.compile had failed."""
Precision = Literal["float32", "tf32", "bf16", "fp16"]
"""``DeviceConfig.precision`` with its ``auto`` settled."""
_NetworkT = TypeVar("_NetworkT", bound=nn.Module)
_LOG = logging.getLogger(__name__)
_SHORTCUTS = (
    *("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "TORCHINDUCTOR_USE_FAST_MATH"),
    *("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"),
)
"""Environment variables that make torch's libraries compute in less precision, or otherwise, than they are told."""
_HALF: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
_AMPERE = (8, 0)
"""The first compute capability that multiplies in TF32."""
_ARCHITECTURE = re.compile(r"(sm|compute)_(\d+)(\d)(a?)")
"""An entry of ``torch.cuda.get_arch_list()``: ``sm`` for machine code or ``compute`` for PTX, the major and the minor
version, and ``a`` if it is for that version alone."""


def resolve_device(config: DeviceConfig) -> torch.device:
    """The device that the config means here.

    Raises:
        ConfigError: CUDA is asked for and there is none, or there are GPUs that torch cannot use.
    """
    if config.device == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        _check_gpu()
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


def _check_gpu() -> None:
    """Refuse a GPU that this torch has no code for: its first kernel would fail, somewhere.

    Raises:
        ConfigError: the message names the GPU and what torch has code for.
    """
    architectures = torch.cuda.get_arch_list()
    if torch.version.cuda is None or not architectures:  # ROCm, or a build that does not say.
        return
    with warnings.catch_warnings():  # torch says the same in many lines, and goes on.
        warnings.simplefilter("ignore")
        major, minor = torch.cuda.get_device_capability()
    if not has_code_for((major, minor), architectures):
        raise ConfigError(
            f"torch {torch.__version__} cannot use {torch.cuda.get_device_name()}: it has code for "
            f"{' '.join(architectures)}, this GPU is sm_{major}{minor}; install a torch that was built for it "
            "(https://pytorch.org/get-started/locally), or train on the CPU with device.device=cpu"
        )


def has_code_for(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """Whether a program has code that a GPU runs.

    Args:
        capability: Compute capability of the GPU, major and minor.
        architectures: What the program was built for, as ``sm_90`` or ``compute_90``.

    Returns:
        True if there is machine code (``sm``) for the same major version and the same or an earlier minor version; or
        PTX (``compute``), which the driver compiles, for the same or an earlier version. Code for one version alone
        (``sm_90a``) counts for that version only.

    Source: CUDA C++ Programming Guide, binary and PTX compatibility. Boards of the Jetson kind are exceptions to it.
    """
    for name in architectures:
        match = _ARCHITECTURE.match(name)
        if match is None:
            continue
        kind, built, is_single = match[1], (int(match[2]), int(match[3])), bool(match[4])
        reaches = built[0] == capability[0] if kind == "sm" else True
        if built == capability or (reaches and not is_single and built <= capability):
            return True
    return False


def enforce_precision(precision: Precision) -> None:
    """Make this process compute in exactly that precision, whatever its environment says or was set before.

    torch lets float32 convolutions on GPUs since Ampere multiply in TF32, which keeps 10 bits of the fraction: trials
    on such a GPU would not compare with trials elsewhere. Here, only ``tf32`` lets them. Matrix products are never in
    TF32: they are those of classifiers, whose logits would tie, and of losses, which are differences of nearly equal
    numbers; under autocast they are float32, too. To be called before anything is computed.
    """
    for name in _SHORTCUTS:
        if os.environ.pop(name, None) is not None:
            _LOG.warning("%s is ignored: device.precision alone says how networks are computed", name)
    # Operations without a setting of their own inherit from these three. If they disagree, torch refuses to tell which
    # precision holds.
    torch.backends.fp32_precision = "none"  # type: ignore[attr-defined]
    torch.backends.cudnn.fp32_precision = "none"
    torch.backends.mkldnn.conv.fp32_precision = "none"  # type: ignore[attr-defined]
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


def place(network: _NetworkT, device: torch.device, *, channels_last: bool) -> _NetworkT:
    """The network, moved there, in the memory format that it will run in."""
    takes_it = not isinstance(network, Network) or network.takes_channels_last
    memory_format = torch.channels_last if channels_last and takes_it else torch.contiguous_format
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
    """The precision in which networks compute on a device. ``auto`` is bf16 where that is faster than float32.

    Raises:
        ConfigError: the device cannot compute in the precision that the config asks for.
    """
    if config.precision == "auto":
        is_faster = _multiplies_bf16(device) if device.type == "cuda" else _has_amx()
        return "bf16" if is_faster else "float32"
    problem = _why_not(config.precision, device)
    if problem is not None:
        raise ConfigError(f"device.precision={config.precision} {problem}: use float32 or bf16")
    return config.precision


def fixed_precision(config: DeviceConfig, device: torch.device, precision: str) -> DeviceConfig:
    """The config of a process that must compute in a given precision, as all workers of a study, and runs of one name.

    Args:
        config: Asks for that precision, or for ``auto``.
        device: Where it computes.
        precision: What it must compute in.

    Raises:
        ConfigError: the device cannot, or the config asks for something that does not go with it.
    """
    problem = _why_not(precision, device)
    if problem is not None:
        raise ConfigError(f"{precision} {problem}: run it where there is such a GPU")
    if precision == "bf16" and not _multiplies_bf16(device):
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU"
        _LOG.warning("%s emulates bf16: training is slow here", name)
    return parse_group("device", DeviceConfig, {**to_document(config), "precision": precision})


def _why_not(precision: str, device: torch.device) -> str | None:
    """Why a device cannot compute in a precision; None: it can."""
    if precision not in ("tf32", "fp16"):
        return None
    if device.type == "cpu":
        return "needs CUDA, the device is cpu"
    if precision == "tf32" and torch.cuda.is_available() and torch.cuda.get_device_capability() < _AMPERE:
        return f"needs a GPU since Ampere (sm_80), and here is {torch.cuda.get_device_name()}"
    return None


def _multiplies_bf16(device: torch.device) -> bool:
    """Whether the device has bf16 arithmetic: elsewhere it is emulated, slower than float32.

    GPUs have it since Ampere; where there is no GPU, one that is asked about has it. CPUs other than x86-64 are taken
    to have it.
    """
    if device.type == "cuda":
        return not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)
    return platform.machine() != "x86_64" or _has_amx() or torch.cpu._is_avx512_bf16_supported()


def _has_amx() -> bool:
    """Whether the CPU multiplies matrices of bf16 in its tiles (AMX), and oneDNN, which convolves, may use them.

    Source: oneDNN Developer Guide, "CPU Dispatcher Control" (ONEDNN_MAX_CPU_ISA).
    """
    allowed = (os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "ALL").upper()
    may_use = allowed in ("ALL", "DEFAULT") or "AMX" in allowed
    return may_use and torch.cpu._is_amx_tile_supported()


def autocast_dtype(precision: Precision) -> torch.dtype | None:
    """The half precision that networks run in; None for float32 and tf32."""
    return _HALF.get(precision)


def preferred_mode(config: DeviceConfig, device: torch.device) -> Mode:
    """The mode that the config asks for; for ``auto``, CUDA graphs on a GPU and eager on a CPU.

    Raises:
        ConfigError: CUDA graphs are asked for where there are none.
    """
    if config.mode == "cudagraph" and device.type != "cuda":
        raise ConfigError(f"device.mode=cudagraph needs CUDA, the device is {device.type}: use device.mode=auto")
    if config.mode != "auto":
        return config.mode
    return "cudagraph" if device.type == "cuda" else "eager"
