import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdhpc.data.packed import PackedDataset, check_content
from kdhpc.data.prepare import Order, Outcome, prepare
from kdhpc.data.progress import Progress
from kdhpc.data.readers.cub200 import Cub200Reader
from kdhpc.data.readers.fashion_mnist import FashionMnistReader
from kdhpc.data.readers.folder import FolderReader
from kdhpc.data.readers.source import Counts, Reader
from kdhpc.data.readers.stanford_cars import StanfordCarsReader
from kdhpc.data.readers.stanford_dogs import StanfordDogsReader
from kdhpc.errors import DataError, UsageError
from tests.data.trees import (
    noise,
    silent,
    write_cars_halves,
    write_cars_together,
    write_cub,
    write_dogs,
    write_dogs_list,
    write_fashion_mnist,
    write_folder,
    write_jpeg,
    write_tar,
)

_ROOT = Path(__file__).parents[2]
_SMALL = Counts(classes=2, train=3, test=2)


def _pack(
    source: Path,
    folder: Path,
    *,
    reader: Reader | None = None,
    size: int | None = 16,
    num_jobs: int = 1,
    skip_broken: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    order = Order(
        reader=reader or FolderReader(),
        reader_name="folder" if reader is None else type(reader).__name__,
        source=source,
        folder=folder,
        size=size,
        num_jobs=num_jobs,
        skip_broken=skip_broken,
        force=force,
    )
    return prepare(order, progress or silent())


@pytest.mark.parametrize(
    ("reader", "write"),
    [
        (StanfordDogsReader(expected=_SMALL), write_dogs),
        (StanfordCarsReader(expected=_SMALL), write_cars_halves),
        (StanfordCarsReader(expected=_SMALL), write_cars_together),
        (Cub200Reader(expected=_SMALL), write_cub),
    ],
)
def test_prepare_fine_grained_sets_keep_labels_and_original_sizes(
    tmp_path: Path, reader: Reader, write: object
) -> None:
    source = write(tmp_path / "source")

    outcome = _pack(source, tmp_path / "data" / "small", reader=reader)

    dataset = PackedDataset.open(tmp_path / "data" / "small")
    assert outcome.made
    assert dataset.train.images.shape == (3, 16, 16, 3)
    assert sorted(dataset.test.labels.tolist()) == [0, 1]
    assert dataset.train.sizes.tolist() == [[20, 30]] * 3
    assert dataset.manifest.resized


def test_prepare_wrong_counts_are_refused_with_both(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has 3 training and 2 test images in 2 classes, but the official .* 12,000"):
        _pack(write_dogs(tmp_path / "source"), tmp_path / "data" / "dogs", reader=StanfordDogsReader())

    assert list((tmp_path / "data").iterdir()) == []


def test_prepare_image_in_both_halves_is_refused(tmp_path: Path) -> None:
    source = write_dogs(tmp_path / "source")
    write_dogs_list(source / "lists" / "test_list.mat", [("n01-Chihuahua/n01_1.jpg", 1), ("n02-Whippet/n02_2.jpg", 2)])

    with pytest.raises(DataError, match=r"1 images in both training and test: .*n01_1\.jpg"):
        _pack(source, tmp_path / "dogs", reader=StanfordDogsReader(expected=_SMALL))


def test_prepare_pixels_are_those_of_the_files_in_order(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", train=3, test=1)

    _pack(source, tmp_path / "pets")

    dataset = PackedDataset.open(tmp_path / "pets")
    with Image.open(source / "train" / "dog" / "1.jpg") as image:
        expected = np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC))
        size = [image.height, image.width]
    assert (dataset.train.images[4] == expected).all()
    assert dataset.train.sizes[4].tolist() == size
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_prepare_images_of_one_small_size_stay_as_they_are(tmp_path: Path) -> None:
    for half in ("train", "test"):
        for seed, name in enumerate(("a", "b")):
            path = tmp_path / "source" / half / name / "x.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(noise(seed + 10 * len(half), 12, 9)).save(path)

    manifest = _pack(tmp_path / "source", tmp_path / "grey", size=None).manifest

    assert manifest.image_shape == (12, 9, 1)
    assert not manifest.resized
    assert (PackedDataset.open(tmp_path / "grey").train.images[1, ..., 0] == noise(51, 12, 9)).all()


def test_prepare_images_of_many_sizes_are_resized_to_256_unless_told(tmp_path: Path) -> None:
    manifest = _pack(write_folder(tmp_path / "source"), tmp_path / "pets", size=None).manifest

    assert manifest.image_shape == (256, 256, 3)


def test_prepare_decoded_arrays_are_stored_as_they_are(tmp_path: Path) -> None:
    images, labels = write_fashion_mnist(tmp_path / "raw")
    reader = FashionMnistReader(expected=Counts(classes=10, train=20, test=10))

    manifest = _pack(tmp_path / "raw", tmp_path / "fashion", reader=reader, size=None).manifest

    dataset = PackedDataset.open(tmp_path / "fashion")
    assert manifest.image_shape == (28, 28, 1)
    assert (dataset.train.images[..., 0] == images[:20]).all()
    assert dataset.test.labels.tolist() == labels[20:].tolist()
    assert dataset.test.sizes.tolist() == [[28, 28]] * 10
    assert check_content(tmp_path / "fashion", silent()) == manifest


def test_prepare_size_for_decoded_arrays_is_refused(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path / "raw")
    reader = FashionMnistReader(expected=Counts(classes=10, train=20, test=10))

    with pytest.raises(UsageError, match=r"--size 64 is not allowed: .* 28x28"):
        _pack(tmp_path / "raw", tmp_path / "fashion", reader=reader, size=64)


def test_prepare_twice_says_so_and_touches_nothing(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source")
    first = _pack(source, tmp_path / "pets")
    written = (tmp_path / "pets" / "manifest.json").stat().st_mtime_ns
    shutil.rmtree(source)

    again = _pack(source, tmp_path / "pets")

    assert not again.made
    assert again.manifest == first.manifest
    assert (tmp_path / "pets" / "manifest.json").stat().st_mtime_ns == written
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pets"]


def test_prepare_over_something_different_needs_force(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source")
    _pack(source, tmp_path / "pets", size=16)

    with pytest.raises(DataError, match=r"prepared already, by reader 'folder' at 16x16: --force replaces it"):
        _pack(source, tmp_path / "pets", size=24)

    assert _pack(source, tmp_path / "pets", size=24, force=True).made
    assert PackedDataset.open(tmp_path / "pets").train.images.shape[1] == 24
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pets", "source"]


def test_prepare_of_another_source_under_one_name_names_both(tmp_path: Path) -> None:
    """Even where names and lengths of all files are the same."""
    one, other = (write_folder(tmp_path / place / "pets") for place in ("a", "b"))
    _pack(one, tmp_path / "data" / "pets")

    for gone in (False, True):
        if gone:
            shutil.rmtree(one)
        with pytest.raises(DataError, match=rf"prepared already, from {one} and not from {other}: --force replaces it"):
            _pack(other, tmp_path / "data" / "pets")

    assert _pack(other, tmp_path / "data" / "pets", force=True).made
    assert not _pack(other, tmp_path / "data" / "pets").made


@pytest.mark.parametrize("change", ["added", "removed", "replaced", "renamed"])
def test_prepare_of_a_source_that_has_changed_says_so(tmp_path: Path, change: str) -> None:
    source = write_folder(tmp_path / "pets")
    _pack(source, tmp_path / "data" / "pets")
    image = source / "train" / "cat" / "1.jpg"
    if change == "added":
        write_jpeg(image.with_name("new.jpg"), 0)
    elif change == "removed":
        image.unlink()
    elif change == "replaced":
        write_jpeg(image, 99, height=70)
    else:
        image.rename(image.with_name("other.jpg"))

    with pytest.raises(DataError, match=rf"from {source}, which holds other files now: --force"):
        _pack(source, tmp_path / "data" / "pets")


def test_prepare_does_not_count_hidden_files_links_to_nowhere_and_what_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data sets lie in the source, which is named by another path the second time."""
    source = write_folder(tmp_path / "pets")
    (source / "lost.txt").symlink_to("nowhere")
    assert _pack(source, source / "data" / "pets").made

    (source / ".DS_Store").touch()
    (source / ".cache").mkdir()
    (source / ".cache" / "x").touch()
    monkeypatch.chdir(source)
    assert not _pack(Path("../pets"), source / "data" / "pets").made


def test_prepare_of_an_archive_is_known_by_its_length(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "CUB_200_2011.tgz", write_cub(tmp_path / "made"), "CUB_200_2011")
    reader = Cub200Reader(expected=_SMALL)
    _pack(archive, tmp_path / "birds", reader=reader)
    assert not _pack(archive, tmp_path / "birds", reader=reader).made

    archive.write_bytes(archive.read_bytes() + b"\0")
    with pytest.raises(DataError, match="which holds other files now"):
        _pack(archive, tmp_path / "birds", reader=reader)


def test_prepare_finds_what_was_made_before_sources_were_written_down(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "pets")
    _pack(source, tmp_path / "data" / "pets")
    path = tmp_path / "data" / "pets" / "manifest.json"
    document = json.loads(path.read_text())
    del document["origin"]
    path.write_text(json.dumps(document))

    assert not _pack(write_folder(tmp_path / "b" / "pets"), tmp_path / "data" / "pets").made
    assert PackedDataset.open(tmp_path / "data" / "pets").manifest.origin is None


@pytest.mark.parametrize("force", [False, True])
def test_prepare_never_replaces_a_folder_that_it_did_not_make(tmp_path: Path, force: bool) -> None:
    source = write_folder(tmp_path / "pets")

    with pytest.raises(DataError, match="exists and is not a packed data set: choose another --name"):
        _pack(source, tmp_path / "pets", force=force)

    assert (source / "train" / "cat" / "0.jpg").exists()


def test_prepare_over_a_damaged_set_says_force_and_force_repairs(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source")
    _pack(source, tmp_path / "pets")
    (tmp_path / "pets" / "train" / "images.npy").write_bytes(b"")

    with pytest.raises(DataError, match=r"has 0 bytes, should have .* --force"):
        _pack(source, tmp_path / "pets")
    _pack(source, tmp_path / "pets", force=True)

    check_content(tmp_path / "pets", silent())


def _break_two(source: Path) -> None:
    for name in ("train/cat/1.jpg", "test/dog/0.jpg"):
        path = source / name
        path.write_bytes(path.read_bytes()[:-100])


def test_prepare_broken_images_are_all_named_and_nothing_opens(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source")
    _break_two(source)

    with pytest.raises(DataError, match=r"2 of 10: train/cat/1\.jpg \(.*truncated.*test/dog/0\.jpg \(.*--skip-broken"):
        _pack(source, tmp_path / "pets")

    assert not (tmp_path / "pets").exists()


def test_prepare_broken_images_are_left_out_on_request_and_listed(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source")
    _break_two(source)

    manifest = _pack(source, tmp_path / "pets", skip_broken=True).manifest

    assert [(image.half, image.name) for image in manifest.skipped] == [
        ("train", "train/cat/1.jpg"),
        ("test", "test/dog/0.jpg"),
    ]
    assert (manifest.train, manifest.test) == (5, 3)
    dataset = PackedDataset.open(tmp_path / "pets")
    assert dataset.train.labels.tolist() == [0, 0, 1, 1, 1]
    assert dataset.train.sizes[1].tolist() == [23, 30]


def test_prepare_class_left_without_images_is_named(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", test=1)
    _break_two(source)

    with pytest.raises(DataError, match="has no test image of 1 of 2 classes: dog"):
        _pack(source, tmp_path / "pets", skip_broken=True)


def test_prepare_repaired_image_is_decoded_again(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source")
    _break_two(source)
    with pytest.raises(DataError):
        _pack(source, tmp_path / "pets")
    for name in ("train/cat/1.jpg", "test/dog/0.jpg"):
        write_jpeg(source / name, 77)

    assert _pack(source, tmp_path / "pets").manifest.skipped == ()


def test_prepare_jobs_give_the_same_bytes(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", train=70, test=5)

    manifests = [_pack(source, tmp_path / f"pets{jobs}", num_jobs=jobs).manifest for jobs in (1, 2)]

    assert manifests[0].files == manifests[1].files
    assert manifests[0].checksum == manifests[1].checksum


@pytest.mark.parametrize("options", [{"size": 0}, {"num_jobs": 0}])
def test_prepare_numbers_below_one_are_refused(tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="0 is not allowed: 1 or more"):
        _pack(tmp_path, tmp_path / "pets", **options)


_PREPARE_ALONE = """
import sys
from pathlib import Path
from kdhpc.data.prepare import Order, prepare
from kdhpc.data.progress import Progress
from kdhpc.data.readers.folder import FolderReader
if __name__ == "__main__":
    source, folder = map(Path, sys.argv[1:])
    order = Order(reader=FolderReader(), reader_name="folder", source=source, folder=folder, size=200, num_jobs=2)
    prepare(order, Progress(sys.stderr))
"""


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.005)


def test_prepare_killed_leaves_nothing_that_opens_and_goes_on(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", train=1, test=1)
    photograph = write_jpeg(tmp_path / "photograph.jpg", 0, height=480, width=360).read_bytes()
    for index in range(640):
        (source / "train" / ("cat", "dog")[index % 2] / f"{index + 10}.jpg").write_bytes(photograph)
    (tmp_path / "alone.py").write_text(_PREPARE_ALONE)
    folder, parts = tmp_path / "pets", tmp_path / ".pets.partial" / "parts"
    process = subprocess.Popen(
        [sys.executable, tmp_path / "alone.py", source, folder],
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        stderr=subprocess.DEVNULL,
    )

    _wait_for(lambda: list(parts.glob("*.npz")))
    workers = _children(process.pid)
    with pytest.raises(DataError, match="another process prepares"):
        _pack(source, folder, size=200)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _wait_for(lambda: not any(map(_runs, workers)))
    finished = len(list(parts.glob("*.npz")))
    with pytest.raises(DataError, match="not prepared"):
        PackedDataset.open(folder)
    told = io.StringIO()
    manifest = _pack(source, folder, size=200, progress=Progress(told)).manifest

    assert len(workers) >= 2, "two decoding processes, and perhaps the tracker of shared resources"
    assert 0 < finished < 6
    assert "going on where an earlier run stopped" in told.getvalue()
    assert manifest.train == 642
    assert check_content(folder, silent()).files == manifest.files
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["pets", "source"]


def test_prepare_damaged_part_is_made_again_by_the_next_run(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source")
    _break_two(source)
    with pytest.raises(DataError, match="cannot be decoded"):
        _pack(source, tmp_path / "pets")
    part = next((tmp_path / ".pets.partial" / "parts").glob("train-*.npz"))
    part.write_bytes(part.read_bytes()[:100])

    with pytest.raises(DataError, match=r"was damaged .* and is removed: run the same command again"):
        _pack(source, tmp_path / "pets", skip_broken=True)

    assert _pack(source, tmp_path / "pets", skip_broken=True).manifest.train == 5


def test_prepare_manifest_is_json_that_says_what_is_there(tmp_path: Path) -> None:
    _pack(write_folder(tmp_path / "source"), tmp_path / "pets")

    manifest = json.loads((tmp_path / "pets" / "manifest.json").read_text())

    assert manifest["image_shape"] == [16, 16, 3]
    assert manifest["classes"] == ["cat", "dog"]
    assert (manifest["train"], manifest["test"]) == (6, 4)
    assert {record["path"]: record["bytes"] for record in manifest["files"]} == {
        str(path.relative_to(tmp_path / "pets")): path.stat().st_size for path in (tmp_path / "pets").glob("*/*.npy")
    }
