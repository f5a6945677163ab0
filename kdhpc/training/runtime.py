"""Where and how this process computes, settled once: device, precision, mode, threads, compiled programs.

No other code decides what a device config means on this machine. The object is made at the beginning of a training, a
worker or a report, and handed on.
"""

from dataclasses import dataclass

import torch

from kdhpc.config.schema import DeviceConfig
from kdhpc.training.auto_mode import AutoMode
from kdhpc.training.compile import Programs, programs_in
from kdhpc.training.device import (
    Mode,
    Precision,
    autocast_dtype,
    combines_nodes,
    enforce_precision,
    has_node_streams,
    preferred_mode,
    resolve_device,
    resolve_precision,
)


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """A device config with every ``auto`` settled."""

    device: torch.device
    """Where networks and images lie."""
    precision: Precision
    """What networks compute in."""
    mode: Mode
    """How steps run, as long as `auto` chooses no other mode."""
    mode_is_open: bool
    """``device.mode=auto`` on a CPU: whether compiling is worth it depends on the training ahead."""
    channels_last: bool
    """Memory format of images and convolutions."""
    node_streams: bool
    """Each node's network runs on a CUDA stream of its own."""
    combines: bool
    """Compiled programs launch the equal work of all nodes together."""
    cudnn_benchmark: bool
    """cuDNN tries its algorithms, and takes the fastest."""
    threads: int | None
    """CPU threads; None: as torch has them."""
    given_programs: Programs | None = None
    """Used instead of those that the mode means."""
    auto: AutoMode | None = None
    """Chooses each training's mode before its first step, where the mode is open; None: the mode stays as it is."""

    @property
    def programs(self) -> Programs:
        """What computes the first step. The process shares them: what one training compiled, the next one finds."""
        return self.given_programs or programs_in(self.mode, self.device, combines=self.combines)

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """The half precision that networks run in; None for float32 and tf32."""
        return autocast_dtype(self.precision)

    @property
    def scales_loss(self) -> bool:
        """Whether losses are scaled before they are differentiated (fp16)."""
        return self.precision == "fp16"

    def autocast(self) -> torch.autocast:
        """The context in which networks are called."""
        return torch.autocast(self.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None)

    def enforce(self) -> None:
        """Set threads, precision and cuDNN of this process accordingly. To be called before anything is computed."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        enforce_precision(self.precision)
        torch.backends.cudnn.benchmark = self.cudnn_benchmark


def resolve_runtime(config: DeviceConfig, *, device: torch.device | None = None, threads: int | None = None) -> Runtime:
    """What a device config means in this process. Changes nothing: see `Runtime.enforce`.

    Args:
        config: The device config.
        device: Where to compute; None: where the config says.
        threads: CPU threads where the config names no number; None: as torch has them.

    Raises:
        ConfigError: the device is not there, or it cannot do what is asked for.
    """
    device = resolve_device(config) if device is None else device
    node_streams, mode = has_node_streams(config, device), preferred_mode(config, device)
    return Runtime(
        device=device,
        precision=resolve_precision(config, device),
        mode=mode,
        mode_is_open=config.mode == "auto" and device.type == "cpu",
        channels_last=config.channels_last,
        node_streams=node_streams,
        combines=combines_nodes(config, device),
        cudnn_benchmark=config.cudnn_benchmark,
        threads=config.threads or threads,
    )
