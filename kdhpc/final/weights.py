"""A run's files of weights, and checking them against the digests in its result. Free of torch."""

from pathlib import Path

from kdhpc.config.paths import RunPaths
from kdhpc.errors import NetworkError
from kdhpc.final.result import FinalResult
from kdhpc.methods.registry import METHODS
from kdhpc.networks.weights import check_content, content_digest, read_content


def weights_files(paths: RunPaths, result: FinalResult) -> tuple[Path, ...]:
    """The files of weights that a finished run must have: one for each node, or a single one if all nodes share it.

    A training that diverged has none.

    Raises:
        ConfigError: the number is not known: the result is from before it listed the files, and this kdhpc does not
            have the run's method.
    """
    if result.divergence is not None:
        return ()
    number = len(result.weights)
    if not number:
        number = 1 if METHODS[result.method].is_one_network else result.num_nodes
    return tuple(paths.weights(index) for index in range(number))


def check_weights_files(paths: RunPaths, result: FinalResult, *, origin: str, remedy: str) -> None:
    """Check that all weights of a run exist, are complete and finite, and are those that training has written.

    Args:
        paths: Paths of the run.
        result: Result of the run.
        origin: Name of the run in messages.
        remedy: What messages tell the user to do.

    Raises:
        NetworkError: a file is missing or wrong.
        StorageError: the file system refuses.
    """
    for index, path in enumerate(weights_files(paths, result)):
        file = f"{origin}: {path.name}"
        content = read_content(path, origin=file, remedy=remedy)
        check_content(content, origin=file, remedy=remedy)
        check_digest(result, index, content, origin=file, remedy=remedy)


def check_digest(result: FinalResult, index: int, content: bytes, *, origin: str, remedy: str) -> None:
    """Check that a file of weights has the content that training has written, if the result has its digest.

    Args:
        result: Result of the run.
        index: Number of the file, from 0.
        content: Content of the file.
        origin: Name of the file in messages.
        remedy: What messages tell the user to do.

    Raises:
        NetworkError: the content is another.
    """
    if result.weights and content_digest([content]) != result.weights[index]:
        raise NetworkError(f"{origin} is not what was written when the training ended: {remedy}")
