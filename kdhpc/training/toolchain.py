"""What torch.compile needs of a machine beside torch: a compiler, and Python's headers.

Triton builds its launcher of a GPU's kernels with a C compiler, Inductor its kernels of a CPU with a C++ compiler, both
against Python's headers. If these are missing, both fail late, with a message that may not name what is missing.

Source: triton/runtime/build.py and torch/_inductor/cpp_builder.py.
"""

import os
import shutil
import sysconfig
from pathlib import Path

import torch


def missing_tool() -> str | None:
    """What compiling needs and this machine does not have, and what to do; None: nothing is missing."""
    has_gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    language, variable, usual = ("C", "CC", "gcc clang") if has_gpu else ("C++", "CXX", "g++")
    named = os.environ.get(variable, "").partition(" ")[0]
    if not any(shutil.which(name) for name in ([named] if named else usual.split())):
        tried = f"{variable}={named} is none" if named else f"{' or '.join(usual.split())} is not there"
        return f"torch.compile needs a {language} compiler, {tried}: install one, load its module, or set {variable}"
    # Debian's own scheme, posix_local, names a folder in which its headers are not.
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")
    header = Path(sysconfig.get_path("include", scheme)) / "Python.h"
    if not header.exists():
        return (
            f"torch.compile needs Python's headers, {header} is not there: install them (python3-dev, python3-devel), "
            "or make .venv with a Python that has them"
        )
    return None
