"""Archives are looked into before anything is unpacked."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from kdhpc.data.progress import Progress
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


def _tar(folder: Path, *members: tuple[str, bytes, bytes | str], compression: str = "gz") -> Path:
    """An archive of members of any type: name, type, content or target."""
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / "all.tgz", f"w:{compression}", format=tarfile.GNU_FORMAT) as tar:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            member.type = kind
            if isinstance(content, bytes):
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            else:
                member.linkname = content
                tar.addfile(member)
    return folder


_NAMES = ("lists/names.txt", tarfile.REGTYPE, b"names")


def test_locate_hard_link_in_an_archive_is_the_file_that_it_stands_for(tmp_path: Path) -> None:
    """GNU tar writes the second name of a file so."""
    made = tmp_path / "made"
    (made / "images").mkdir(parents=True)
    (made / "images" / "1.jpg").write_bytes(b"one")
    os.link(made / "images" / "1.jpg", made / "images" / "2.jpg")
    (made / "lists").mkdir()
    os.link(made / "images" / "1.jpg", made / "lists" / "names.txt")
    with tarfile.open(tmp_path / "all.tgz", "w:gz") as tar:
        for name in ("images", "lists"):
            tar.add(made / name, arcname=name)

    images, names = locate(tmp_path / "all.tgz", (_LAYOUT,), tmp_path / "scratch", silent()).paths

    assert [(images / name).read_bytes() for name in ("1.jpg", "2.jpg")] == [b"one", b"one"]
    assert names.read_bytes() == b"one"
    assert not (images / "2.jpg").is_symlink()


@pytest.mark.parametrize("target", ["/etc/passwd", "../../secret", "images/later.jpg"])
def test_locate_hard_link_to_what_the_archive_does_not_hold_is_refused(tmp_path: Path, target: str) -> None:
    source = _tar(tmp_path / "away", _NAMES, ("images/1.jpg", tarfile.LNKTYPE, target))
    with pytest.raises(DataError, match=r"leads outside: it is not official|to a file that it does not hold"):
        locate(source, (_LAYOUT,), tmp_path / "scratch", silent())
    assert list((tmp_path / "scratch").iterdir()) == []


def test_locate_symbolic_links_and_devices_in_an_archive_are_left_out_and_said(tmp_path: Path) -> None:
    source = _tar(
        tmp_path / "away",
        *(_NAMES, ("images/1.jpg", tarfile.REGTYPE, b"one")),
        *(("images/2.jpg", tarfile.SYMTYPE, "/etc/passwd"), ("images/3.jpg", tarfile.FIFOTYPE, "")),
    )
    told = io.StringIO()
    images, _ = locate(source, (_LAYOUT,), tmp_path / "scratch", Progress(told)).paths
    assert [path.name for path in images.iterdir()] == ["1.jpg"]
    assert "all.tgz, symbolic links or devices: images/2.jpg, images/3.jpg" in told.getvalue()


def test_locate_archive_that_would_fill_the_disk_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    """A sparse file needs no bytes in the archive."""
    source = _tar(tmp_path / "away", _NAMES, ("images/1.jpg", tarfile.REGTYPE, b""), compression="")
    content = bytearray((source / "all.tgz").read_bytes())
    header = content[1024:1536]
    header[156:157] = b"S"
    header[257:265] = b"ustar  \0"
    header[124:136] = b"%011o\0" % 0
    header[386:410] = b"%011o\0%011o\0" % (1 << 32, 0)
    header[483:495] = b"\x80" + (1 << 40).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    content[1024:1536] = header
    (source / "all.tgz").write_bytes(content)

    with pytest.raises(DataError, match="unpacks to more than 1,000,000 files or 17,179,869,184 bytes"):
        locate(source, (_LAYOUT,), tmp_path / "scratch", silent())
    assert not (tmp_path / "scratch").exists()


def test_locate_archive_whose_header_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    source = _tar(tmp_path / "away", _NAMES, ("images/1.jpg", tarfile.GNUTYPE_LONGNAME, bytes(1 << 20)))
    with pytest.raises(DataError, match=r"is damaged or not a tar file \(a header of 1,048,576 bytes\)"):
        locate(source, (_LAYOUT,), tmp_path / "scratch", silent())


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz"])
def test_locate_archive_damaged_in_the_middle_is_told_in_one_line(tmp_path: Path, compression: str) -> None:
    images = [(f"images/{number}.jpg", tarfile.REGTYPE, os.urandom(5000)) for number in range(20)]
    source = _tar(tmp_path / "away", _NAMES, *images, compression=compression)
    content = bytearray((source / "all.tgz").read_bytes())
    content[len(content) // 2 : len(content) // 2 + 200] = bytes(200)
    (source / "all.tgz").write_bytes(content)
    with pytest.raises(DataError, match=r"all\.tgz is damaged or not a tar file \(.*\): get it again"):
        locate(source, (_LAYOUT,), tmp_path / "scratch", silent())


def test_locate_archive_of_a_name_that_no_disk_takes_is_not_called_damaged(tmp_path: Path) -> None:
    source = _tar(tmp_path / "away", _NAMES, (f"images/{'a' * 300}.jpg", tarfile.REGTYPE, b"one"))
    with pytest.raises(DataError, match=r"a\.jpg cannot be written: File name too long"):
        locate(source, (_LAYOUT,), tmp_path / "scratch", silent())


@pytest.mark.parametrize("kind", ["pipe", "pipe named"])
def test_locate_reads_no_pipe_as_an_archive(tmp_path: Path, kind: str) -> None:
    os.mkfifo(tmp_path / "all.tgz")
    with pytest.raises(DataError, match=r"does not hold the official files|is a named pipe and no regular file"):
        locate(tmp_path / ("all.tgz" if kind == "pipe named" else ""), (_LAYOUT,), tmp_path / "scratch", silent())
