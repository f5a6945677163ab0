"""The files of a run's weights, which its result names by their content. Free of torch."""

from pathlib import Path

from kdhpc.config.paths import RunPaths
from kdhpc.errors import NetworkError
from kdhpc.final.result import FinalResult
from kdhpc.methods.registry import METHODS
from kdhpc.networks.weights import check_content, content_digest, read_content


def weights_files(paths: RunPaths, result: FinalResult) -> tuple[Path, ...]:
    """One a node, or a single one where all nodes are one network; none of a training that diverged.

    Raises:
        ConfigError: this kdhpc has no such method, and the result is from before it said how many there are.
    """
    if result.divergence is not None:
        return ()
    number = len(result.weights)
    if not number:
        number = 1 if METHODS[result.method].is_one_network else result.num_nodes
    return tuple(paths.weights(index) for index in range(number))


def check_weights_files(paths: RunPaths, result: FinalResult, *, origin: str, remedy: str) -> None:
    """Refuse weights that are not there, not whole, not finite, or not those that training has written.

    Args:
        paths: Of the run.
        result: Of the run.
        origin: What messages call it.
        remedy: What messages ask for.

    Raises:
        NetworkError: they are refused.
        StorageError: the file system refuses.
    """
    for index, path in enumerate(weights_files(paths, result)):
        file = f"{origin}: {path.name}"
        content = read_content(path, origin=file, remedy=remedy)
        check_content(content, origin=file, remedy=remedy)
        check_digest(result, index, content, origin=file, remedy=remedy)


def check_digest(result: FinalResult, index: int, content: bytes, *, origin: str, remedy: str) -> None:
    """Refuse content of a file of weights that is not what training has written, as far as its result knows.

    Args:
        result: Of the run.
        index: Of the file, from 0.
        content: Of the file.
        origin: What messages call the file.
        remedy: What messages ask for.

    Raises:
        NetworkError: it is refused.
    """
    if result.weights and content_digest([content]) != result.weights[index]:
        raise NetworkError(f"{origin} is not what was written when the training ended: {remedy}")
