"""What is done with an image before a network sees it, as a document and in words. Free of torch.

It repeats what kdhpc does when it scores a run: `kdhpc.data.decode` and `kdhpc.data.transform`.
"""

from kdhpc.config.schema import DatasetConfig
from kdhpc.final.model import ModelCard

_FORMAT, _VERSION = "kdhpc-preprocessing", 1


def preprocessing_document(config: DatasetConfig, card: ModelCard) -> dict[str, object]:
    """The steps from an image file to a network's input, as JSON values.

    Args:
        config: Of the run's data set.
        card: Of the run.
    """
    height, width, channels = card.image_shape
    mean, std = channel_values(config)
    side = config.image_size
    crop: dict[str, object] = {"kind": "centre_square", "side": side, "outside": config.padding_mode}
    if config.augmentation == "resized_crop":
        crop = {"kind": "centre_of_resized", "short_side": config.resize, "side": side}
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "mode": "L" if channels == 1 else "RGB",
        "stored": {"height": height, "width": width, "resampling": "bicubic"},
        "crop": crop,
        "divide_by": 255,
        "mean": list(mean),
        "std": list(std),
        "input": {"name": "images", "type": "float32", "shape": ["N", 3, side, side]},
        "steps": list(preprocessing_steps(config, card)),
    }


def channel_values(config: DatasetConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the three channels, by which images are normalised; 0 and 1 if they are not."""
    mean, std = ((*values,) * (3 // len(values)) for values in (config.mean or (0.0,), config.std or (1.0,)))
    return mean, std


def preprocessing_steps(config: DatasetConfig, card: ModelCard) -> tuple[str, ...]:
    """The same for people: one sentence or two for each step."""
    height, width, channels = card.image_shape
    colours = "grey (one channel, 8 bits)" if channels == 1 else "red, green and blue (8 bits each)"
    side = config.image_size
    if config.augmentation == "resized_crop":
        crop = (
            f"Of the original image, imagine its short side resized to {config.resize} pixels, and in the middle of "
            f"that a square of {side}x{side}. Map this square onto the {height}x{width} image, and resample it from "
            f"there to {side}x{side}, bilinear with antialiasing, without rounding to whole numbers."
        )
    elif (height, width) == (side, side):
        crop = f"The whole image is taken, {side}x{side}."
    else:
        outside = {"constant": "black (0)"}.get(
            config.padding_mode, f"filled by NumPy's padding `{config.padding_mode}`"
        )
        crop = f"Cut the middle square of {side}x{side} pixels. What lies outside the image is {outside}."
    normalise = "Divide by 255."
    if config.mean or config.std:
        normalise = "Divide by 255, subtract `mean`, and divide by `std`, channel by channel."
    repeat = " Repeat the one channel three times." if channels == 1 else ""
    return (
        f"Turn the image upright (EXIF orientation), put transparent images on white, and make it {colours}.",
        f"Resize it to {height}x{width} pixels (height x width), bicubic with antialiasing, as Pillow does, whatever "
        "its aspect ratio; an image of that size stays as it is.",
        crop,
        f"{normalise}{repeat} Order the result as float32 (3, {side}, {side}).",
    )
