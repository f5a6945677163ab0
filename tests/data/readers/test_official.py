"""Archives are looked into before anything is unpacked."""

import io
import tarfile
from pathlib import Path

import pytest

from kdhpc.data.readers.official import Layout, locate
from kdhpc.errors import DataError
from tests.data.trees import silent

_LAYOUT = Layout(files=("images", "lists/names.txt"), archives=("all.tgz",))


def _archive(folder: Path, *names: str, length: int = 5) -> Path:
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / "all.tgz", "w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = length
            tar.addfile(member, io.BytesIO(bytes(range(256)) * (length // 256 + 1)))
    return folder / "all.tgz"


@pytest.mark.parametrize("prefix", ["", "./", "Set/", "./a/b/"])
def test_locate_finds_what_an_archive_lists(tmp_path: Path, prefix: str) -> None:
    source = _archive(tmp_path / "away", f"{prefix}images/a/1.jpg", f"{prefix}lists/names.txt").parent

    found = locate(source, (_LAYOUT,), tmp_path / "scratch", silent())

    assert [path.name for path in found.paths] == ["images", "names.txt"]
    assert (found.paths[0] / "a" / "1.jpg").read_bytes() == bytes(range(5))


@pytest.mark.parametrize("names", [("a/b/c/images/1.jpg",), (".hidden/images/1.jpg",), ("images2/1.jpg",)])
def test_locate_archive_without_a_folder_names_it_and_is_not_unpacked(tmp_path: Path, names: tuple[str, ...]) -> None:
    source = _archive(tmp_path / "away", *names, "lists/names.txt").parent

    with pytest.raises(DataError, match="official files: images is missing; needed are images, lists/names"):
        locate(source, (_LAYOUT,), tmp_path / "scratch", silent())
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "images/../../evil.txt"])
def test_locate_archive_that_leads_outside_is_refused_before_it_is_unpacked(tmp_path: Path, name: str) -> None:
    source = _archive(tmp_path / "away", "images/1.jpg", "lists/names.txt", name).parent

    with pytest.raises(DataError, match="which leads outside: it is not official"):
        locate(source, (_LAYOUT,), tmp_path / "scratch", silent())
    assert not (tmp_path / "scratch").exists()


def test_locate_archive_cut_short_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    archive = _archive(tmp_path / "away", "images/1.jpg", "lists/names.txt", length=1 << 20)
    archive.write_bytes(archive.read_bytes()[:-1000])

    with pytest.raises(DataError, match=r"all\.tgz is damaged or not a tar file"):
        locate(archive.parent, (_LAYOUT,), tmp_path / "scratch", silent())
    assert not (tmp_path / "scratch").exists()
