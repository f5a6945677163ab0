"""Files of weights. They are compared by their content, not by their path. Free of torch."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize

from kdhpc.config.schema import NetworkConfig, ObjectiveConfig
from kdhpc.errors import NetworkError, nearest
from kdhpc.files.reading import read_whole

PRETRAINED_REMEDY = "give a node1.safetensors of `kdhpc train --graph independent --nodes 1`"
"""What error messages about ``objective.pretrained`` ask the user to do."""
START_REMEDY = "give a file of weights of this network, .safetensors or what torch.save wrote of a state_dict"
"""What error messages about ``network.weights`` ask the user to do."""
_FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16}


def pretrained_origin(objective: ObjectiveConfig, network: str | None = None) -> str:
    """What error messages call the weights of ``objective.pretrained``, or those of one of its networks."""
    given = objective.pretrained
    if isinstance(given, dict) and network in given:
        return f"objective.pretrained.{network}={given[network]}"
    return f"objective.pretrained={given}"


def pretrained_remedy(network: str) -> str:
    """What error messages about the weights of a network ask the user to do; it may be empty."""
    return PRETRAINED_REMEDY.replace("--nodes 1", f"--nodes 1 network={network}") if network else PRETRAINED_REMEDY


def pretrained_path(objective: ObjectiveConfig, network: str) -> Path | None:
    """The file of ``objective.pretrained`` for a network; None: none is given at all.

    Raises:
        NetworkError: files are given for other networks alone.
    """
    given = objective.pretrained
    if given is None:
        return None
    if isinstance(given, str):
        return Path(given)
    if network not in given:
        raise NetworkError(
            f"objective.pretrained has no file for network {network!r}: {nearest(network, given)}; {PRETRAINED_REMEDY}"
        )
    return Path(given[network])


def start_origin(network: NetworkConfig) -> str:
    """What error messages call the weights of ``network.weights``."""
    return f"network.weights={network.weights}"


def origin_of_weights(objective: ObjectiveConfig, network: NetworkConfig, names: Sequence[str]) -> str:
    """What error messages call all weights that a config names, for the networks of those names."""
    files = [] if isinstance(objective.pretrained, str) else sorted(set(names))
    pretrained = " or ".join(pretrained_origin(objective, name) for name in files) or pretrained_origin(objective)
    given = [
        text
        for text, path in (
            (pretrained, objective.pretrained),
            (start_origin(network), network.weights),
        )
        if path is not None
    ]
    return " or ".join(given)


def weights_digest(
    objective: ObjectiveConfig, networks: Sequence[str] = (), *, start: NetworkConfig | None = None
) -> str | None:
    """A hash of the content of ``objective.pretrained``, and of ``network.weights`` where a network is given.

    Returns:
        16 hexadecimal digits of the SHA-256; behind a ``+`` those of the network's; None: no file is given.

    Args:
        objective: The options.
        networks: Names of those that are used; empty: all that have a file. One file is the same, whether it is
            given for its network alone or for all.
        start: The network whose ``network.weights`` count as well.

    Raises:
        NetworkError: there is no such file.
        StorageError: the file system refuses.
    """
    contents = _contents(objective, networks)
    pretrained = None
    if len(contents) == 1:
        pretrained = content_digest(contents.values())
    elif contents:
        pretrained = content_digest(
            part for name, content in contents.items() for part in (f"{name}\n".encode(), content)
        )
    started = None if start is None else start_digest(start)
    return pretrained if started is None else f"{pretrained or ''}+{started}"


def start_digest(network: NetworkConfig) -> str | None:
    """The same of ``network.weights``."""
    return None if network.weights is None else content_digest([start_content(network, network.weights)])


def start_content(network: NetworkConfig, path: str) -> bytes:
    """The content of ``network.weights``.

    Raises:
        NetworkError, StorageError: as :func:`read_content`.
    """
    return read_content(Path(path), origin=start_origin(network), remedy=START_REMEDY)


def check_start(network: NetworkConfig) -> None:
    """Refuse a file ``network.weights`` that holds no weights, as far as can be told without torch.

    Raises:
        NetworkError: see :func:`check_content`; or it is neither of the two kinds of files.
        StorageError: the file system refuses.
    """
    if network.weights is None:
        return
    content = start_content(network, network.weights)
    if not is_torchs(content):
        check_content(content, origin=start_origin(network), remedy=START_REMEDY)


def is_torchs(content: bytes) -> bool:
    """Whether it is what ``torch.save`` writes, or wrote before 1.6, by its first bytes."""
    return content.startswith((b"PK\x03\x04", b"\x80\x02"))


def check_weights_file(objective: ObjectiveConfig, networks: Sequence[str] = ()) -> None:
    """Refuse a file of ``objective.pretrained`` that holds no weights, or those of a training that diverged.

    Args:
        objective: The options.
        networks: As for :func:`weights_digest`.

    Raises:
        NetworkError: see :func:`check_content`.
        StorageError: the file system refuses.
    """
    for network, content in _contents(objective, networks).items():
        check_content(content, origin=pretrained_origin(objective, network), remedy=PRETRAINED_REMEDY)


def read_content(path: Path, *, origin: str, remedy: str) -> bytes:
    """Read a file of weights, without a check. It is not mapped into memory: some file systems cannot do that.

    Args:
        path: The file.
        origin: What messages call it.
        remedy: What messages ask for instead.

    Raises:
        NetworkError: there is no such file.
        StorageError: the file system refuses.
    """
    try:
        return read_whole(path)
    except OSError as exc:
        raise NetworkError(f"{origin} cannot be read ({exc.strerror or exc}): {remedy}") from exc


def check_content(content: bytes, *, origin: str, remedy: str) -> None:
    """Refuse content that is not that of a complete file of weights, or that has infinite or NaN values.

    Args:
        content: Content of a ``.safetensors`` file, which itself says how long it must be.
        origin: What messages call it.
        remedy: What messages ask for instead.

    Raises:
        NetworkError: it is refused.
    """
    try:
        tensors = deserialize(content)  # type: ignore[no-untyped-call]
    except SafetensorError as exc:
        raise NetworkError(f"{origin} cannot be read as safetensors ({' '.join(str(exc).split())}): {remedy}") from exc
    for name, tensor in tensors:
        if not _is_finite(tensor["dtype"], tensor["data"]):
            raise NetworkError(f"{origin} holds numbers that are none in {name!r}, its training diverged: {remedy}")


def content_digest(contents: Iterable[bytes]) -> str:
    """16 hexadecimal digits of the SHA-256 of the contents, one after the other."""
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return digest.hexdigest()[:16]


def _contents(objective: ObjectiveConfig, networks: Sequence[str]) -> dict[str, bytes]:
    """The files of some networks, by name; the one that serves all networks has none."""
    given = objective.pretrained
    names = [""] if isinstance(given, str) else sorted(set(networks or given or ()))
    paths = {name: pretrained_path(objective, name) for name in names}
    return {
        name: read_content(path, origin=pretrained_origin(objective, name), remedy=pretrained_remedy(name))
        for name, path in paths.items()
        if path is not None
    }


def _is_finite(dtype: str, data: bytes) -> bool:
    """Whether all numbers of a tensor are finite. Integers always are."""
    numbers: NDArray[np.floating]
    if dtype == "BF16":  # The upper half of a float32.
        numbers = (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
    elif dtype in _FLOATS:
        numbers = np.frombuffer(data, _FLOATS[dtype])
    else:
        return True
    return bool(np.isfinite(numbers).all())
