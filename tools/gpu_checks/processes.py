"""Several processes on one device, or one with another environment: what trials in one process are compared with.

As a program, one of them: it says that it is ready, waits for a line, and prints the mode and the seconds of its steps.
"""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tools.gpu_checks.check import NOTE, Numbers, Scale, scale_for

_READY = "ready"


def processes_check(
    scale: Scale, network: str, *, number: int, num_trials: int, environment: Mapping[str, str] | None = None
) -> Numbers:
    """So many processes that begin their timed steps together, each with so many trials.

    Raises:
        RuntimeError: one of them failed.
    """
    begin = time.perf_counter()
    work = json.dumps({"network": network, "scale": dataclasses.asdict(scale), "trials": num_trials})
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "tools.gpu_checks.processes", work],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | dict(environment or {}),
        )
        for _ in range(number)
    ]
    try:
        for child in children:
            if _line(child) != _READY:
                raise RuntimeError("a process ended before its steps: see what it wrote")
        first_s = time.perf_counter() - begin
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        found = [json.loads(_line(child)) for child in children]
    finally:
        for child in children:
            child.kill()
            child.communicate()
    first, second = (1e3 * max(times[index] for _, times in found) / number / num_trials for index in (0, 1))
    mps = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")) / "control"
    return {
        "mode": found[0][0],
        "step_ms": first,
        "again_ms": second,
        "first_step_s": first_s,
        NOTE: "with MPS" if mps.exists() else "",
    }


def _line(child: "subprocess.Popen[str]") -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def scale_of(document: dict[str, object]) -> Scale:
    """The scale that another process has written as JSON."""
    usual = scale_for(cpu=bool(document["cpu"]), compiles=bool(document["compiles"]))
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in document.items()}
    return dataclasses.replace(usual, **values)  # type: ignore[arg-type]


def main() -> None:
    """One of them."""
    import torch

    from kdhpc.config.schema import DeviceConfig
    from tools.gpu_checks.setting import compute_in, config_of, device_of, wait
    from tools.gpu_checks.speed import WARM_STEPS, Journeys, step_times

    work = json.loads(sys.argv[1])
    scale = scale_of(work["scale"])
    if scale.cpu:
        torch.set_num_threads(1)
    compute_in("float32")
    device = device_of(scale)
    config = config_of(
        scale,
        work["network"],
        device=DeviceConfig(device="cpu", mode="eager") if scale.cpu else DeviceConfig(device="cuda"),
    )
    journeys = Journeys(scale, config, work["trials"])
    for _ in range(WARM_STEPS if not scale.cpu else 1):
        journeys.turn()
    wait(device)
    print(_READY, flush=True)
    sys.stdin.readline()
    times = step_times(journeys.turn, scale.num_steps, device)
    print(json.dumps([journeys.mode, times]), flush=True)


if __name__ == "__main__":
    main()
