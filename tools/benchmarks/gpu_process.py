"""Several processes on one device, a training in each: what seats in one process are compared with.

As a program, one of them: it says that it is ready, waits for a line, and prints the mode and the seconds of its steps.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import time

import torch

from kdhpc.training.device import resolve_device
from tools.benchmarks.gpu_cells import WARM_STEPS, Size, config_of, noise_batches, timed, training_of, wait
from tools.benchmarks.report import Cell

_READY = "ready"


def processes_cell(network: str, size: Size, *, mode: str, number: int) -> dict[str, Cell]:
    """So many processes that begin their timed steps together.

    Raises:
        RuntimeError: one of them failed.
    """
    begin = time.perf_counter()
    work = json.dumps(
        {"network": network, "mode": mode, "size": dataclasses.asdict(size), "threads": torch.get_num_threads()}
    )
    command = [sys.executable, "-m", "tools.benchmarks.gpu_process", work]
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(number)
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
    step_s = max(seconds for _, seconds in found) / number
    return {"ran": found[0][0], "step_ms": 1e3 * step_s, "first_step_s": first_s}


def _line(child: "subprocess.Popen[str]") -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def main() -> None:
    """One of them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work")
    work = json.loads(parser.parse_args().work)
    torch.set_num_threads(work["threads"])
    size = Size(**work["size"])
    config = config_of(work["network"], size, mode=work["mode"])
    device = resolve_device(config.device)
    train, evaluation = noise_batches(config, 2 * WARM_STEPS + size.num_steps + 1)
    training = training_of(config, train, evaluation)
    journey = training.steps()
    for _ in range(WARM_STEPS + 1):
        next(journey)
    wait(device)
    print(_READY, flush=True)
    sys.stdin.readline()
    step_s = timed(lambda: next(journey), size.num_steps, device)
    print(json.dumps([training.mode, step_s]), flush=True)


if __name__ == "__main__":
    main()
