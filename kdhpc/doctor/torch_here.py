"""The GPU and its driver, and what torch makes of them."""

import json
import shutil
import subprocess
from collections.abc import Iterator

from kdhpc.doctor.finding import Finding, absent, fault, from_document, ok
from kdhpc.interpreter import child_python_words

_DRIVER_S = 30.0
_PROBE_S = 600.0


def check_torch() -> Iterator[Finding]:
    """The driver, then torch in a process of its own."""
    yield _driver()
    command = [*child_python_words(), "-m", "kdhpc.doctor.torch_probe"]
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=_PROBE_S, check=False
        )
    except subprocess.TimeoutExpired:
        yield fault("torch", f"it did not come to an end within {_PROBE_S:.0f} s")
        return
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            yield from_document(json.loads(line))
    if done.returncode != 0:
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "it says nothing")
        yield fault("torch", f"its process ended with {done.returncode}: {last.strip()}", "install torch again")


def _driver() -> Finding:
    program = shutil.which("nvidia-smi")
    if program is None:
        return absent("GPU driver", "no nvidia-smi on this machine")
    asked = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(
            asked, capture_output=True, encoding="utf-8", errors="replace", timeout=_DRIVER_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        return fault("GPU driver", f"nvidia-smi does not answer: {exc}", "tell the machine's administrator")
    rows = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if done.returncode != 0 or not rows:
        words = " ".join((done.stderr or done.stdout).split()) or "no GPU"
        return absent("GPU driver", f"nvidia-smi sees no GPU: {words}")
    return ok("GPU driver", "; ".join(rows))
