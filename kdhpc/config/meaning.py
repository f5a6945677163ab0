"""Keys that mean something only beside a certain value of another key, such as milestones beside a schedule of steps.

Files of ``configs/`` may hold them all the same, since whoever chooses another schedule on the command line takes the
rest of a file as it is. Such a value is not looked at. But whoever asks for it by an override is told.
"""

from collections.abc import Mapping, Sequence

from kdhpc.errors import ConfigError

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
    for chooser, meant_for in _MEANT_FOR.items():
        group, _, name = chooser.partition(".")
        chosen: object = getattr(getattr(config, group, None), name, None)  # A training has no study.
        for key, choice in meant_for.items():
            if f"{group}.{key}" in given and choice not in (chosen if isinstance(chosen, tuple) else (chosen,)):
                shown = f"[{','.join(map(str, chosen))}]" if isinstance(chosen, tuple) else chosen
                raise ConfigError(
                    f"{group}.{key} has no meaning with {chooser}={shown}: leave it out, or choose {choice}"
                )
