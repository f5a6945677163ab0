"""Networks that start from the weights of a file, ``network.weights``, instead of initial ones."""

import functools
import io
import logging
from collections.abc import Mapping

import torch
from safetensors.torch import load
from torch import Tensor

from kdhpc.config.schema import NetworkConfig
from kdhpc.errors import NetworkError
from kdhpc.networks.build import Network, build_network, named_for
from kdhpc.networks.weights import START_REMEDY, check_content, content_digest, is_torchs, start_content, start_origin

_LOG = logging.getLogger(__name__)
_WRAPPERS = ("state_dict", "model", "model_state_dict")
"""Where training scripts put a state_dict into what they save."""
_PARALLEL = "module."
"""Before all names that torch.nn.DataParallel has saved."""


def build_started(config: NetworkConfig, *, num_classes: int, image_size: int, node: int = 0) -> Network:
    """`build_network`, with the weights of ``network.weights`` where a file is given.

    A classifier of another number of classes keeps its initial weights, which is said once.

    Raises:
        NetworkError: as `build_network`; or the file is missing, or holds no weights of this network.
        StorageError: the file system refuses.
    """
    network = build_network(config, num_classes=num_classes, image_size=image_size, node=node)
    if config.weights is not None:
        fitting = _fitting(network, _read(config, config.weights), num_classes, start_origin(config))
        network.load_state_dict(network.state_dict() | fitting)
    return network


def check_started(config: NetworkConfig, *, num_classes: int, image_size: int) -> None:
    """Refuse what `build_started` would, at the cost of reading the file.

    Raises:
        NetworkError, StorageError: as :func:`build_started`.
    """
    if config.weights is None:
        return
    with torch.device("meta"):
        shapes = build_network(config, num_classes=num_classes, image_size=image_size)
    _fitting(shapes, _read(config, config.weights), num_classes, start_origin(config))


def _fitting(network: Network, weights: Mapping[str, Tensor], num_classes: int, origin: str) -> dict[str, Tensor]:
    """The weights of a file by the network's names, without those of a classifier of other classes.

    Raises:
        NetworkError: they are another network's; the message names the first tensor that differs.
    """
    expected, given = network.state_dict(), named_for(network, weights)
    others: set[int] = set()
    left_out: list[str] = []
    for name in sorted(expected.keys() | given.keys()):
        if name not in given and name.endswith(".num_batches_tracked"):  # Files from before torch had it.
            continue
        shapes = [list(tensors[name].shape) if name in tensors else None for tensors in (given, expected)]
        if shapes[0] == shapes[1]:
            continue
        classes = _other_classes(shapes[0], shapes[1], num_classes)
        others.update(classes)
        if not classes or len(others) > 1:
            raise NetworkError(
                f"{origin} has {shapes[0] or 'nothing'} for tensor {name!r}, this network has "
                f"{shapes[1] or 'nothing'}: {START_REMEDY}"
            )
        left_out.append(name)
    if len(left_out) == len(expected):
        raise NetworkError(f"{origin} has no weights of this network: {START_REMEDY}")
    if left_out:
        _tell_once(origin, next(iter(others)), num_classes, tuple(left_out))
    return {name: tensor for name, tensor in given.items() if name not in left_out}


def _other_classes(given: list[int] | None, expected: list[int] | None, num_classes: int) -> set[int]:
    """The file's number of classes, if two shapes differ by that alone; else nothing, or several numbers."""
    if given is None or expected is None or len(given) != len(expected):
        return set()
    different = [(theirs, ours) for theirs, ours in zip(given, expected, strict=True) if theirs != ours]
    return {theirs for theirs, _ in different} if all(ours == num_classes for _, ours in different) else set()


@functools.cache
def _tell_once(origin: str, theirs: int, ours: int, names: tuple[str, ...]) -> None:
    _LOG.warning(
        "%s tells %d classes apart, the data set has %d: %s keep initial weights",
        origin,
        theirs,
        ours,
        ", ".join(names),
    )


_last_read: dict[str, dict[str, Tensor]] = {}
"""The tensors of the file that was read last, by the digest of its content: a search builds many networks of it."""


def _read(config: NetworkConfig, path: str) -> dict[str, Tensor]:
    content = start_content(config, path)
    digest = content_digest([content])
    if digest not in _last_read:
        _last_read.clear()
        _last_read[digest] = _parse(content, start_origin(config))
    return _last_read[digest]


def _parse(content: bytes, origin: str) -> dict[str, Tensor]:
    """The tensors in the content of a file, which execute nothing when they are loaded.

    Raises:
        NetworkError: it holds none, or numbers that are none.
    """
    if not is_torchs(content):
        check_content(content, origin=origin, remedy=START_REMEDY)
        return load(content)
    try:
        document: object = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as exc:  # What a file says it holds may be anything.
        reason = " ".join(f"{type(exc).__name__}: {exc}".split())[:200]
        raise NetworkError(f"{origin} cannot be read as a state_dict ({reason}): {START_REMEDY}") from exc
    while isinstance(document, Mapping) and (inner := next((k for k in _WRAPPERS if k in document), None)):
        document = document[inner]
    if not isinstance(document, Mapping) or not document or not all(isinstance(v, Tensor) for v in document.values()):
        raise NetworkError(f"{origin} holds a {type(document).__name__} that is no state_dict: {START_REMEDY}")
    weights = {str(name): tensor for name, tensor in document.items()}
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise NetworkError(f"{origin} holds numbers that are none in {name!r}: {START_REMEDY}")
    if all(name.startswith(_PARALLEL) for name in weights):
        weights = {name.removeprefix(_PARALLEL): tensor for name, tensor in weights.items()}
    return weights
