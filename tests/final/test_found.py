"""Results found below folders: copies count once, and one that cannot be read hides no other."""

import dataclasses
import json
import shutil
import subprocess
import sys

import pytest

from kdhpc.cli.main import main
from kdhpc.files.json_text import parse_json
from kdhpc.final.found import find_results, seed_folders
from kdhpc.final.result import read_result, write_result
from tests.final.test_results import ENSEMBLE, result_of

NAME = result_of(0).name


@pytest.fixture
def runs(tmp_path):
    """Three seeds where training writes them."""
    folder = tmp_path / "runs" / "train"
    for seed in range(3):
        write_result(result_of(seed), folder / NAME / f"seed{seed}" / "result.json")
    return folder


@pytest.fixture
def row_of(capsys, caplog):
    """The single row of a folder's table, as JSON, and what is said beside it."""

    def read(folder):
        caplog.clear()
        assert main(["results", str(folder), "--format", "json"]) == 0
        (row,) = parse_json(capsys.readouterr().out)
        return row, list(caplog.messages)

    return read


def test_results_of_a_copied_seed_count_once(runs, row_of):
    before, _ = row_of(runs)
    shutil.copytree(runs / NAME / "seed0", runs / NAME / "seed0.bak")
    row, said = row_of(runs)
    assert row == before
    assert row["seeds"] == [0, 1, 2]
    assert row["ensemble"]["mean"] == pytest.approx(sum(ENSEMBLE) / 3)
    assert said == [f"left out, a copy of {runs / NAME / 'seed0'}: {runs / NAME / 'seed0.bak'}"]


@pytest.mark.parametrize("copy", [f"{NAME}.bak", f"a{NAME}", "older/" + NAME])
def test_results_of_a_copied_training_count_once(runs, row_of, copy):
    before, _ = row_of(runs)
    shutil.copytree(runs / NAME, runs / copy)
    row, said = row_of(runs)
    assert row == before
    assert len(said) == 3
    assert all(line.startswith("left out, a copy of ") for line in said)


def test_results_of_a_copy_by_another_seed_count_as_what_they_are(runs, row_of):
    shutil.copytree(runs / NAME / "seed0", runs / NAME / "seed7")
    row, said = row_of(runs)
    assert row["seeds"] == [0, 1, 2]
    assert said == [f"left out, a copy of {runs / NAME / 'seed0'}: {runs / NAME / 'seed7'}"]


def test_results_of_one_seed_with_other_numbers_are_never_averaged(runs, row_of):
    other = dataclasses.replace(result_of(0), ensemble_accuracy=12.5)
    write_result(other, runs / NAME / "a-seed0" / "result.json")
    row, said = row_of(runs)
    assert row["ensemble"]["mean"] == pytest.approx(sum(ENSEMBLE) / 3)
    kept, left = runs / NAME / "seed0", runs / NAME / "a-seed0"
    assert said == [f"left out, another result for the same seed and settings as {kept}: {left}"]


def test_results_that_were_moved_are_still_found(runs, row_of):
    (runs / NAME).rename(runs / "elsewhere")
    row, said = row_of(runs)
    assert (row["seeds"], said) == ([0, 1, 2], [])
    assert row_of(runs / "elsewhere" / "seed1")[0]["seeds"] == [1]


def test_find_results_of_folders_that_hold_each_other_counts_once(runs, caplog):
    (runs / "link").symlink_to(runs / NAME)
    found = find_results([runs / NAME / "seed1", runs, runs.parent, runs / "link"])
    assert [one.result.seed for one in found] == [0, 1, 2]
    assert caplog.messages == []


@pytest.mark.parametrize("content", [b"", b"\0" * 500, b'{"format": "kdhpc-result"', b"[]", b"\xff\xfe", b"{}"])
def test_results_beside_one_that_cannot_be_understood_are_shown(runs, row_of, content):
    (runs / NAME / "seed1" / "result.json").write_bytes(content)
    row, said = row_of(runs)
    assert row["seeds"] == [0, 2]
    (line,) = said
    assert line.startswith(f"left out: {runs / NAME / 'seed1' / 'result.json'} is not a result of a final training: ")


def test_results_with_accuracies_that_are_none_are_left_out(runs, row_of):
    path = runs / NAME / "seed1" / "result.json"
    for text in ('"ensemble_accuracy": NaN', '"ensemble_accuracy": null', '"ensemble_accuracy": 1e999'):
        write_result(result_of(1), path)
        path.write_text(path.read_text().replace('"ensemble_accuracy": 74.5', text))
        row, said = row_of(runs)
        assert (row["seeds"], len(said)) == ([0, 2], 1)


@pytest.mark.parametrize("rule", ["open seed1/result.json err=EIO", "open seed1/result.json err=EACCES"])
def test_results_beside_one_that_the_disk_refuses_are_shown(disk, row_of, rule):
    for seed in range(3):
        write_result(result_of(seed), disk.path / NAME / f"seed{seed}" / "result.json")
    disk.rules(rule)
    row, said = row_of(disk.path)
    assert row["seeds"] == [0, 2]
    (line,) = said
    assert line.startswith(f"left out: {disk.path / NAME / 'seed1' / 'result.json'} cannot be read: ")
    disk.rules(f"{rule} 1")
    assert row_of(disk.path)[0]["seeds"] == ([0, 1, 2] if "EIO" in rule else [0, 2])


def test_results_beside_a_folder_that_cannot_be_looked_into_are_shown(disk, row_of):
    for seed in range(3):
        write_result(result_of(seed), disk.path / NAME / f"seed{seed}" / "result.json")
    disk.rules("readdir seed1 err=EIO")
    row, said = row_of(disk.path)
    assert row["seeds"] == [0, 2]
    assert said == [f"left out, cannot be looked into: {disk.path / NAME / 'seed1'}: Input/output error"]


def test_results_of_which_none_can_be_read_are_an_error_after_each_is_named(runs):
    for path in runs.rglob("result.json"):
        path.write_bytes(b"\0")
    done = subprocess.run(
        [sys.executable, "-m", "kdhpc.cli.main", "results", str(runs)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    *left_out, error = done.stderr.splitlines()
    assert [line.split("/result.json")[0] for line in left_out] == [
        f"left out: {runs / NAME}/seed{k}" for k in range(3)
    ]
    assert error == f"kdhpc: no result of a final training in {runs} can be read: see above"


def test_result_without_accuracies_that_did_not_diverge_is_none():
    with pytest.raises(ValueError, match="do not go with diverged_epoch None"):
        result_of(0, ensemble_accuracy=None)
    with pytest.raises(ValueError, match="do not go with diverged_epoch 3"):
        result_of(0, diverged_epoch=3)
    assert result_of(0, diverged_epoch=3, node_accuracies=None, ensemble_accuracy=None).divergence is not None


def test_write_result_is_strict_json(tmp_path):
    path = tmp_path / "result.json"
    write_result(result_of(0, seconds=float("nan")), path)
    assert json.loads(path.read_text(), parse_constant=pytest.fail)["seconds"] is None
    assert read_result(path) == result_of(0, seconds=None)


def test_seed_folders_are_those_of_training(runs):
    for name in ("seed0.bak", "seed", "seedling", "xseed1"):
        (runs / NAME / name).mkdir()
    assert [path.name for path in seed_folders(runs / NAME)] == ["seed0", "seed1", "seed2"]
