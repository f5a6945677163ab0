from pathlib import Path

import numpy as np
import pytest
import torch

from kdhpc.config.schema import DatasetConfig
from kdhpc.data.batches import Batch, EvalBatches, TrainBatches
from kdhpc.data.packed import PackedDataset, PackedSplit
from kdhpc.data.prepare import PrepareRequest, prepare
from kdhpc.data.readers.folder import FolderReader
from kdhpc.data.store import DiskImages, ImageStore, ResidentImages, StreamedImages, store_images
from kdhpc.errors import ConfigError, DataError
from tests.data.trees import noise, silent, write_folder

_CPU = torch.device("cpu")


def _config(**fields: object) -> DatasetConfig:
    options = {
        "name": "pets",
        "image_size": 8,
        "augmentation": "pad_crop",
        "validation_fraction": 0.5,
        "pad": 2,
        **fields,
    }
    return DatasetConfig(**options)


def _split(num: int = 23) -> PackedSplit:
    """Images that tell which they are: all pixels of image i are i."""
    images = np.broadcast_to(np.arange(num, dtype=np.uint8)[:, None, None, None], (num, 8, 8, 3)).copy()
    return PackedSplit(
        images=images, labels=np.arange(num, dtype=np.int64) % 5, sizes=np.full((num, 2), 8, dtype=np.int32)
    )


def _train(batch_size: int = 4, split: PackedSplit | None = None, **fields: object) -> TrainBatches:
    indices = np.arange(1, 22, 2)
    return TrainBatches(split or _split(), indices, _config(**fields), batch_size=batch_size, device=_CPU)


def _numbers(batch: Batch) -> list[int]:
    return (batch.images[:, 0, 4, 4] * 255).round().int().tolist()


def test_train_batches_epoch_has_each_image_once_and_drops_the_rest() -> None:
    batches = _train()
    epoch = list(batches.epoch(0, 1))

    seen = [number for batch in epoch for number in _numbers(batch)]
    assert batches.num_images == 11
    assert len(epoch) == batches.steps_per_epoch == 2
    assert len(set(seen)) == 8
    assert set(seen) <= set(range(1, 22, 2))
    assert [label for batch in epoch for label in batch.labels.tolist()] == [number % 5 for number in seen]


def test_train_batches_depend_on_seed_and_epoch_alone() -> None:
    batches = _train()
    orders = {key: [_numbers(batch) for batch in batches.epoch(*key)] for key in ((0, 1), (0, 2), (1, 1))}

    assert len({str(order) for order in orders.values()}) == 3
    assert [_numbers(batch) for batch in _train().epoch(0, 2)] == orders[0, 2]


@pytest.mark.parametrize("augmentation", ["pad_crop", "resized_crop"])
@pytest.mark.parametrize("first_step", [1, 3, 5])
def test_train_batches_entered_in_mid_epoch_go_on_as_if_never_left(augmentation: str, first_step: int) -> None:
    split = PackedSplit(
        images=noise(0, 23, 10, 10, 3), labels=np.arange(23) % 5, sizes=np.full((23, 2), [30, 40], dtype=np.int32)
    )
    batches = _train(batch_size=2, split=split, augmentation=augmentation)

    whole, rest = list(batches.epoch(3, 7)), list(batches.epoch(3, 7, first_step))

    assert len(rest) == 5 - first_step
    for expected, found in zip(whole[first_step:], rest, strict=True):
        assert torch.equal(expected.images, found.images)
        assert torch.equal(expected.labels, found.labels)


def test_train_batches_crops_differ_between_epochs() -> None:
    split = PackedSplit(images=noise(1, 4, 8, 8, 3), labels=np.arange(4), sizes=np.full((4, 2), 8, dtype=np.int32))
    batches = TrainBatches(split, None, _config(), batch_size=4, device=_CPU)

    sums = [sorted(next(iter(batches.epoch(0, epoch))).images.sum(dim=(1, 2, 3)).tolist()) for epoch in (1, 2)]

    assert sums[0] != sums[1]


def test_train_batches_larger_than_the_half_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"training\.batch_size=12 is not allowed: only 11 images train"):
        _train(batch_size=12)


