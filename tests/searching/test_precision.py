"""A study has one precision: who settles it, who takes it, and who cannot."""

import pytest
from sqlalchemy import text

from kdhpc.cli.main import main
from kdhpc.config.compose import compose_search
from kdhpc.errors import StudyMismatchError
from kdhpc.searching.plan import plan_study, stored_groups
from kdhpc.searching.worker import trial_setting
from kdhpc.study.status import read_status
from kdhpc.study.study import SharedStudy
from tests.study.made import make

HALF = "device.precision=bf16"
FEW = ("study=tiny", "training.epochs=1", "study.trials=1")


@pytest.fixture
def here(workspace, monkeypatch):
    """The workspace's folder, as commands find it that run in this process; gives its database."""
    for name, value in workspace.environment.items():
        if name.startswith("KDHPC_"):
            monkeypatch.setenv(name, value)
    monkeypatch.delenv("KDHPC_STORAGE", raising=False)
    with workspace.storage() as storage:
        yield storage


def made(storage, name, *overrides):
    return plan_study(name, compose_search([*FEW, *overrides])).open(storage)


def joining(study, *overrides):
    """The config of `kdhpc worker`."""
    return compose_search(overrides, given=stored_groups(study))


def test_worker_that_joins_trains_in_the_precision_of_the_study(here, capsys):
    made(here, "half", HALF)
    assert main(["worker", "--study", "half", "device.precision=float32"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert 'study \'half\' was made with something else: device.precision was "bf16", is "float32"' in said
    assert main(["worker", "--study", "half", "device.threads=1"]) == 0
    said = capsys.readouterr()
    assert said.out == "1 trial finished\n"
    assert "precision bf16" in said.err
    assert main(["status", "--study", "half"]) == 0
    assert "\nprecision bf16\n" in capsys.readouterr().out


def test_worker_that_joins_takes_its_config_with_the_precision_of_the_study(here):
    study = made(here, "joined-in-half", HALF)
    setting = trial_setting(study, joining(study))
    assert setting.config.device.precision == "bf16"
    assert setting.fingerprint.endswith(" bf16")


def test_study_reopened_in_another_precision_is_refused_and_without_one_keeps_its_own(here):
    made(here, "kept", HALF)
    with pytest.raises(StudyMismatchError, match=r'device\.precision was "bf16", is "float32"'):
        made(here, "kept", "device.precision=float32")
    assert made(here, "kept").definition.precision == "bf16"
    assert made(here, "kept", "device=cpu").definition.precision == "bf16"


def test_first_worker_settles_what_was_left_open(here):
    study = made(here, "open")
    other = SharedStudy.open(here, "open")
    assert read_status(here, "open").precision is None
    assert trial_setting(study, joining(study, "device=cpu")).config.device.precision == "float32"
    assert read_status(here, "open").precision == "float32"
    with pytest.raises(StudyMismatchError, match=r'device\.precision was "float32", is "bf16"'):
        trial_setting(other, joining(other, HALF))
    assert other.settle_precision("bf16") == "float32", "once, and by one of them"


def test_worker_that_cannot_compute_so_says_why(here, capsys):
    made(here, "scaled", "device.precision=fp16")
    assert main(["worker", "--study", "scaled", "device=cpu"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "study 'scaled' is computed in fp16, and this worker cannot: fp16 needs CUDA, the device is cpu: run" in said
    made(here, "short", "device.precision=tf32")
    assert main(["worker", "--study", "short"]) == 1
    assert "study 'short' is computed in tf32, and this worker cannot: tf32 needs" in capsys.readouterr().err
    study = made(here, "newer")
    here.write(lambda c: c.execute(text("UPDATE kdhpc_studies SET precision = 'fp8' WHERE precision IS NULL")))
    with pytest.raises(
        StudyMismatchError, match=r"computed in fp8, and this worker cannot: device\.precision='fp8' is not allowed"
    ):
        trial_setting(SharedStudy.open(here, study.definition.name), joining(study, "device=cpu"))


def test_status_of_a_study_without_precision_says_whose_it_will_be(storage, capsys):
    make(storage)
    assert main(["status", "--study", "tiny"]) == 0
    assert "\nprecision auto: that of the first worker\n" in capsys.readouterr().out
