"""Keys that mean something only beside a certain value of another key, such as milestones beside a schedule of steps.

Files of ``configs/`` may hold them all the same, since whoever chooses another schedule on the command line takes the
rest of a file as it is. Such a value is not looked at. But whoever asks for it by an override is told.

And values that can be used, but are hardly what somebody wants: those are only told, as trainings that have them go on.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence

from kdhpc.config.schema import RunConfig, SearchConfig, StudyConfig, TrainConfig, TrainingConfig
from kdhpc.errors import ConfigError

_LOG = logging.getLogger(__name__)
_MANY_NODES = 16

_MEANT_FOR: Mapping[str, Mapping[str, str]] = {
    "training.optimizer": {"momentum": "sgd", "nesterov": "sgd", "betas": "adamw", "eps": "adamw"},
    "training.schedule": {"milestones": "steps", "gamma": "steps", "min_learning_rate": "cosine"},
    "study.sampler": {"refine_best": "refine"},
    "dataset.augmentation": {
        "pad": "pad_crop",
        "padding_mode": "pad_crop",
        "scale": "resized_crop",
        "ratio": "resized_crop",
        "resize": "resized_crop",
    },
    "dataset.augmentations": {
        "rand_augment_num_ops": "RandAugment",
        "rand_augment_magnitude": "RandAugment",
        "random_erasing_p": "RandomErasing",
        "random_erasing_scale": "RandomErasing",
        "random_erasing_ratio": "RandomErasing",
    },
}
"""For each key that chooses: keys of its group, each with the choice that they are meant for."""


def refuse_meaningless(config: object, overrides: Sequence[str]) -> None:
    """Refuse overrides that nothing of a config looks at.

    Args:
        config: What was composed with them: a ``SearchConfig`` or a ``TrainConfig``.
        overrides: ``key=value``; others are left alone.

    Raises:
        ConfigError: the message names the key that decides.
    """
    given = [override.lstrip("+").partition("=")[0] for override in overrides]
    _refuse_negative_seeds(config, given)
    for chooser, meant_for in _MEANT_FOR.items():
        group, _, name = chooser.partition(".")
        chosen: object = getattr(getattr(config, group, None), name, None)  # A training has no study.
        for key, choice in meant_for.items():
            if f"{group}.{key}" in given and choice not in (chosen if isinstance(chosen, tuple) else (chosen,)):
                shown = f"[{','.join(map(str, chosen))}]" if isinstance(chosen, tuple) else chosen
                raise ConfigError(
                    f"{group}.{key} has no meaning with {chooser}={shown}: leave it out, or choose {choice}"
                )


def _refuse_negative_seeds(config: object, given: Sequence[str]) -> None:
    """A study that an older version has made with one goes on."""
    for key in ("study.seed", "dataset.split_seed"):
        group, _, name = key.partition(".")
        if key in given and (value := getattr(getattr(config, group), name)) < 0:
            raise ConfigError(f"{key}={value} is not allowed: 0 or more")


def warn_of_doubtful(config: SearchConfig | TrainConfig) -> None:
    """Log what a config asks for and hardly means."""
    for said in doubts(config):
        _LOG.warning(said)


def doubts(config: SearchConfig | TrainConfig) -> Iterator[str]:
    """What a config asks for and hardly means, each as a sentence for people."""
    yield from _unreachable_milestones(config.training)
    if isinstance(config, SearchConfig):
        yield from _many_nodes("study.num_nodes", config.study.num_nodes)
        yield from _idle_sampler(config.study)
        yield from _idle_pruner(config.study, config.training.epochs)
    else:
        yield from _many_nodes("run.num_nodes", config.run.num_nodes or 1)
        yield from _nobody_to_learn_from(config.run)


def _many_nodes(key: str, num_nodes: int) -> Iterator[str]:
    if num_nodes > _MANY_NODES:
        yield (
            f"{key}={num_nodes}: one device trains {num_nodes} networks at once, with up to "
            f"{num_nodes * (num_nodes - 1):,} losses between them at every step; the paper has 2 to 5"
        )


def _nobody_to_learn_from(run: RunConfig) -> Iterator[str]:
    if run.num_nodes == 1 and (run.graph == "dml" or run.graph.startswith("uniform:")):
        yield (
            f"{run.graph} with 1 node is independent: a single network has nobody to learn from; give --nodes 2 or more"
        )
    elif run.num_nodes == 1 and run.graph == "one":
        yield "one with 1 branch is a plain network: a branch learns from the others; give --nodes 2 or more"


def _idle_pruner(study: StudyConfig, epochs: int) -> Iterator[str]:
    first_rung = 1 << (study.prune_from - 1).bit_length()
    if study.pruner != "none" and study.prune_from > 1 and first_rung >= epochs:
        yield (
            f"study.prune_from={study.prune_from}: no trial ends early, as they end at epochs 1, 2, 4, ... before the "
            f"last one, training.epochs={epochs}; study.pruner=none says the same"
        )


def _unreachable_milestones(training: TrainingConfig) -> Iterator[str]:
    beyond = [milestone for milestone in training.milestones if milestone > training.epochs]
    if training.schedule != "steps" or not beyond:
        return
    never = "never falls" if len(beyond) == len(training.milestones) else "does not fall there"
    yield (
        f"training.milestones=[{','.join(map(str, training.milestones))}] has epochs after the last one, "
        f"training.epochs={training.epochs}: the learning rate {never}; fractions of the epochs always fit, as the "
        "paper's training.milestones=[0.5,0.75]"
    )


def _idle_sampler(study: StudyConfig) -> Iterator[str]:
    if study.population is not None and study.population >= study.trials:
        yield (
            f"study.population={study.population} are all of study.trials={study.trials}: random graphs alone are "
            f"tried, and not what study.sampler={study.sampler} makes of them; give a smaller one, or more trials"
        )
