"""A file system that fails on demand (``faultfs.c``), for tests: as root on a Debian, whose packages it needs.

Where the machine cannot have it, tests are skipped with the reason, or fail under KDHPC_REQUIRE_FAULTS=1.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.packages import install

_SOURCE = Path(__file__).with_name("faultfs.c")
_PACKAGES = ("fuse3", "libfuse3-dev", "pkg-config", "gcc", "libc6-dev")
_MOUNTED_S = 30.0


@dataclass(frozen=True, kw_only=True)
class FaultyDisk:
    """A mounted file system."""

    path: Path
    """Where it is mounted."""
    backing: Path
    """The folder behind it, without faults."""
    rules_file: Path
    """What it does wrong, see ``faultfs.c``."""

    def rules(self, *lines: str) -> None:
        """What it does wrong from now on; nothing: it works."""
        written = self.rules_file.with_suffix(".new")
        written.write_text("".join(f"{line}\n" for line in lines))
        # By its time it knows that they are new, and a kernel's clock stands still for milliseconds.
        os.utime(written, ns=(time.time_ns(), time.time_ns()))
        written.replace(self.rules_file)


@contextmanager
def faulty_disk(
    program: Path, folder: Path, *, backing: Path | None = None, locks: str = "", options: str = ""
) -> Iterator[FaultyDisk]:
    """Mount one.

    Args:
        program: The compiled ``faultfs.c``.
        folder: Made; everything of it lies there.
        backing: The folder behind it, for two mounts of the same; none: its own.
        locks: ``local``: this mount's locks do not meet another's.
        options: FUSE's, as ``negative_timeout=30``.
    """
    mounted, behind, rules = folder / "disk", backing or folder / "behind", folder / "rules"
    mounted.mkdir(parents=True)
    behind.mkdir(exist_ok=True)
    rules.touch()
    with (folder / "stderr").open("w") as stderr:
        process = subprocess.Popen(
            [program, behind, mounted, rules, *(("-o", options) if options else ())],
            env={**os.environ, "FAULTFS_LOCKS": locks},
            stderr=stderr,
        )
    try:
        deadline = time.monotonic() + _MOUNTED_S
        while not os.path.ismount(mounted):
            assert process.poll() is None, (folder / "stderr").read_text()
            assert time.monotonic() < deadline, "it was not mounted in time"
            time.sleep(0.02)
        yield FaultyDisk(path=mounted, backing=behind, rules_file=rules)
    finally:
        rules.write_text("")
        # Lazily: what a failed test has left open must not keep it.
        subprocess.run(["umount", "--lazy", mounted], check=False)
        process.terminate()
        process.wait(30)


def compiled_faultfs(folder: Path) -> Path:
    """The program, compiled; skips the test where that cannot be done."""
    problem = _install()
    program = folder / "faultfs"
    if problem is None:
        flags = subprocess.run(
            ["pkg-config", "fuse3", "--cflags", "--libs"], capture_output=True, text=True, check=True
        )
        subprocess.run(
            ["gcc", "-O2", "-Wall", "-Werror", _SOURCE, "-o", program, *flags.stdout.split(), "-lpthread"], check=True
        )
        return program
    if os.environ.get("KDHPC_REQUIRE_FAULTS") == "1":
        pytest.fail(problem)
    pytest.skip(problem)


def _install() -> str | None:
    """Have FUSE here; why that cannot be."""
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        return "a faulty file system needs root and /dev/fuse"
    if shutil.which("fusermount3") and _has_headers():
        return None
    if problem := install(_PACKAGES):
        return f"a faulty file system: {problem}"
    return None if _has_headers() else "fuse3's headers are not found"


def _has_headers() -> bool:
    return (
        bool(shutil.which("pkg-config"))
        and subprocess.run(["pkg-config", "--exists", "fuse3"], check=False).returncode == 0
    )
