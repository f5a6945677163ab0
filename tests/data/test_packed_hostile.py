"""A packed data set that is something else ends in one line, in time that grows with its length alone."""

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from kdhpc.data.packed import PackedDataset, prepared_names, read_manifest
from kdhpc.errors import DataError
from tests.data.made import pack
from tests.data.trees import write_folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    pack(write_folder(folder / "source"), folder / "pets")
    return folder / "pets"


@pytest.fixture
def pets(made: Path, tmp_path: Path) -> Path:
    """A packed data set of six training and four test images, 16x16."""
    shutil.copytree(made, tmp_path / "data" / "pets")
    return tmp_path / "data" / "pets"


def _refused(pets: Path, told: str) -> None:
    with pytest.raises(DataError, match=told) as caught:
        PackedDataset.open(pets)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 800


def _deep(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize("depth", [300, 900, 2000, 100_000])
@pytest.mark.parametrize("key", ["", "classes", "reader", "origin", "skipped", "version", "altered"])
def test_packed_manifest_that_is_deep_is_one_line(pets: Path, key: str, depth: int) -> None:
    path = pets / "manifest.json"
    document = json.loads(path.read_text())
    document[key] = "DEEP"
    path.write_text(_deep(depth) if not key else json.dumps(document).replace('"DEEP"', _deep(depth)))
    _refused(pets, r"manifest\.json (is damaged|is not|has version)")


def test_packed_manifest_that_is_long_is_read_in_time_that_grows_with_its_length(pets: Path) -> None:
    path = pets / "manifest.json"
    document = json.loads(path.read_text())
    times = []
    for num in (5_000, 40_000):
        document["classes"] = [f"class {number}" for number in range(num)]
        path.write_text(json.dumps(document))
        begin = time.process_time()
        assert len(read_manifest(pets).classes) == num
        times.append(time.process_time() - begin)
    assert times[1] < 8 * 4 * times[0], "eight times as long; sixty-four times with the square"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"classes": ["cat"]}, "1 classes"),
        ({"classes": ["cat", "cat"]}, "2 classes, of 1 names"),
        ({"classes": ["cat", "\x1b[2J"]}, "names of classes that cannot be printed"),
        ({"train": -6}, "-6 training"),
        ({"train": 0}, "0 training"),
        ({"image_shape": [16, 16, 2]}, "images of shape"),
        ({"image_shape": [-16, -16, 3]}, "images of shape"),
        ({"files": []}, "0 files, which are not those"),
        ({"reader": "\x1b[2J" * 1000, "colour": "\x1b[2J"}, "is damaged"),
        ({"version": "\x1b]0;a\x07" * 500}, r"has version \\x1b\]0;a\\x07"),
        ({"train": 1 << 70}, "is damaged|holds uint8"),
    ],
)
def test_packed_manifest_that_means_nothing_is_refused(pets: Path, fields: dict[str, object], told: str) -> None:
    path = pets / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    _refused(pets, told)


def test_packed_manifest_that_names_other_files_is_refused(pets: Path) -> None:
    path = pets / "manifest.json"
    path.write_text(path.read_text().replace("train/labels.npy", "../../../../etc/passwd"))
    _refused(pets, "6 files, which are not those of a packed data set")


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_packed_manifest_that_is_no_file_is_refused_at_once(pets: Path, kind: str) -> None:
    path = pets / "manifest.json"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    _refused(pets, r"manifest\.json is damaged \(it is a .* and no regular file\)")
    assert prepared_names(pets.parent) == ["pets"]


def _rewrite(pets: Path, name: str, content: bytes) -> None:
    """Put an array's file in place of another, and its length into the manifest."""
    (pets / name).write_bytes(content)
    path = pets / "manifest.json"
    document = json.loads(path.read_text())
    for record in document["files"]:
        if record["path"] == name:
            record["bytes"] = len(content)
    path.write_text(json.dumps(document))


def _npy(header: str, content: bytes) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content


@pytest.mark.parametrize("name", ["train/labels.npy", "train/sizes.npy", "train/images.npy"])
@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|O', 'fortran_order': False, 'shape': (6,)}",
        "{'descr': '<i8', 'fortran_order': False, 'shape': (-6,)}",
        "{'descr': '<i8', 'fortran_order': False, 'shape': (99999999999999999999,)}",
        "{'descr': ('<i8', (3,)), 'fortran_order': False, 'shape': (6,)}",
        "{'descr': 7, 'fortran_order': False, 'shape': (6,)}",
        "(" * 500 + ")" * 500,
        "__import__('os').system('true')",
        "{'descr': '<i8'",
        "",
    ],
)
def test_packed_array_that_is_something_else_is_refused(pets: Path, name: str, header: str) -> None:
    _rewrite(pets, name, _npy(header, bytes(48)))
    _refused(pets, rf"{name} (is damaged|holds)")


def test_packed_labels_and_sizes_that_training_cannot_use_are_refused(pets: Path) -> None:
    for name, values, told in (
        ("train/labels.npy", np.array([0, 0, 0, 1, 1, 2], np.int64), "labels 0 to 2 of 2 classes"),
        ("train/labels.npy", np.array([0, 0, 0, 1, 1, -1], np.int64), "labels -1 to 1 of 2 classes"),
        ("test/sizes.npy", np.zeros((4, 2), np.int32), "an image of 0 pixels"),
    ):
        whole, manifest = (pets / name).read_bytes(), (pets / "manifest.json").read_text()
        np.save(pets / name, values)
        _rewrite(pets, name, (pets / name).read_bytes())
        _refused(pets, rf"{name} is damaged \({told}\)")
        (pets / name).write_bytes(whole)
        (pets / "manifest.json").write_text(manifest)
    PackedDataset.open(pets)
