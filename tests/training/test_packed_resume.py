"""Bit-exact resume with the real data room: augmentation included."""

from dataclasses import replace

import numpy as np
import pytest

from kdhpc.config.schema import DatasetConfig
from kdhpc.data.batches import EvalBatches, TrainBatches
from kdhpc.data.packed import PackedSplit
from kdhpc.methods.graph import GraphMethod
from kdhpc.training.checkpoint import CheckpointKey, load_checkpoint, save_checkpoint
from kdhpc.training.loop import TrainingLoop
from tests.training.memory_source import (
    ATTENTION_BRANCH,
    CPU,
    NETWORK,
    NUM_CLASSES,
    runtime_of,
    setting_of,
    training_config,
)
from tests.training.test_loop import GRAPH, StopAfter, assert_same_state, never, without_time

KEY = CheckpointKey(study="s", number=0, graph_key="0" * 12, seed=3, settings="0" * 16)


def packed_split(*, side, num_images=20):
    rng = np.random.default_rng(0)
    return PackedSplit(
        images=rng.integers(0, 256, (num_images, side, side, 3), dtype=np.uint8),
        labels=np.arange(num_images) % NUM_CLASSES,
        sizes=np.full((num_images, 2), side, dtype=np.int32),
    )


def training_of(
    augmentation, programs=None, *, device=CPU, seed=3, epochs=2, network=NETWORK, auto=None, recipe=None, **images
):
    common = {"name": "noise", "image_size": 12, "validation_fraction": 0.5, "pad": 2, "resize": 14}
    config = DatasetConfig(**common, augmentation=augmentation, **images)
    split = packed_split(side=12 if augmentation == "pad_crop" else 16)
    runtime = runtime_of(device, programs=programs, auto=auto)
    options = {"device": runtime.device, "channels_last": runtime.channels_last}
    setting = setting_of(
        network=network,
        training=training_config(epochs=epochs, **recipe or {}),
        runtime=runtime,
        train=TrainBatches(split, None, config, batch_size=4, **options),
        evaluation=EvalBatches(split, None, config, batch_size=8, **options),
    )
    return TrainingLoop(GraphMethod(graph=GRAPH), setting, seed)


@pytest.mark.parametrize("augmentation", ["pad_crop", "resized_crop"])
@pytest.mark.parametrize(
    ("network", "options"),
    [
        (NETWORK, {}),
        (NETWORK, {"precision": "bf16"}),
        (NETWORK, {"channels_last": True}),
        (ATTENTION_BRANCH, {}),
        (ATTENTION_BRANCH, {"channels_last": True}),
    ],
)
def test_epochs_of_packed_images_stopped_and_resumed_from_a_file_end_in_the_same_bits(
    augmentation, network, options, tmp_path
):
    assert_resumes(tmp_path / "checkpoint.pt", augmentation, device=replace(CPU, **options), network=network)


ADAMW = {"optimizer": "adamw", "learning_rate": 1e-3, "schedule": "cosine", "warmup_epochs": 1, "label_smoothing": 0.1}


@pytest.mark.parametrize(
    ("augmentation", "recipe", "images"),
    [
        ("pad_crop", ADAMW, {"augmentations": ("RandAugment", "RandomErasing"), "padding_mode": "reflect"}),
        ("resized_crop", ADAMW, {"augmentations": ("TrivialAugmentWide",)}),
        ("pad_crop", {"nesterov": True, "schedule": "cosine"}, {"augmentations": ("RandomErasing",)}),
    ],
)
def test_epochs_of_a_recipe_stopped_and_resumed_from_a_file_end_in_the_same_bits(
    augmentation, recipe, images, tmp_path
):
    assert_resumes(tmp_path / "checkpoint.pt", augmentation, recipe=recipe, **images)


def assert_resumes(path, augmentation, **options):
    """Every three steps from its checkpoint, as if it had never stopped."""
    whole = training_of(augmentation, **options)
    expected = list(whole.epochs(never))
    reports = []
    while True:
        training = training_of(augmentation, **options)
        if path.exists():
            training.restore(load_checkpoint(path, KEY))
        reports += training.epochs(StopAfter(3))
        if training.finished:
            break
        save_checkpoint(path, training.state(), KEY)
    assert without_time(reports) == without_time(expected)
    assert_same_state(training.state(), whole.state())
