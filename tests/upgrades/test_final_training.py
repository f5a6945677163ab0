"""Final trainings of an earlier version: one that was stopped goes on, and those that are done are of use."""

import csv
import json

import pytest

from kdhpc.cli.main import main
from tests.upgrades.conftest import Old
from tests.upgrades.place import TRAIN, accuracies

HALF = ("train", "--graph", "independent", "--nodes", "1", *TRAIN, "run.name=half", "--seeds", "3")
SHORT = (*TRAIN, "training.epochs=2", "training.milestones=[]")
TEACHER = ("--teacher", "runs/train/graph/seed0")
DONE = {
    "graph": ("--graph", "tiny-best.json", *SHORT),
    "one": ("--graph", "one", "--nodes", "2", *SHORT),
    "student": ("--graph", "student", *TEACHER, *SHORT),
}


def expect_it_went_on(old: Old, log: str) -> None:
    """To its end, from where it stood, and to the numbers of a training that was not stopped."""
    folder = old.place.runs / "train" / "half" / "seed3"
    begun = accuracies(old.fixture / "runs" / "train" / "half" / "seed3" / "metrics.jsonl")
    assert f"half, seed 3 goes on after epoch {len(begun)}, step " in log
    assert "starts from its beginning" not in log
    result = json.loads((folder / "result.json").read_text())
    assert accuracies(folder / "metrics.jsonl")[: len(begun)] == begun
    assert not (folder / "checkpoint.pt").exists()
    if old.rounds_as_then:
        assert {key: result[key] for key in old.facts["half"]} == old.facts["half"]


def test_train_goes_on_with_an_old_training(old: Old) -> None:
    done = old.place.run(*HALF)
    assert done.returncode == 0, done.stderr
    expect_it_went_on(old, done.stderr)


@pytest.mark.usefixtures("with_new_key")
def test_train_goes_on_when_there_is_a_new_key(old: Old, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(list(HALF)) == 0
    expect_it_went_on(old, capsys.readouterr().err)


def test_train_goes_on_where_a_key_has_no_value(old: Old, capsys: pytest.CaptureFixture[str]) -> None:
    settings = old.place.runs / "train" / "half" / "seed3" / "settings.json"
    document = json.loads(settings.read_text())
    del document["training.gamma"]  # Its value is the default.
    settings.write_text(json.dumps(document))
    assert main(list(HALF)) == 0
    expect_it_went_on(old, capsys.readouterr().err)


@pytest.mark.usefixtures("with_new_key")
def test_another_value_of_a_new_key_is_another_training(old: Old, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*HALF, "training.toy=2"]) == 2
    err = capsys.readouterr().err
    assert "half/seed3 was begun with other settings (training.toy was 1, is 2): move it away" in err
    assert err.count("\n") == 1


def test_a_training_of_a_newer_version_is_one_line(old: Old, capsys: pytest.CaptureFixture[str]) -> None:
    settings = old.place.runs / "train" / "half" / "seed3" / "settings.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "training.toy": 1}))
    assert main(list(HALF)) == 2
    err = capsys.readouterr().err
    assert "half/seed3 was made by a newer kdhpc, this one does not know training.toy: use that version" in err
    assert err.count("\n") == 1


def test_results_reads_old_runs(old: Old) -> None:
    found = old.place.run("results", "--format", "csv")
    assert found.returncode == 0, found.stderr
    rows = {row["training"]: row for row in csv.DictReader(found.stdout.splitlines())}
    assert rows.keys() == DONE.keys()
    for name, row in rows.items():
        result = json.loads((old.fixture / "runs" / "train" / name / "seed0" / "result.json").read_text())
        assert float(row["ensemble_mean"]) == pytest.approx(result["ensemble_accuracy"], abs=0.01)
        assert int(row["nodes"]) == result["num_nodes"]


@pytest.mark.parametrize("name", DONE)
def test_train_knows_an_old_run_that_is_done(old: Old, name: str) -> None:
    done = old.place.run("train", *DONE[name], f"run.name={name}")
    assert done.returncode == 0, done.stderr
    assert "is done already" in done.stderr


@pytest.mark.usefixtures("with_new_key")
@pytest.mark.parametrize("name", DONE)
def test_train_knows_an_old_run_that_is_done_when_there_is_a_new_key(
    old: Old, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *DONE[name], f"run.name={name}"]) == 0
    assert "is done already" in capsys.readouterr().err
    # Another seed of it has the same name and the same settings.
    assert main(["train", *DONE[name], f"run.name={name}", "--seeds", "1"]) == 0
    settings = {json.loads(path.read_text())["settings"] for path in old.place.runs.glob(f"train/{name}/*/result.json")}
    assert len(settings) == 1


@pytest.mark.parametrize("name", DONE)
def test_train_comes_to_the_same_again(old: Old, name: str) -> None:
    """The exported graph trains, ONE trains, and the run that is done teaches."""
    done = old.place.run("train", *DONE[name], "run.name=again")
    assert done.returncode == 0, done.stderr
    again, before = (
        json.loads((old.place.runs / "train" / run / "seed0" / "result.json").read_text()) for run in ("again", name)
    )
    assert again["settings"] == before["settings"]
    assert again["searched"] == before["searched"]
    if old.rounds_as_then:
        assert all(again[key] == before[key] for key in ("node_accuracies", "ensemble_accuracy", "weights"))


def test_report_compares_the_networks_of_old_runs(old: Old) -> None:
    done = old.place.run("report", "pairs", "runs/train/graph", "runs/train/student", "--out", "pairs")
    assert done.returncode == 0, done.stderr
    rows = (old.place.folder / "pairs" / "pairs.csv").read_text().splitlines()
    assert len(rows) == 1 + 3
