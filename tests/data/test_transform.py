import numpy as np
import pytest
import torch

from kdhpc.config.schema import DatasetConfig
from kdhpc.data.transform import Transform, undo_normalisation


@pytest.mark.parametrize(
    "values", [{}, {"mean": (0.5,), "std": (0.25,)}, {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.1)}]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_undo_normalisation_gives_the_stored_pixels(values: dict, channels: int) -> None:
    config = DatasetConfig(name="x", image_size=8, augmentation="pad_crop", validation_fraction=0.5, **values)
    stored = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 8, 8, channels), dtype=np.uint8))
    transform = Transform(config, (8, 8), device=torch.device("cpu"), channels_last=False)
    images = transform(stored, transform.centre(torch.full((5, 2), 8)))
    shown = undo_normalisation(images, config) * 255
    assert shown.permute(0, 2, 3, 1).numpy() == pytest.approx(stored.expand(5, 8, 8, 3).numpy().astype(float), abs=1e-3)
