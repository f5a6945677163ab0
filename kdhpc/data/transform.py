"""What a config asks for: how crops are drawn for training and testing, and what is made of them."""

import torch
from torch import Tensor

from kdhpc.config.schema import DatasetConfig
from kdhpc.data.augment import cut, normalise, resample
from kdhpc.data.crops import Crops, centre_resized, centre_squares, draw_resized, draw_shifts
from kdhpc.data.fitting import check_image_size
from kdhpc.data.policies import Policies

_CPU_BLOCK = 4
"""Images resized at once on a CPU, so that what lies between stays in its cache; 256 at once are four times slower."""


class Transform:
    """Stored images to what networks take.

    Args:
        config: the augmentation.
        stored: height and width of the stored images, in pixels.
        device: where the images will be.
        channels_last: memory format of the result.

    Raises:
        ConfigError: the config does not fit the stored images.
    """

    def __init__(
        self, config: DatasetConfig, stored: tuple[int, int], *, device: torch.device, channels_last: bool
    ) -> None:
        check_image_size(config, stored)
        self._config = config
        self._stored = stored
        self._channels_last = channels_last
        self._policies = Policies(config)
        mean, std = _normalisation(config)
        self._scale = (1 / (255 * std)).float().reshape(3, 1, 1).to(device)
        self._shift = (-mean / std).float().reshape(3, 1, 1).to(device)

    def draw(self, sizes: Tensor, generator: torch.Generator) -> Crops:
        """Random crops for training.

        Args:
            sizes: (N, 2), original heights and widths.
            generator: on the CPU.
        """
        config = self._config
        if config.augmentation == "pad_crop":
            return draw_shifts(len(sizes), self._stored, config.image_size, config.pad, config.flip, generator)
        return draw_resized(sizes, self._stored, config.scale, config.ratio, config.flip, generator)

    def draw_changes(self, num: int, generator: torch.Generator) -> Tensor:
        """What the further augmentations do to images for training.

        Args:
            num: N.
            generator: on the CPU; another one than that of the crops, which then are the same without them.

        Returns:
            float32 (N, P): P numbers an image, none where the config names no augmentations.
        """
        return self._policies.draw(num, generator)

    def centre(self, sizes: Tensor) -> Crops:
        """The same crops at every call, for testing.

        Args:
            sizes: (N, 2), original heights and widths.
        """
        config = self._config
        if config.augmentation == "pad_crop":
            return centre_squares(len(sizes), self._stored, config.image_size)
        return centre_resized(sizes, self._stored, config.resize, config.image_size)

    def __call__(self, images: Tensor, crops: Crops, changes: Tensor | None = None) -> Tensor:
        """Cuts, resizes, changes and normalises on the device of all.

        Args:
            images: uint8 (N, H, W, C).
            crops: one an image.
            changes: (N, P), see `draw_changes`; None: no changes, for testing.

        Returns:
            float32 (N, 3, S, S).
        """
        if self._config.augmentation == "pad_crop" or images.device.type != "cpu":
            return self._whole(images, crops, changes)
        side = self._config.image_size
        result = torch.empty((len(images), 3, side, side), memory_format=_format(self._channels_last))
        for start in range(0, len(images), _CPU_BLOCK):
            end = start + _CPU_BLOCK
            part = None if changes is None else changes[start:end]
            result[start:end] = self._whole(images[start:end], crops.part(start, end), part)
        return result

    def _whole(self, images: Tensor, crops: Crops, changes: Tensor | None) -> Tensor:
        config = self._config
        if config.augmentation == "pad_crop":
            pixels = cut(images, crops, config.image_size, config.pad, config.padding_mode)
        else:
            pixels = resample(images, crops, config.image_size)
        if changes is not None and self._policies.operates:
            planes = (pixels.round() if pixels.is_floating_point() else pixels).to(torch.uint8).permute(0, 3, 1, 2)
            pixels = self._policies.operate(planes, changes).permute(0, 2, 3, 1)
        result = normalise(pixels, self._scale, self._shift, _format(self._channels_last))
        return result if changes is None else self._policies.erase(result, changes)


def undo_normalisation(images: Tensor, config: DatasetConfig) -> Tensor:
    """Images as people see them.

    Args:
        images: float32 (N, 3, S, S), as networks take them.
        config: what they were made with.

    Returns:
        float32 (N, 3, S, S), 0 to 1.
    """
    mean, std = (values.float().reshape(3, 1, 1).to(images.device) for values in _normalisation(config))
    return (images * std + mean).clamp(0, 1)


def _normalisation(config: DatasetConfig) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the channels, float64 (3,) each."""
    mean = torch.tensor(config.mean or (0.0,), dtype=torch.float64).expand(3)
    std = torch.tensor(config.std or (1.0,), dtype=torch.float64).expand(3)
    return mean, std


def _format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format
