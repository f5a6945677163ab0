import json
from pathlib import Path

import pytest

from kdhpc.cli.data import READER_NAMES
from kdhpc.cli.main import main
from kdhpc.data.readers.registry import READERS
from tests.data.trees import write_fashion_mnist, write_folder


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KDHPC_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def _prepare(tmp_path: Path, *options: str) -> int:
    source = tmp_path / "pets"
    if not source.exists():
        write_folder(source)
    return main(["data", "prepare", "folder", str(source), "--size", "16", "--jobs", "1", *options])


def test_data_help_names_every_reader() -> None:
    assert tuple(sorted(READERS)) == READER_NAMES


def test_data_prepare_prints_the_folder_and_tells_the_rest_on_stderr(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _prepare(tmp_path) == 0

    out, err = capsys.readouterr()
    assert out == f"{data / 'pets'}\n"
    assert "pets is prepared: 6 training and 4 test images of 16x16x3 in 2 classes" in err


def test_data_prepare_again_says_that_there_is_nothing_to_do(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _prepare(tmp_path, "--name", "animals")
    assert _prepare(tmp_path, "--name", "animals") == 0

    assert "animals was prepared already, nothing to do" in capsys.readouterr().err


def test_data_prepare_lists_what_was_left_out(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (write_folder(tmp_path / "pets") / "test" / "dog" / "1.jpg").write_bytes(b"")

    assert _prepare(tmp_path) == 1
    assert "--skip-broken" in capsys.readouterr().err
    assert _prepare(tmp_path, "--skip-broken") == 0
    assert "left out of test: test/dog/1.jpg (an empty file)" in capsys.readouterr().err


def test_data_prepare_unknown_reader_is_a_usage_error_with_the_nearest(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "prepare", "cifar", "/nowhere"]) == 2

    assert "no reader 'cifar': did you mean 'cifar10'?" in capsys.readouterr().err


def test_data_list_shows_prepared_and_damaged_sets(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _prepare(tmp_path)
    _prepare(tmp_path, "--name", "worse")
    (data / "worse" / "test" / "labels.npy").unlink()
    capsys.readouterr()

    assert main(["data", "list", "--format", "json"]) == 0
    pets, worse = json.loads(capsys.readouterr().out)
    assert main(["data", "list"]) == 0
    table = capsys.readouterr()

    assert (pets["name"], pets["reader"], pets["classes"], pets["train"], pets["shape"]) == (
        "pets",
        "folder",
        2,
        6,
        [16, 16, 3],
    )
    assert pets["problem"] is None
    assert "labels.npy is missing" in worse["problem"]
    assert table.out.splitlines()[1].split() == ["pets", "folder", "2", "6", "4", "16x16x3", "0.0", "dataset=pets"]
    assert "labels.npy is missing" in table.err


def test_data_list_of_nothing_is_empty(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list"]) == 0

    out, err = capsys.readouterr()
    assert out == ""
    assert f"nothing is prepared in {data}" in err


def test_data_check_prints_the_checksum_or_fails(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _prepare(tmp_path)
    capsys.readouterr()

    assert main(["data", "check", "pets"]) == 0
    assert capsys.readouterr().out.strip() == json.loads((data / "pets" / "manifest.json").read_text())["checksum"]
    path = data / "pets" / "train" / "labels.npy"
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)
    assert main(["data", "check", "pets"]) == 1
    assert "train/labels.npy has changed" in capsys.readouterr().err


def test_data_prepare_of_other_files_than_published_says_so_and_list_as_well(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_fashion_mnist(tmp_path / "raw")
    words = ["data", "prepare", "fashion_mnist", str(tmp_path / "raw")]

    assert main(words) == 1
    assert "has 20 training and 10 test images in 10 classes, but the official" in capsys.readouterr().err
    assert main([*words, "--altered"]) == 0
    assert "not as published: its source has other content than the official data set in " in capsys.readouterr().err
    assert main(["data", "list"]) == 0
    assert "fashion_mnist: its source has 20 training and 10 test images" in capsys.readouterr().err
    assert main(["data", "list", "--format", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)[0]["altered"]) == 2
