"""Files of weights, which count by what is in them, not by where they lie. Free of torch."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError, safe_open

from kdhpc.config.schema import ObjectiveConfig
from kdhpc.errors import NetworkError


def weights_digest(objective: ObjectiveConfig) -> str | None:
    """Names the content of ``objective.pretrained``: 16 hexadecimal digits of its sha256; none without such a file.

    Raises:
        NetworkError: it cannot be read.
    """
    path = objective.pretrained
    if path is None:
        return None
    try:
        return content_digest([Path(path)])
    except OSError as exc:
        raise NetworkError(
            f"objective.pretrained={path} cannot be read ({exc.strerror or exc}): give a node1.safetensors of "
            "`kdhpc train --graph independent --nodes 1`"
        ) from exc


def content_digest(paths: Iterable[Path]) -> str:
    """16 hexadecimal digits of the sha256 of the files' contents, one after the other.

    Raises:
        OSError: one cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def check_weights_file(objective: ObjectiveConfig) -> None:
    """Refuse a file of weights that is none: reads its header only, which also says how long the file must be.

    Raises:
        NetworkError: it cannot be read as safetensors.
    """
    if objective.pretrained is None:
        return
    try:
        with safe_open(objective.pretrained, framework="numpy"):
            pass
    except (OSError, SafetensorError) as exc:
        raise NetworkError(
            f"objective.pretrained={objective.pretrained} cannot be read as safetensors "
            f"({' '.join(str(exc).split())}): give a node1.safetensors of `kdhpc train --graph independent --nodes 1`"
        ) from exc
