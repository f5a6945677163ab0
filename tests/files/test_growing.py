"""Reading files that others write to."""

import os
from pathlib import Path

import pytest

from kdhpc.files.growing import GrowingFile, start_of_last_lines
from kdhpc.files.reading import UnfitFileError


def last(path: Path, num_lines: int) -> list[str]:
    file = GrowingFile(path, start=start_of_last_lines(path, num_lines))
    return [*file.new_lines(), *file.rest()]


@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize("num_lines", [0, 1, 3, 5, 6, 100])
def test_last_lines_are_as_many_as_there_are(tmp_path: Path, num_lines: int, end: str) -> None:
    path, lines = tmp_path / "log", [f"line {index}{'x' * 30_000}"[:4000] for index in range(6)]
    path.write_text("\n".join(lines) + end, encoding="utf-8")
    assert last(path, num_lines) == lines[len(lines) - min(num_lines, 6) :]


def test_last_lines_of_an_empty_file_are_none(tmp_path: Path) -> None:
    (tmp_path / "log").touch()
    assert last(tmp_path / "log", 5) == []


def test_last_lines_of_a_huge_file_are_read_from_its_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        file.truncate(10 << 30)
        file.seek(0, os.SEEK_END)
        file.write(b"\nthe last but one\nthe last\n")
    assert last(path, 2) == ["the last but one", "the last"]
    assert last(path, 5) == ["the last but one", "the last"]  # The line before would take all of it.


def test_lines_may_hold_anything_and_long_ones_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"\xff\x00 bytes\r\n" + b"x" * 5000 + b"\n")
    assert last(path, 5) == ["\udcff\x00 bytes", f"{'x' * 4000} ... (1000 more characters)"]


def test_growing_file_gives_each_line_once_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = GrowingFile(path)
    assert list(file.new_lines()) == []  # It is not there yet.
    with path.open("a", encoding="utf-8") as written:
        for text, lines in (("a\nb", ["a"]), ("", []), ("c\nd\n", ["bc", "d"])):
            written.write(text)
            written.flush()
            assert list(file.new_lines()) == lines


@pytest.mark.parametrize("how", ["truncated", "replaced", "removed"])
def test_growing_file_that_begins_anew_is_read_from_its_beginning(tmp_path: Path, how: str) -> None:
    path = tmp_path / "log"
    path.write_text("old line\n" * 3, encoding="utf-8")
    file = GrowingFile(path)
    assert len(list(file.new_lines())) == 3
    if how == "replaced":
        path.rename(tmp_path / "log.1")
    if how == "removed":
        path.unlink()
        assert list(file.new_lines()) == []
    # As long as before, or longer: its size alone tells nothing.
    path.write_text("new line\n" * (1 if how == "truncated" else 5), encoding="utf-8")
    assert list(file.new_lines()) == ["new line"] * (1 if how == "truncated" else 5)


def test_file_that_is_no_regular_one_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnfitFileError, match="named pipe"):
        list(GrowingFile(tmp_path / "pipe").new_lines())
