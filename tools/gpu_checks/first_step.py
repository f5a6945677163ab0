"""Time to the first step of a worker: with nothing compiled before, and with what another worker has published.

As a program, one worker: it prints the seconds from its start to the end of the first step, and publishes.
"""

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tools.gpu_checks.check import CannotRunError, DiffersError, Numbers, Scale
from tools.gpu_checks.processes import scale_of

_CPU_BATCH = 16


def first_step_check(scale: Scale, network: str, scratch: Path) -> Numbers:
    """A worker on a node where nothing was compiled, and one on another node, which begins with what was published.

    Raises:
        DiffersError: nothing could be compiled.
        RuntimeError: one of them failed.
    """
    if not scale.compiles:
        raise CannotRunError("nothing is compiled (--eager)")
    if scale.cpu:  # Inductor of torch 2.11 cannot compile the losses of two images for a CPU, and kdhpc does without.
        scale = dataclasses.replace(scale, batch_size=_CPU_BATCH)
    folder = scratch / f"first-step-{network}"
    cold, warm = (_worker(scale, network, folder, node) for node in ("first-node", "second-node"))
    for worker in (cold, warm):
        if str(worker["mode"]).startswith("eager"):
            raise DiffersError(f"torch.compile failed (mode {worker['mode']}): the lines before say why")
    published = sum(path.stat().st_size for path in (folder / "runs").rglob("*.bin"))
    return {
        "mode": str(warm["mode"]),
        "cold, s": float(cold["step_s"]),
        "warm, s": float(warm["step_s"]),
        "published, MB": published / 1e6,
        "start and imports, s": float(warm["import_s"]),
    }


def _worker(scale: Scale, network: str, folder: Path, node: str) -> dict[str, str]:
    """One worker, whose temporary folder is a node's own."""
    place = folder / node
    place.mkdir(mode=0o700, parents=True)
    left_out = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TORCH_EXTENSIONS_DIR", "SLURM_TMPDIR")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment |= {"TMPDIR": str(place), "KDHPC_RUNS": str(folder / "runs")}
    work = json.dumps({"network": network, "scale": dataclasses.asdict(scale), "began": time.time()})
    done = subprocess.run(
        [sys.executable, "-m", "tools.gpu_checks.first_step", work],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the worker on the {node} ended with code {done.returncode}: see what it wrote")
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """One worker."""
    import torch

    from kdhpc.config.paths import compile_cache_dir
    from kdhpc.config.schema import DeviceConfig
    from kdhpc.training.compiling import prepare_compiling
    from tools.benchmarks.noise import noise_batches
    from tools.benchmarks.step import full_graph
    from tools.gpu_checks.setting import advance, compute_in, config_of, device_of, setting_of, training_of, wait

    work = json.loads(sys.argv[1])
    scale = scale_of(work["scale"])
    if scale.cpu:
        torch.set_num_threads(1)
    compute_in("float32")
    device = DeviceConfig(device="cpu", mode="compile") if scale.cpu else DeviceConfig(device="cuda")
    config, target = config_of(scale, work["network"], device=device), device_of(scale)
    import_s = time.time() - work["began"]
    begin = time.perf_counter()
    train, evaluation = noise_batches(config, 2)
    _, cache = prepare_compiling(
        setting_of(config, train, evaluation),
        name=config.network.name,
        num_nodes=config.study.num_nodes,
        folder=compile_cache_dir(),
        is_shared=True,
    )
    assert cache is not None, "something is compiled"
    training = training_of(config, full_graph(config.study.num_nodes), train, evaluation)
    advance(training, 1)
    wait(target)
    step_s = time.perf_counter() - begin
    if not scale.cpu:
        advance(training, 2)  # Past an evaluation, whose programs are published, too.
    cache.publish()
    print(json.dumps({"mode": training.mode, "step_s": step_s, "import_s": import_s}), flush=True)


if __name__ == "__main__":
    main()
