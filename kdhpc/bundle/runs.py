"""Which run of ``kdhpc train`` is meant by a path that a user gives. Free of torch."""

from pathlib import Path

from kdhpc.config.paths import RunPaths, StudyPaths, final_root, runs_root
from kdhpc.errors import ConfigError
from kdhpc.final.found import seed_folders
from kdhpc.final.result import read_result

_RUN = "give a run that is done, runs/train/NAME/seed<k>"


def chosen_run(path: Path, seed: int | None) -> Path:
    """The folder of the run that is meant.

    Args:
        path: The folder of a run, or the folder of a training with one or more seeds.
        seed: Which seed; None: the path says, or there is only one.

    Returns:
        The folder. Whether its run is done is for `open_finished` to say, unless a choice depends on it.

    Raises:
        ConfigError: there is no such folder, it is a study's, or several seeds may be meant.
        DataError: the result of a run whose seed is asked for cannot be read.
    """
    if not path.is_dir():
        raise ConfigError(f"{path} is {'a file' if path.exists() else 'no folder'}: {_RUN}{_meant(path)}")
    own = RunPaths(path)
    if own.result.is_file() or own.config.is_file():
        if seed is not None and own.result.is_file() and (found := read_result(own.result).seed) != seed:
            raise ConfigError(f"--seed {seed} is not allowed: {path} is the run of seed {found}; leave --seed out")
        return path
    seeds = {one.name.removeprefix("seed"): one for one in seed_folders(path)}
    if not seeds:
        raise ConfigError(f"{path} holds no run of `kdhpc train`: {_RUN}{_meant(path)}")
    if seed is not None:
        if str(seed) not in seeds:
            raise ConfigError(f"--seed {seed} is not allowed: {path} has {', '.join(sorted(seeds, key=int))}")
        return seeds[str(seed)]
    done = [one for one in seeds.values() if RunPaths(one).result.is_file()]
    if len(done) > 1:
        names = ", ".join(sorted((one.name.removeprefix("seed") for one in done), key=int))
        raise ConfigError(f"{path} has the seeds {names}: choose one with --seed, or name its folder")
    return done[0] if done else next(iter(seeds.values()))


def _meant(path: Path) -> str:
    """What may have been meant by a path that is no run's."""
    name = path.name
    trained = final_root() / name
    if name and trained.is_dir() and trained.resolve() != path.resolve():
        return f"; did you mean {_near(trained)}?"
    study = path if path.is_dir() else runs_root() / name
    if name and any(one.is_dir() for one in (StudyPaths(study).trial(0).parent, StudyPaths(study).launch("x").parent)):
        return f"; the graphs of study {name} are written by `kdhpc export-best --study {name}`"
    if len(path.parts) == 1:
        return "; the graphs of a search are written by `kdhpc export-best`"
    return ""


def _near(path: Path) -> Path:
    """The path as people write it: from the working folder, if it is below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
