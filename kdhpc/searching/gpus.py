"""The GPUs of this machine, found without torch."""

import os
import re
from itertools import takewhile
from pathlib import Path

_GPU = re.compile(r"\d+|(GPU|MIG)-.+")


def visible_gpus() -> list[str]:
    """This machine's GPUs, by index or UUID, as far as CUDA_VISIBLE_DEVICES shows them; workers see no others."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        indices = sorted(int(path.name.removeprefix("nvidia")) for path in Path("/dev").glob("nvidia[0-9]*"))
        return [str(index) for index in indices]
    # As CUDA reads it: what comes after a name that is none, as -1, is not seen.
    return list(takewhile(_GPU.fullmatch, (name.strip() for name in visible.split(","))))
