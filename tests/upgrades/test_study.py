"""A study that an earlier version began: searched to its end, its half-finished trial from where that stands."""

import json
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from kdhpc.cli.main import main
from kdhpc.study.status import read_status
from kdhpc.study.storage import Storage
from tests.upgrades.conftest import Old
from tests.upgrades.place import STUDY, accuracies


def half_trial(old: Old) -> int:
    """The trial that has a checkpoint."""
    (path,) = old.fixture.glob(f"runs/{STUDY}/trials/*/checkpoint.pt")
    return int(path.parent.name)


def expect_it_went_on(old: Old, log: str) -> None:
    """The whole budget was trained, and nothing twice."""
    half = half_trial(old)
    reported = accuracies(old.fixture / "runs" / STUDY / "trials" / str(half) / "metrics.jsonl")
    assert f"trial {half} goes on after epoch " in log
    assert f"trial {half} goes on after epoch 0," not in log
    assert "starts from its beginning" not in log
    storage = Storage.connect()
    status = read_status(storage, STUDY)
    storage.close()
    assert status.trials.ended_well == status.target == len(old.facts["trials"])
    for number, expected in old.facts["trials"].items():
        metrics = old.place.paths(STUDY).metrics(int(number))
        found = accuracies(metrics)
        assert len(found) > len(reported) or int(number) != half
        epochs = [json.loads(line)["epoch"] for line in metrics.read_text().splitlines()]
        assert epochs == list(range(1, len(epochs) + 1))
        if old.rounds_as_then:  # What is pruned depends on which trials came first.
            both = min(len(found), len(expected))
            assert found[:both] == expected[:both]


def test_the_packed_images_are_those_of_then(old: Old) -> None:
    manifest = Path(old.place.environment["KDHPC_DATA"]) / "tiny" / "manifest.json"
    assert json.loads(manifest.read_text())["checksum"] == old.facts["dataset_checksum"]


def test_search_goes_on_with_an_old_study(old_study: Old) -> None:
    done = old_study.place.run("search", "--study", STUDY, "--workers", "1")
    assert done.returncode == 0, done.stderr
    logs = (path for path in old_study.place.paths(STUDY).jobs.rglob("*_log.*") if path.suffix in (".out", ".err"))
    expect_it_went_on(old_study, "".join(path.read_text() for path in logs))
    exported = old_study.place.run("export-best", "--study", STUDY, "--top", "1")
    assert exported.returncode == 0, exported.stderr


@pytest.mark.usefixtures("with_new_key")
def test_worker_goes_on_with_an_old_study_when_there_is_a_new_key(
    old_study: Old, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["worker", "--study", STUDY]) == 0
    expect_it_went_on(old_study, capsys.readouterr().err)


def test_worker_goes_on_with_a_study_that_has_no_value_for_a_key(
    old_study: Old, capsys: pytest.CaptureFixture[str]
) -> None:
    """As if ``training.gamma``, whose default it has, were new; it is in the digest that names the checkpoint."""
    change_settings(old_study, "training", gamma=None)
    (config,) = old_study.place.runs.glob(f"{STUDY}/config/*.yaml")
    config.write_text(config.read_text().replace("  gamma: 0.1\n", ""))
    assert main(["worker", "--study", STUDY]) == 0
    expect_it_went_on(old_study, capsys.readouterr().err)


@pytest.mark.usefixtures("with_new_key")
@pytest.mark.parametrize("command", [("worker",), ("search", "--workers", "1")])
def test_another_value_of_a_new_key_is_another_study(
    old_study: Old, command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--study", STUDY, "training.toy=2"]) == 1
    err = capsys.readouterr().err
    assert "was made with something else: training.toy was 1, is 2" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("command", [("worker",), ("search", "--workers", "1")])
def test_a_study_of_a_newer_version_is_one_line(
    old_study: Old, command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    change_settings(old_study, "training", toy=1)
    assert main([*command, "--study", STUDY]) == 1
    err = capsys.readouterr().err
    assert "was made by a newer kdhpc, this one does not know training.toy: use that version" in err
    assert "Traceback" not in err


def change_settings(old: Old, group: str, **changes: object) -> None:
    """Change what the study was made with; None: take it away."""
    engine = create_engine(old.place.environment["KDHPC_STORAGE"])
    with engine.begin() as connection:
        definition = json.loads(connection.execute(text("SELECT definition FROM kdhpc_studies")).scalar_one())
        settings = {**definition["settings"][group], **changes}
        definition["settings"][group] = {name: value for name, value in settings.items() if value is not None}
        connection.execute(text("UPDATE kdhpc_studies SET definition = :new"), {"new": json.dumps(definition)})
    engine.dispose()
