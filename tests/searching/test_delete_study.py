"""``kdhpc db delete-study``: what a later study of the same name could take for its own goes along."""

from pathlib import Path

import pytest

from kdhpc.cli.main import main
from kdhpc.config.paths import StudyPaths
from kdhpc.searching.manifest import Manifest
from kdhpc.study.status import study_names
from kdhpc.study.storage import Storage
from kdhpc.study.study import SharedStudy
from tests.study.made import make, take

KEPT = ("trials/0/metrics.jsonl", "jobs/one/17_3_0_log.out", "export/doomed-best.json")
REMOVED = (
    *("trials/0/checkpoint.pt", "trials/1/checkpoint.pt", "trials/1/.checkpoint.pt.0123.tmp"),
    *("config/one.yaml", "launches/one.json"),
)


@pytest.fixture
def paths(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyPaths:
    """Files of a study, below a folder of its own."""
    monkeypatch.setenv("KDHPC_STORAGE", storage.address().render_as_string(hide_password=False))
    monkeypatch.setenv("KDHPC_RUNS", str(tmp_path / "runs"))
    paths = StudyPaths.of("doomed")
    for name in (*KEPT, *REMOVED):
        (paths.root / name).parent.mkdir(parents=True, exist_ok=True)
        (paths.root / name).write_text("something")
    Manifest(
        study="doomed", launch="one", host="here", user="me", command=(), kdhpc="0", job=None, arrays=("17",)
    ).write()
    return paths


def delete(capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["db", "delete-study", "doomed", "--yes"]) == 0
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err


def test_deleted_study_takes_its_checkpoints_and_launches_along(
    storage: Storage, paths: StudyPaths, fake_slurm, capsys: pytest.CaptureFixture[str]
) -> None:
    study = make(storage, name="doomed")
    take(study).release()
    fake_slurm.queue("17_3 RUNNING", "17_4 PENDING", "18 PENDING")
    fake_slurm.answer("scancel", "true")
    said = delete(capsys)
    files = f"its files in {paths.root} stay, without 3 checkpoints and 2 files of launches that no other study can use"
    assert said.startswith(
        f"study doomed deleted; {files}; cancelled, they had not started: 17_4; these jobs still run"
    )
    assert fake_slurm.calls("scancel") == ["--quiet 17_4"]
    assert study_names(storage) == ()
    left = {str(path.relative_to(paths.root)) for path in paths.root.rglob("*") if path.is_file()}
    assert left == set(KEPT)
    # One of the same name is another study.
    again = make(storage, name="doomed")
    assert len(again.uid) == len(study.uid) == 32
    assert again.uid != study.uid
    assert SharedStudy.open(storage, "doomed").uid == again.uid
    assert make(storage, name="doomed").uid == again.uid


def test_deleted_study_without_an_answer_of_slurm_says_so(
    storage: Storage, paths: StudyPaths, fake_slurm, capsys: pytest.CaptureFixture[str]
) -> None:
    make(storage, name="doomed")
    assert "that wait in the queue are not cancelled" in delete(capsys)
    assert not paths.checkpoint(0).exists()


def test_study_that_is_worked_on_keeps_all_of_its_files(
    storage: Storage, paths: StudyPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    leased = take(make(storage, name="doomed"))
    assert main(["db", "delete-study", "doomed", "--yes"]) == 1
    assert "workers hold 1 of its trials" in capsys.readouterr().err
    assert all((paths.root / name).exists() for name in (*KEPT, *REMOVED))
    leased.release()
