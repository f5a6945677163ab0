"""``kdhpc train --dry-run``: what would be trained, in words."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdhpc.errors import ConfigError
from kdhpc.words import counted

if TYPE_CHECKING:
    from kdhpc.config.schema import TrainConfig
    from kdhpc.final.preview import Preview

_PLAIN = ("dataset", "network", "run.graph", "run.num_nodes", "run.teacher", "run.teacher_node")
"""Overrides without which there is no training: what the others are compared with."""


def show_previews(
    configs: "Sequence[TrainConfig]", choices: Sequence[Sequence[str]], *, launcher: str, config_dir: Path | None
) -> None:
    """Check all trainings, and print what would be done.

    Args:
        configs: One for each training.
        choices: The overrides that each was composed with.
        launcher: As ``--launcher``.
        config_dir: The user's own configs.

    Raises:
        KdhpcError: training would say this, too.
    """
    from kdhpc.final.preview import preview_trainings, refuse_missing_images

    previews = preview_trainings(configs, elsewhere=launcher == "submitit_slurm")
    by_name: dict[str, list[tuple[Preview, Sequence[str]]]] = {}
    for preview, choice in zip(previews, choices, strict=True):
        by_name.setdefault(preview.name, []).append((preview, choice))
    blocks = ["\n".join(_block(seeds, config_dir)) for seeds in by_name.values()]
    print("\n\n".join([*blocks, _ending(previews, launcher)]))
    refuse_missing_images(previews)


def _block(seeds: "Sequence[tuple[Preview, Sequence[str]]]", config_dir: Path | None) -> list[str]:
    """One training, with all its seeds."""
    preview, choice = seeds[0]
    config, training = preview.config, preview.config.training
    nodes = counted(preview.method.num_nodes, "node")
    rate = f"{training.optimizer}, learning rate {training.learning_rate:g}, schedule {training.schedule}"
    return [
        preview.name,
        f"  graph     {config.run.graph}, {nodes}",
        f"  network   {', '.join(config.network.nodes) or config.network.name}",
        *_images(preview),
        f"  training  {_steps(preview)}",
        f"            {rate}",
        *_changes(preview, choice, config_dir),
        f"  {'seed' if len(seeds) == 1 else 'seeds':<8}  {', '.join(str(each.config.run.seed) for each, _ in seeds)}",
        *(f"  folder    {each.paths.root} {each.done_so_far()}" for each, _ in seeds),
    ]


def _images(preview: "Preview") -> list[str]:
    dataset, images = preview.config.dataset, preview.images
    seen = f"seen {dataset.image_size}x{dataset.image_size}"
    if images is None:
        return [f"  images    {dataset.name}: not prepared here; {seen}"]
    scoring = f"{images.num_scored:,} {images.scored_on} images score"
    return [
        f"  images    {dataset.name}: {images.num_training:,} train, {scoring}",
        f"            {images.num_classes:,} classes; stored {'x'.join(map(str, images.shape))}, {seen}",
    ]


def _steps(preview: "Preview") -> str:
    training, per_epoch = preview.config.training, preview.steps_per_epoch
    epochs = counted(training.epochs, "epoch")
    if per_epoch is None:
        return f"{epochs}, {training.batch_size} images a step"
    return (
        f"{epochs} of {per_epoch:,} steps, {per_epoch * training.epochs:,} in all; {training.batch_size} images a step"
    )


def _changes(preview: "Preview", choice: Sequence[str], config_dir: Path | None) -> list[str]:
    """What was asked for beside data set, network and graph."""
    from kdhpc.config.compose import compose_train
    from kdhpc.final.preview import changed_settings

    try:
        plain = compose_train([word for word in choice if _key(word) in _PLAIN], config_dir=config_dir)
    except ConfigError:  # A data set that has no config of its own needs further keys.
        rows = [word for word in choice if _key(word) not in (*_PLAIN, "run.seed")]
    else:
        rows = [
            f"{key}={_shown(to)} (else {_shown(of)})"
            for key, (to, of) in changed_settings(preview.config, plain).items()
        ]
    return [f"  {'settings' if not at else '':<8}  {row}" for at, row in enumerate(rows)] or [
        "  settings  the defaults"
    ]


def _key(override: str) -> str:
    return override.lstrip("+").partition("=")[0]


def _shown(value: object) -> str:
    """As an override writes it."""
    if isinstance(value, list):
        return f"[{','.join(map(_shown, value))}]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value)


def _ending(previews: "Sequence[Preview]", launcher: str) -> str:
    number = len(previews)
    what = counted(number, "training")
    where = {
        "none": "here, one after the other" if number > 1 else "here",
        "submitit_local": "as jobs on this machine",
        "submitit_slurm": "as jobs of Slurm",
    }[launcher]
    return f"{what}, {where}; nothing was trained (--dry-run)"
