"""Preparing again: what is there already, another source, and what was broken, damaged or killed."""

import io
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kdhpc.data.packed import PackedDataset, check_content
from kdhpc.data.progress import Progress
from kdhpc.data.readers.cub200 import Cub200Reader
from kdhpc.data.readers.source import Counts
from kdhpc.errors import DataError
from tests.data.made import pack
from tests.data.trees import (
    shown,
    silent,
    write_cub,
    write_folder,
    write_jpeg,
    write_tar,
)

_ROOT = Path(__file__).parents[2]


def test_prepare_twice_says_so_and_touches_nothing(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source")
    first = pack(source, tmp_path / "pets")
    written = (tmp_path / "pets" / "manifest.json").stat().st_mtime_ns
    shutil.rmtree(source)

    again = pack(source, tmp_path / "pets")

    assert not again.made
    assert again.manifest == first.manifest
    assert (tmp_path / "pets" / "manifest.json").stat().st_mtime_ns == written
    assert shown(tmp_path) == ["pets"]


def test_prepare_leaves_a_lock_that_others_may_take_who_share_the_folder(tmp_path: Path) -> None:
    source, data = write_folder(tmp_path / "source"), tmp_path / "data"
    data.mkdir()
    data.chmod(0o775)
    pack(source, data / "pets")
    assert (data / ".pets.lock").stat().st_mode & 0o777 == 0o664


def test_prepare_over_something_different_needs_force(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source")
    pack(source, tmp_path / "pets", size=16)

    with pytest.raises(DataError, match=r"prepared already, by reader 'folder' at 16x16: --force replaces it"):
        pack(source, tmp_path / "pets", size=24)

    assert pack(source, tmp_path / "pets", size=24, force=True).made
    assert PackedDataset.open(tmp_path / "pets").train.images.shape[1] == 24
    assert shown(tmp_path) == ["pets", "source"]


def test_prepare_of_another_source_under_one_name_names_both(tmp_path: Path) -> None:
    """Even where names and lengths of all files are the same."""
    one, other = (write_folder(tmp_path / place / "pets") for place in ("a", "b"))
    pack(one, tmp_path / "data" / "pets")

    for gone in (False, True):
        if gone:
            shutil.rmtree(one)
        with pytest.raises(DataError, match=rf"prepared already, from {one} and not from {other}: --force replaces it"):
            pack(other, tmp_path / "data" / "pets")

    assert pack(other, tmp_path / "data" / "pets", force=True).made
    assert not pack(other, tmp_path / "data" / "pets").made


@pytest.mark.parametrize("change", ["added", "removed", "replaced", "renamed"])
def test_prepare_of_a_source_that_has_changed_says_so(tmp_path: Path, change: str) -> None:
    source = write_folder(tmp_path / "pets")
    pack(source, tmp_path / "data" / "pets")
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
        pack(source, tmp_path / "data" / "pets")


def test_prepare_does_not_count_hidden_files_links_to_nowhere_and_what_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data sets lie in the source, which is named by another path the second time."""
    source = write_folder(tmp_path / "pets")
    (source / "lost.txt").symlink_to("nowhere")
    assert pack(source, source / "data" / "pets").made

    (source / ".DS_Store").touch()
    (source / ".cache").mkdir()
    (source / ".cache" / "x").touch()
    monkeypatch.chdir(source)
    assert not pack(Path("../pets"), source / "data" / "pets").made


def test_prepare_of_an_archive_is_known_by_its_length(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "CUB_200_2011.tgz", write_cub(tmp_path / "made"), "CUB_200_2011")
    reader = Cub200Reader(expected=Counts(classes=2, train=3, test=2))
    pack(archive, tmp_path / "birds", reader=reader)
    assert not pack(archive, tmp_path / "birds", reader=reader).made

    archive.write_bytes(archive.read_bytes() + b"\0")
    with pytest.raises(DataError, match="which holds other files now"):
        pack(archive, tmp_path / "birds", reader=reader)


def test_prepare_finds_what_was_made_before_sources_were_written_down(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "pets")
    pack(source, tmp_path / "data" / "pets")
    path = tmp_path / "data" / "pets" / "manifest.json"
    document = json.loads(path.read_text())
    del document["origin"]
    path.write_text(json.dumps(document))

    assert not pack(write_folder(tmp_path / "b" / "pets"), tmp_path / "data" / "pets").made
    assert PackedDataset.open(tmp_path / "data" / "pets").manifest.origin is None


@pytest.mark.parametrize("force", [False, True])
def test_prepare_never_replaces_a_folder_that_it_did_not_make(tmp_path: Path, force: bool) -> None:
    source = write_folder(tmp_path / "pets")

    with pytest.raises(DataError, match="exists and is not a packed data set: choose another --name"):
        pack(source, tmp_path / "pets", force=force)

    assert (source / "train" / "cat" / "0.jpg").exists()


def test_prepare_over_a_damaged_set_says_force_and_force_repairs(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source")
    pack(source, tmp_path / "pets")
    (tmp_path / "pets" / "train" / "images.npy").write_bytes(b"")

    with pytest.raises(DataError, match=r"has 0 bytes, should have .* --force"):
        pack(source, tmp_path / "pets")
    pack(source, tmp_path / "pets", force=True)

    check_content(tmp_path / "pets", silent())


def _break_two(source: Path) -> None:
    for name in ("train/cat/1.jpg", "test/dog/0.jpg"):
        path = source / name
        path.write_bytes(path.read_bytes()[:-100])


def test_prepare_broken_images_are_all_named_and_nothing_opens(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source")
    _break_two(source)

    with pytest.raises(DataError, match=r"2 of 10: train/cat/1\.jpg \(.*truncated.*test/dog/0\.jpg \(.*--skip-broken"):
        pack(source, tmp_path / "pets")

    assert not (tmp_path / "pets").exists()


def test_prepare_broken_images_are_left_out_on_request_and_listed(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source")
    _break_two(source)

    manifest = pack(source, tmp_path / "pets", skip_broken=True).manifest

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
        pack(source, tmp_path / "pets", skip_broken=True)


def test_prepare_repaired_image_is_decoded_again(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source")
    _break_two(source)
    with pytest.raises(DataError):
        pack(source, tmp_path / "pets")
    for name in ("train/cat/1.jpg", "test/dog/0.jpg"):
        write_jpeg(source / name, 77)

    assert pack(source, tmp_path / "pets").manifest.skipped == ()


_PREPARE_ALONE = """
import sys
from pathlib import Path
from kdhpc.data.prepare import PrepareRequest, prepare
from kdhpc.data.progress import Progress
from kdhpc.data.readers.folder import FolderReader
if __name__ == "__main__":
    source, folder = map(Path, sys.argv[1:])
    given = {"source": source, "folder": folder, "size": 200, "num_jobs": 2}
    request = PrepareRequest(reader=FolderReader(), reader_name="folder", **given)
    prepare(request, Progress(sys.stderr))
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
        pack(source, folder, size=200)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _wait_for(lambda: not any(map(_runs, workers)))
    finished = len(list(parts.glob("*.npz")))
    with pytest.raises(DataError, match="not prepared"):
        PackedDataset.open(folder)
    told = io.StringIO()
    manifest = pack(source, folder, size=200, progress=Progress(told)).manifest

    assert len(workers) >= 2, "two decoding processes, and perhaps the tracker of shared resources"
    assert 0 < finished < 6
    assert "going on where an earlier run stopped" in told.getvalue()
    assert manifest.train == 642
    assert check_content(folder, silent()).files == manifest.files
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["pets", "source"]


def test_prepare_whose_decoding_process_dies_names_the_images_that_were_being_read(tmp_path: Path) -> None:
    """As where a decoder, which is written in C, is led to memory that is not its own."""
    source = write_folder(tmp_path / "source", train=1, test=1)
    photograph = write_jpeg(tmp_path / "photograph.jpg", 0, height=480, width=360).read_bytes()
    for index in range(384):
        (source / "train" / ("cat", "dog")[index % 2] / f"{index + 10}.jpg").write_bytes(photograph)

    def kill() -> None:
        _wait_for(lambda: list((tmp_path / ".pets.partial" / "parts").glob("*.npz")))
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGSEGV)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(DataError, match=r"one of 2 decoding processes died, .* being read were train/\w+/\d+\.jpg"):
            pack(source, tmp_path / "pets", size=200, num_jobs=2)
    finally:
        killer.join()


def test_prepare_damaged_part_is_made_again_by_the_next_run(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source")
    _break_two(source)
    with pytest.raises(DataError, match="cannot be decoded"):
        pack(source, tmp_path / "pets")
    part = next((tmp_path / ".pets.partial" / "parts").glob("train-*.npz"))
    part.write_bytes(part.read_bytes()[:100])

    with pytest.raises(DataError, match=r"was damaged .* and is removed: run the same command again"):
        pack(source, tmp_path / "pets", skip_broken=True)

    assert pack(source, tmp_path / "pets", skip_broken=True).manifest.train == 5
