"""What a config asks for that no worker could train is refused before there is a study."""

import os
from pathlib import Path

import pytest

from kdhpc.cli.main import main
from kdhpc.config.compose import compose_search
from kdhpc.config.paths import StudyPaths
from kdhpc.config.schema import SearchConfig
from kdhpc.data.fitting import doubt_normalisation
from kdhpc.errors import KdhpcError, StorageError, StudyError, StudyMismatchError
from kdhpc.searching.manifest import read_manifests
from kdhpc.searching.plan import plan_study
from kdhpc.study.status import study_names
from kdhpc.study.storage import Storage
from tests.study.made import take


@pytest.fixture
def place(workspace, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("KDHPC_DATA", "KDHPC_CONFIG_DIR"):
        monkeypatch.setenv(name, workspace.environment[name])
    return workspace.folder


def _config(*overrides: str) -> SearchConfig:
    return compose_search(["study=tiny", *overrides])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["training.batch_size=1000"], r"training\.batch_size=1000 is not allowed: only 64 images train"),
        (["dataset.image_size=64"], r"dataset\.image_size=64 is not allowed: the stored images of tiny are 16x16"),
        (["dataset.subset=3"], r"dataset\.subset=3 is not possible"),
        (["dataset.validation_fraction=0.001"], r"dataset\.validation_fraction=0\.001 of 128 images is 0"),
        (["network.crops=[9]"], "the largest crop is 9x9"),
        (["network=resnet18", "network.crops=[1]", "training.batch_size=1"], r"training\.batch_size=1 is not allowed"),
        (["network.name=resnet21"], "unknown network 'resnet21': did you mean 'resnet"),
        (
            ["study.gates=[cutoff]", "study.label_gates=[cutoff]", "objective.unlearned=reject"],
            r"the search space of 2 nodes is empty.*study\.label_gates",
        ),
    ],
)
def test_plan_of_a_value_that_does_not_fit_is_a_usage_error(place: Path, overrides: list[str], said: str) -> None:
    with pytest.raises(KdhpcError, match=said) as error:
        plan_study("wrong", _config(*overrides))
    assert error.value.exit_code == 2


@pytest.mark.parametrize("content", [b"", b"no weights", b"\xff" * 100, b"\x40" + 7 * b"\0" + b"{" * 64])
def test_plan_with_a_file_that_holds_no_weights_is_a_usage_error(place: Path, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(KdhpcError, match=r"w\.safetensors cannot be read as safetensors \(.*kdhpc train") as error:
        plan_study("wrong", _config("objective.unlearned=pretrained", f"objective.pretrained={path}"))
    assert error.value.exit_code == 2


def test_launch_whose_files_cannot_be_written_makes_no_study(place: Path, storage: Storage) -> None:
    """A file in the place of the study's folder stands for one that may not be written."""
    StudyPaths.of("blocked").root.write_text("in the way")
    with pytest.raises(StorageError, match="blocked"):
        plan_study("blocked", _config()).launch(storage)
    assert study_names(storage) == ()


def test_launch_that_is_refused_leaves_no_config(place: Path, storage: Storage) -> None:
    study, manifest = plan_study("once", _config()).launch(storage)
    assert (manifest.config.exists(), read_manifests("once")) == (True, (manifest,))
    manifest.config.unlink()
    for plan, trials, kind in (
        (plan_study("once", _config("study.seed=9")), None, StudyMismatchError),
        (plan_study("once", _config()), 0, StudyError),
    ):
        take(study)
        with pytest.raises(kind):
            plan.launch(storage, trials=trials)
        assert not list(manifest.config.parent.iterdir())


def test_launch_that_is_refused_leaves_another_of_its_job_alone(
    place: Path, storage: Storage, fake_slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two lines in one batch script, or in the shell of one allocation."""
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    _, first = plan_study("shared", _config()).launch(storage)
    for plan in (plan_study("shared", _config("study.seed=9")), plan_study("shared", _config("study.num_nodes=3"))):
        with pytest.raises(StudyMismatchError):
            plan.launch(storage)
    assert list(first.config.parent.iterdir()) == [first.config]
    assert read_manifests("shared") == (first,)


def test_open_keeps_the_budget_unless_another_is_asked_for(place: Path, storage: Storage) -> None:
    plan = plan_study("kept", _config())
    assert plan.open(storage, trials=9).progress().target == 9
    assert plan.open(storage).progress().target == 9
    assert plan_study("kept", _config("study.trials=3")).open(storage).progress().target == 9
    assert plan.open(storage, trials=4).progress().target == 4


def test_launch_by_a_user_without_a_name_is_by_their_number(
    place: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    assert plan_study("nameless", _config()).launch(storage)[1].user == "54321"


def test_worker_with_other_settings_than_its_study_is_told_what_to_do(
    place: Path, storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    plan_study("fixed", _config()).open(storage)
    assert main(["worker", "--study", "fixed", "training.epochs=3"]) == 1
    err = capsys.readouterr().err
    said = "training.epochs was 4, is 3: give what it was made with (only device.*, worker.* and tracking.* may differ)"
    assert said in err


def test_plan_doubts_means_of_colours_for_grey_images() -> None:
    colours = {"dataset.mean": "[0.4,0.5,0.6]", "dataset.std": "[0.2,0.2,0.2]"}
    config = compose_search(["study=quickstart", *(f"{key}={value}" for key, value in colours.items())]).dataset
    assert "those of fashion_mnist are grey: give one number" in (doubt_normalisation(config, 1) or "")
    assert doubt_normalisation(config, 3) is None
    grey = compose_search(["study=quickstart", "dataset.mean=[0.3]", "dataset.std=[0.3]"]).dataset
    assert doubt_normalisation(grey, 1) is None
