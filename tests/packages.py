"""Debian's packages that some tests need: installed where that can be done, as root on a Debian."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path


def install(packages: Sequence[str]) -> str | None:
    """Install them, without starting a service of theirs; why that cannot be."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return f"it needs {', '.join(packages)}: install them, or run the tests as root on a Debian"
    with tempfile.TemporaryFile("w+") as log, _services_held_back():
        for command in (("update", "-qq"), ("install", "-qq", "--no-install-recommends", *packages)):
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            # Another test process may be installing something now.
            lock = ("-o", "DPkg::Lock::Timeout=300")
            done = subprocess.run(["apt-get", *lock, *command], env=environment, stdout=log, stderr=log, check=False)
            if done.returncode != 0:
                log.seek(0)
                return f"apt-get {command[0]} failed: {log.read()[-300:]}"
    return None


@contextlib.contextmanager
def _services_held_back() -> Iterator[None]:
    """Debian's own switch keeps packages from starting services while they are installed."""
    policy = Path("/usr/sbin/policy-rc.d")
    try:
        with policy.open("x") as file:
            file.write("#!/bin/sh\nexit 101\n")
    except FileExistsError:
        yield
        return
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink(missing_ok=True)
