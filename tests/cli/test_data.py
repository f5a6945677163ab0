import json
import os
import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from kdhpc.cli.data import READER_NAMES
from kdhpc.cli.main import main
from kdhpc.config.compose import compose_train
from kdhpc.data.readers.registry import READERS
from tests.data.trees import write_fashion_mnist, write_folder
from tests.screens import Screen, in_terminal


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


def test_data_prepare_prints_commands_that_compose_as_they_are(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _prepare(tmp_path, "--name", "2024")
    said = capsys.readouterr().err.splitlines()
    (train,) = (line.partition(": ")[2] for line in said if line.startswith("to train on it: "))
    (search,) = (line.partition(": ")[2] for line in said if line.startswith("to search on it: "))
    assert train == (
        """kdhpc train --graph dml --nodes 2 "dataset='2024'" network=resnet8 training=short training.batch_size=4"""
    )
    words = [word for word in shlex.split(train)[2:] if "=" in word]
    config = compose_train([*words, "run.graph=dml", "run.num_nodes=2"])
    assert (config.dataset.name, config.dataset.image_size, config.training.batch_size) == ("2024", 16, 4)
    assert main([*shlex.split(search)[1:], "--dry-run"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["dataset"]["name"], shown["dataset"]["validation_fraction"]) == ("2024", 0.5)
    assert (shown["dataset"]["subset"], shown["training"]["batch_size"]) == (None, 2)
    assert shown["network"]["crops"] == [3], "the usual ones do not fit"


def test_data_prepare_of_a_flat_folder_with_split(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_folder(tmp_path / "raw", train=10) / "train"
    assert main(["data", "prepare", "folder", str(source), "--jobs", "1"]) == 1
    hint = capsys.readouterr().err
    assert f"for {source}/<class>/* alone: kdhpc data prepare folder {source} --split 0.2 --name NAME" in hint
    assert main(["data", "prepare", "folder", str(source), "--split", "0.2", "--jobs", "1", "--name", "pets"]) == 0
    err = capsys.readouterr().err
    assert "pets is prepared: 16 training and 4 test images of 256x256x3 in 2 classes" in err
    assert f"0.2 of each class is the test half: {data}/pets/test/names.txt lists it" in err
    assert "dataset=pets network=resnet18 training=short" in err
    assert main(["data", "prepare", "cifar10", str(source), "--split", "0.2"]) == 2


@pytest.mark.parametrize(("folder", "better"), [("my pets", "my_pets"), ("-x-", "x"), ("\u732b", "")])
def test_data_prepare_of_a_folder_whose_name_cannot_be_used_says_the_rule(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str], folder: str, better: str
) -> None:
    write_folder(tmp_path / folder)
    assert main(["data", "prepare", "folder", str(tmp_path / folder)]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert f"data set name {folder!r} is not allowed: 1 to 63 letters, digits, '_', '.' or '-'" in said
    assert said.endswith(f"give another one with --name {better}".rstrip())
    assert main(["data", "prepare", "folder", str(tmp_path / folder), "--name", "my pets"]) == 2
    assert "data set name 'my pets' is not allowed: 1 to 63 letters" in capsys.readouterr().err


def test_data_prepare_under_the_name_of_a_config_says_which_it_takes(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _prepare(tmp_path, "--name", "cifar10") == 0
    err = capsys.readouterr().err
    assert "dataset=cifar10 takes the config /" in err
    assert "configs/dataset/cifar10.yaml, whatever is packed under this name; with another --name, settings" in err
    assert main(["data", "list", "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["use"] == "dataset=cifar10"
    assert row["config"].endswith("configs/dataset/cifar10.yaml")


def test_data_check_says_what_it_has_compared(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _prepare(tmp_path)
    assert main(["data", "check", "pets"]) == 0
    err = capsys.readouterr().err
    num = sum(path.stat().st_size for path in data.glob("pets/*/*.npy"))
    assert f"pets is as it was prepared: 6 files of {num:,} bytes have their lengths and SHA-256; " in err
    assert "6 training and 4 test images of 16x16x3 have labels within 2 classes and original sizes" in err


@pytest.mark.parametrize("columns", [40, 80])
def test_data_prepare_counts_within_the_terminal(tmp_path: Path, columns: int) -> None:
    source = write_folder(tmp_path / "pets")
    environment = {**os.environ, "KDHPC_DATA": str(tmp_path / "data"), "TERM": "xterm"}
    environment.pop("COLUMNS", None)
    argv = [sys.executable, "-m", "kdhpc.cli.main", "data", "prepare", "folder", str(source), "--jobs", "1"]
    code, got = in_terminal(argv, columns=columns, environment=environment)
    assert code == 0
    counts = [line for line in re.split(r"[\r\n]|\x1b\[K", got) if line.startswith(("reading", "decoding"))]
    assert [line for line in counts if line.startswith("decoding images: 0 of 10")], "shown from the first moment"
    assert max(map(len, counts)) < columns
    assert not [line for line in Screen(got).shown if "0 of 10" in line.replace("10 of 10", "")]