def test_eval_batches_have_every_image_once_in_order_each_time() -> None:
    indices = np.array([20, 3, 7, 8, 1])
    batches = EvalBatches(_split(), indices, _config(), batch_size=2, device=_CPU)

    for _ in range(2):
        found = list(batches)
        assert [len(batch.labels) for batch in found] == [2, 2, 1]
        assert [number for batch in found for number in _numbers(batch)] == indices.tolist()
        assert [label for batch in found for label in batch.labels.tolist()] == (indices % 5).tolist()
    assert batches.num_images == 5


def test_eval_batches_without_indices_have_the_whole_half() -> None:
    batches = EvalBatches(_split(), None, _config(), batch_size=100, device=_CPU)

    assert [_numbers(batch) for batch in batches] == [list(range(23))]


def test_eval_batches_of_nothing_are_refused() -> None:
    with pytest.raises(DataError, match="no image of pets is left to score"):
        EvalBatches(_split(), np.array([], dtype=np.int64), _config(), batch_size=2, device=_CPU)


def test_batches_of_a_prepared_data_set_are_what_networks_take(tmp_path: Path) -> None:
    source, folder = write_folder(tmp_path / "source", train=5), tmp_path / "pets"
    prepare(
        PrepareRequest(reader=FolderReader(), reader_name="folder", source=source, folder=folder, size=64), silent()
    )
    dataset = PackedDataset.open(folder)
    config = _config(image_size=48, resize=56, augmentation="resized_crop")

    train = TrainBatches(dataset.train, None, config, batch_size=5, device=_CPU, channels_last=True)
    test = EvalBatches(dataset.test, None, config, batch_size=3, device=_CPU)

    for batch in train.epoch(0, 1):
        assert batch.images.shape == (5, 3, 48, 48)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert [tuple(batch.images.shape) for batch in test] == [(3, 3, 48, 48), (1, 3, 48, 48)]


@pytest.mark.parametrize("device", [_CPU, torch.device("meta")])
def test_store_images_stay_on_disk_on_a_cpu_and_move_to_other_devices(device: torch.device) -> None:
    store = store_images(_split().images, np.arange(3), device)

    assert isinstance(store, DiskImages if device == _CPU else ResidentImages)


@pytest.mark.parametrize("kind", [DiskImages, ResidentImages, StreamedImages])
def test_stores_give_the_same_images_in_the_same_order(kind: type) -> None:
    images, indices = noise(2, 30, 6, 5, 3), np.array([4, 9, 2, 28, 17, 3, 11])
    positions = torch.tensor([6, 0, 0, 3, 5, 1, 2])
    store: ImageStore = kind(images, indices) if kind is DiskImages else kind(images, indices, _CPU)

    found = [store.gather(streamed) for streamed in store.stream(positions, 3)]

    assert [len(batch) for batch in found] == [3, 3, 1]
    assert torch.equal(torch.cat(found), torch.from_numpy(images[indices[positions.numpy()]]))
    assert found[0].dtype == torch.uint8


def test_streamed_images_can_be_left_early() -> None:
    stream = StreamedImages(noise(3, 30, 6, 5, 3), np.arange(30), _CPU).stream(torch.arange(30), 4)

    assert len(next(stream)) == 4
    stream.close()
    assert list(stream) == []


@pytest.mark.parametrize("half", ["train", "test"])
def test_batches_of_photographs_prepared_smaller_than_they_are_wanted_are_refused(tmp_path: Path, half: str) -> None:
    """They are 30 pixels wide and 21 to 30 high."""
    source = write_folder(tmp_path / "source")
    request = PrepareRequest(
        reader=FolderReader(), reader_name="folder", source=source, folder=tmp_path / "pets", size=16
    )
    prepare(request, silent())
    split = getattr(PackedDataset.open(tmp_path / "pets"), half)

    def make(image_size: int) -> TrainBatches | EvalBatches:
        config = _config(augmentation="resized_crop", image_size=image_size, resize=20)
        return (
            TrainBatches(split, None, config, batch_size=2, device=_CPU)
            if half == "train"
            else EvalBatches(split, None, config, batch_size=2, device=_CPU)
        )

    make(16)
    with pytest.raises(
        ConfigError,
        match=r"dataset\.image_size=17 .* pets was prepared at 16x16, .* --size 20 --force, or use 16 at most",
    ):
        make(17)


def test_batches_of_images_that_came_small_may_be_enlarged() -> None:
    assert _train(augmentation="resized_crop", image_size=16).image_size == 16
