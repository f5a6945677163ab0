"""Whether a final training is done."""

from kdhpc.config.paths import RunPaths
from kdhpc.errors import ConfigError, DataError, NetworkError
from kdhpc.final.result import FinalResult, NewerResultError, read_result
from kdhpc.final.weights import check_weights_files


def read_done(paths: RunPaths, *, name: str, seed: int) -> FinalResult | None:
    """The result of a run that is done, whose weights were compared with it; None: the run is not done.

    Args:
        paths: Of the run.
        name: Of the training.
        seed: Its seed.

    Raises:
        ConfigError: the folder holds another training's result.
        DataError: the result or the weights are damaged, or the weights are gone.
        StorageError: the file system refuses.
    """
    if not paths.result.exists():
        return None
    remedy = f"remove {paths.result}, and the same command goes on from its checkpoint, or trains it again"
    try:
        result = read_result(paths.result)
    except NewerResultError:
        raise
    except DataError as exc:
        raise DataError(f"{exc}: {remedy}") from exc
    if (result.name, result.seed) != (name, seed):
        raise ConfigError(
            f"{paths.result} is of {result.name}, seed {result.seed}: move {paths.root} away, or give this training a "
            "name with run.name=NAME"
        )
    try:
        check_weights_files(paths, result, origin=f"{paths.root} is done", remedy=remedy)
    except NetworkError as exc:
        raise DataError(str(exc)) from exc
    return result
