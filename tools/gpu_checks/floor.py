"""What a step takes at least, by `tools/bench launches`: printed beside what it takes.

That benchmark takes half a minute a network and no GPU. So it runs beside the checks, and is waited for after them.

This is all that the checks know of that benchmark: it is run as a program, and three keys of its rows are read.
"""

import importlib.util
import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from tools.gpu_checks.check import CannotRunError, Numbers, Scale

_KEYS = ("kernels", "peer_kernels", "floor_ms")
_POLL_S = 0.5
_PATIENCE_S = 120.0


def begin_floors(scale: Scale, networks: Sequence[str], folder: Path) -> None:
    """Count beside the checks, one network after the other, what has not been counted yet.

    Args:
        scale: How much of everything.
        networks: Their names.
        folder: Where the floors are kept: a process of the checks that takes over finds them.
    """
    if importlib.util.find_spec("tools.benchmarks.launches") is None:
        return

    def count() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for network in networks:
            if not _path(folder, network).exists():
                _count(scale, network, folder)

    threading.Thread(target=count, name="floors", daemon=True).start()


def floor_check(scale: Scale, network: str, folder: Path) -> Numbers:
    """Kernels and floor of a network's step.

    Raises:
        CannotRunError: there is no such benchmark.
        RuntimeError: it failed.
    """
    if importlib.util.find_spec("tools.benchmarks.launches") is None:
        raise CannotRunError("tools/bench launches is not in this tree")
    end = time.monotonic() + _PATIENCE_S
    path = _path(folder, network)
    while not path.exists() and time.monotonic() < end:
        time.sleep(_POLL_S)
    found: Numbers = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if not found:
        raise RuntimeError("tools/bench launches failed, or took too long: see what it wrote")
    return found


def _count(scale: Scale, network: str, folder: Path) -> None:
    command = [sys.executable, "-m", "tools.benchmarks", "launches", "--network", network]
    command += ["--nodes", str(scale.num_nodes), "--batch", str(scale.batch_size), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    found: Numbers = {}
    if done.returncode == 0:
        document = json.loads(done.stdout)
        (row,) = document["rows"] if isinstance(document, dict) else document
        found = {name: row[name] for name in _KEYS}
    partial = _path(folder, network).with_suffix(".partial")
    partial.write_text(json.dumps(found), encoding="utf-8")
    partial.replace(_path(folder, network))


def _path(folder: Path, network: str) -> Path:
    return folder / f"{network}.json"
