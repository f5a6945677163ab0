"""A program: what torch can do on this machine. It prints a finding a line, as JSON.

It is a process of its own: importing torch takes seconds, and a library that does not fit may end it.
"""

import dataclasses
import json
import time
from collections.abc import Iterator

import torch
from torch import nn

from kdhpc.config.schema import DeviceConfig
from kdhpc.doctor.finding import Finding, absent, fault, ok
from kdhpc.errors import KdhpcError
from kdhpc.training.device import resolve_device, resolve_precision
from kdhpc.training.toolchain import missing_tool

_CLOSE = 1e-4


def main() -> None:
    """Print the findings."""
    for finding in probe():
        print(json.dumps(dataclasses.asdict(finding)), flush=True)


def probe() -> Iterator[Finding]:
    """The GPU as torch sees it, and whether torch.compile works."""
    try:
        device = resolve_device(DeviceConfig())
    except KdhpcError as exc:
        yield fault("torch and GPU", str(exc))
        device = torch.device("cpu")
    else:
        built = f"torch {torch.__version__}, built for CUDA {torch.version.cuda or 'no version'}"
        if device.type == "cuda":
            yield ok("torch and GPU", f"{built}: {_gpus()}; precision {resolve_precision(DeviceConfig(), device)}")
        else:
            threads = f"trains on the CPU, {torch.get_num_threads()} threads"
            yield absent("torch and GPU", f"{built}: it sees no GPU here, and {threads}")
    yield _compiles(device)


def _gpus() -> str:
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return ", ".join(f"{each.name} {each.total_memory / 2**30:.0f} GiB sm_{each.major}{each.minor}" for each in found)


def _compiles(device: torch.device) -> Finding:
    if device.type == "cuda":
        torch.zeros(1, device=device)  # Which compiler is needed is told by whether CUDA is in use.
    if missing := missing_tool():
        return absent("torch.compile", missing, "until then training is eager: slower, with the same results")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).to(device)
    images = torch.rand(4, 3, 8, 8, device=device)
    expected = _gradients(network, network(images))
    begin = time.perf_counter()
    try:
        found = _gradients(network, torch.compile(network)(images))
    except Exception as exc:  # Whatever its compilers say.
        words = " ".join(str(exc).split())[:300]
        return fault("torch.compile", f"{type(exc).__name__}: {words}", "or train with device.mode=eager")
    off = max(float((a - b).abs().max()) for a, b in zip(expected, found, strict=True))
    if not off <= _CLOSE:
        return fault("torch.compile", f"gradients differ from eager ones by {off:.2g}", "train with device.mode=eager")
    return ok("torch.compile", f"a small network, forward and backward, in {time.perf_counter() - begin:.0f} s")


def _gradients(network: nn.Module, output: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(output.square().sum(), list(network.parameters())))


if __name__ == "__main__":
    main()
