"""Whether a trial fits into what is left of a job."""

import json
from pathlib import Path

import pytest

from kdhpc.cluster import slurm
from kdhpc.cluster.slurm import TimeLimit
from kdhpc.config.paths import StudyPaths
from kdhpc.searching.deadline import Deadline


@pytest.fixture
def paths(tmp_path: Path) -> StudyPaths:
    """Of a study whose last trial took 1,000 s to its first rung."""
    paths = StudyPaths(tmp_path)
    paths.trial(0).mkdir(parents=True)
    report = {"epoch": 1, "step": 1, "rung": True, "train_losses": [1.0], "node_accuracies": None}
    paths.metrics(0).write_text(json.dumps({**report, "ensemble_accuracy": None, "seconds": 1000.0}) + "\n")
    return paths


def deadline(
    monkeypatch: pytest.MonkeyPatch, paths: StudyPaths, limit: TimeLimit | None, *, num_begun: int = 1
) -> Deadline:
    monkeypatch.setattr(slurm, "time_limit", lambda: limit)
    return Deadline(paths, signal_delay_s=180, num_begun=lambda: num_begun)


def test_deadline_late_in_a_job_is_too_near_but_the_limit_is_not_too_short(monkeypatch, paths) -> None:
    """As after a long wait for the database."""
    late = deadline(monkeypatch, paths, TimeLimit(left_s=600.0, whole_s=3600.0))
    assert late.seconds_short() == pytest.approx(580, abs=60)
    assert late.seconds_too_short() == 0
    late = deadline(monkeypatch, paths, TimeLimit(left_s=3600.0, whole_s=3600.0))
    assert late.seconds_short() == 0


def test_deadline_of_a_limit_that_no_trial_fits_into(monkeypatch, paths) -> None:
    short = deadline(monkeypatch, paths, TimeLimit(left_s=1190.0, whole_s=1200.0))
    # 180 s are for the signal, 60 s for the beginning.
    assert short.seconds_too_short() == 40


def test_deadline_not_known_lets_every_trial_start(monkeypatch, paths) -> None:
    unknown = deadline(monkeypatch, paths, None)
    assert unknown.seconds_short() == unknown.seconds_too_short() == 0


def test_deadline_does_not_go_by_what_an_earlier_study_of_the_name_has_left(monkeypatch, paths) -> None:
    """It would end every job, and no trial could ever begin to tell better."""
    short = deadline(monkeypatch, paths, TimeLimit(left_s=1190.0, whole_s=1200.0), num_begun=0)
    assert short.seconds_short() == short.seconds_too_short() == 0


def test_deadline_goes_by_what_can_be_read(monkeypatch, paths) -> None:
    paths.trial(1).mkdir()
    paths.metrics(1).write_bytes(bytes(100) + b'\n{"epoch": 1, "step"')
    paths.metrics(2).mkdir(parents=True)
    whole = paths.metrics(0).read_bytes()
    paths.metrics(0).write_bytes(whole + whole.replace(b"1000.0", b"NaN"))
    short = deadline(monkeypatch, paths, TimeLimit(left_s=1190.0, whole_s=1200.0), num_begun=4)
    short.learn(1)
    assert short.seconds_too_short() == 40
