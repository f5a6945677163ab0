"""What a step takes at least, by `tools/bench launches`: printed beside what it takes.

SEAM: this is all that the checks know of that benchmark. It is run as a program, with the options and the keys that its
issue names, and its floors are kept in a file, so that a process that takes over finds them.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

from tools.gpu_checks.check import CannotRunError, Numbers, Scale

_PRECISION = "bf16"
"""That of the benchmark unless told otherwise."""


def floor_check(scale: Scale, network: str) -> Numbers:
    """Count kernels and floor of a network's step; no GPU is used.

    Raises:
        CannotRunError: there is no such benchmark yet.
        RuntimeError: it failed.
    """
    if importlib.util.find_spec("tools.benchmarks.launches") is None:
        raise CannotRunError("tools/bench launches is not in this tree")
    command = [sys.executable, "-m", "tools.benchmarks", "launches", "--network", network]
    command += ["--nodes", str(scale.num_nodes), "--batch", str(scale.batch_size), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"tools/bench launches ended with code {done.returncode}: see what it wrote")
    document = json.loads(done.stdout)
    (row,) = document["rows"] if isinstance(document, dict) else document
    path = _path(network)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(row["floor_ms"]), encoding="utf-8")
    return {name: row[name] for name in ("kernels", "peer_kernels", "floor_ms")}


def floor_ms(network: str, precision: str) -> float | None:
    """The floor of a network's step; none: it is not known for that precision."""
    path = _path(network)
    if precision != _PRECISION or not path.exists():
        return None
    return float(json.loads(path.read_text(encoding="utf-8")))


def _path(network: str) -> Path:
    return Path(os.environ["KDHPC_RUNS"]) / "floors" / f"{network}.json"
