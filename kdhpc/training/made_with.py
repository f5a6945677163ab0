"""What a training is computed with, as it is written down with its result."""

import torch

from kdhpc.provenance import code_versions, driver_version, library_versions


def made_with(device: torch.device) -> dict[str, str]:
    """Versions of code, libraries and driver. To be called once networks are built: these import their libraries.

    Returns:
        That of :func:`kdhpc.provenance.code_versions`; ``timm`` where it is used; on a GPU ``cuda``, ``cudnn`` and
        ``driver``.
    """
    versions = {**code_versions(), "torch": str(torch.__version__), **library_versions()}
    if device.type != "cuda":
        return versions
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    on_gpu = {"cuda": torch.version.cuda, "cudnn": cudnn, "driver": driver_version()}
    return {**versions, **{name: str(found) for name, found in on_gpu.items() if found is not None}}


def device_name(device: torch.device) -> str:
    """A GPU's name; of a CPU, ``cpu``."""
    return str(torch.cuda.get_device_name(device)) if device.type == "cuda" else "cpu"
