"""Checks that a config fits its images. Free of torch, so that launching a search checks before workers start."""

from kdhpc.config.schema import DatasetConfig
from kdhpc.data.packed import PackedSplit
from kdhpc.errors import ConfigError


def check_image_size(config: DatasetConfig, stored: tuple[int, int]) -> None:
    """Refuse squares and borders that the stored images are too small for.

    Args:
        config: The augmentation.
        stored: Height and width of the stored images, in pixels.

    Raises:
        ConfigError: the message names both sizes.
    """
    largest = min(stored) + 2 * config.pad
    if config.augmentation == "pad_crop" and config.image_size > largest:
        height, width = stored
        raise ConfigError(
            f"dataset.image_size={config.image_size} is not allowed: the stored images of {config.name} are "
            f"{height}x{width}, with dataset.pad={config.pad} that gives at most {largest}"
        )
    furthest = min(stored) - (config.padding_mode == "reflect")
    if config.augmentation == "pad_crop" and config.padding_mode in ("reflect", "symmetric") and config.pad > furthest:
        raise ConfigError(
            f"dataset.pad={config.pad} is not allowed: dataset.padding_mode={config.padding_mode} mirrors an image "
            f"once, those of {config.name} are {stored[0]}x{stored[1]}: at most {furthest}"
        )


def doubt_normalisation(config: DatasetConfig, channels: int) -> str | None:
    """That grey images are given the means of colours; None: they are not.

    The three equal channels that networks see would differ by no more than an offset and a factor.
    """
    if channels != 1 or config.mean is None or len(set(zip(config.mean, config.std or (), strict=False))) == 1:
        return None
    return (
        f"dataset.mean={list(config.mean)} is of colour images, those of {config.name} are grey: give one number, as "
        "dataset.mean=[0.3] dataset.std=[0.3], or null for both"
    )


def check_resolution(config: DatasetConfig, split: PackedSplit) -> None:
    """Refuse photographs that were stored smaller than ``image_size`` although their originals were larger.

    Originals that are that small may be enlarged.

    Raises:
        ConfigError: the message names both sizes.
    """
    height, width = split.images.shape[1:3]
    stored, came = min(height, width), split.sizes.min(axis=1).max()
    if config.augmentation == "resized_crop" and stored < min(config.image_size, came):
        raise ConfigError(
            f"dataset.image_size={config.image_size} is not allowed: {config.name} was prepared at {height}x{width}, "
            f"from larger images; prepare it again with --size {config.resize} --force, or use {stored} at most"
        )


def check_batch_size(batch_size: int, num_images: int) -> None:
    """Refuse a batch size that is larger than the number of training images.

    Raises:
        ConfigError: the message names both numbers.
    """
    if batch_size > num_images:
        raise ConfigError(
            f"training.batch_size={batch_size} is not allowed: only {num_images:,} images train, "
            "allowed are 1 to that many"
        )
