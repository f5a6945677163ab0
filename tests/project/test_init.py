"""``kdhpc init``: the folder that it makes works at once, and nothing in it is overwritten."""

import os
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from kdhpc.cli.main import main
from kdhpc.cluster.site import Partition
from kdhpc.config.compose import compose_search
from kdhpc.project.site_choice import SiteChoice, choose
from kdhpc.project.writing import write_project
from tests.cluster.conftest import FakeSlurm

_FILES = {
    *("configs/cluster/slurm.yaml", "configs/study/mine.yaml"),
    *("slurm/search_array.sh", "slurm/worker_array.sh", "slurm/reproduce.sh", "slurm/site.sh"),
}
_SINFO = """\
echo 'a line of the site'
echo 'kdhpc|PARTITION|AVAIL|NODES|CPUS|MEMORY|TIMELIMIT|GRES'
echo 'kdhpc|cpu*|up|100|64|256000|7-00:00:00|(null)'
echo 'kdhpc|old|down|4|16|64000|infinite|gpu:4'
echo 'kdhpc|gpu|up|8|64+|512000+|2:00:00|gpu:a100:8(S:0-1),nvme:1'
"""


def partition(name: str, **facts: object) -> Partition:
    usual = {"is_default": False, "is_up": True, "nodes": 4, "cores": "64", "memory_mb": "256000", "gres": ""}
    return Partition(name=name, **{**usual, "time_limit": "infinite", **facts})  # type: ignore[arg-type]


def written(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, without settings of the tests."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in [name for name in os.environ if name.startswith("KDHPC_")]:
        monkeypatch.delenv(name)
    return folder


def test_project_asks_for_what_slurm_reports_and_can_be_launched(
    here: Path, fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_slurm.answer("sinfo", _SINFO)
    fake_slurm.answer("sacctmgr", "echo vision")
    assert main(["init"]) == 0
    out, err = capsys.readouterr()
    assert set(out.splitlines()) == written(here) == _FILES
    assert "partition gpu: 8 nodes of 64+ cores, 512000+ MB, gpu:a100:8" in err
    assert "sbatch slurm/search_array.sh --study mine" in err

    cluster = compose_search(["study=mine", "cluster=slurm"]).cluster
    assert (cluster.partition, cluster.account, cluster.gpus_per_worker) == ("gpu", "vision", 1)
    assert (cluster.cpus_per_worker, cluster.mem_gb, cluster.time_min) == (4, 16, 120)
    assert main(["launch", "--study", "mine", "--dry-run"]) == 0
    script = capsys.readouterr().out
    for option in ("--partition=gpu", "--account=vision", "--mem=16384M", "--time=120"):
        assert f"#SBATCH {option}\n" in script

    launching, worker = ((here / "slurm" / f"{name}_array.sh").read_text() for name in ("search", "worker"))
    assert "#SBATCH --account=vision\n" in launching
    assert "--partition" not in launching  # The default one, without GPUs, is right for it.
    for line in ("--partition=gpu", "--account=vision", "--gres=gpu:1", "--mem=16G", "--time=02:00:00"):
        assert f"#SBATCH {line}\n" in worker


def test_project_without_slurm_says_what_to_fill_in(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["init", "my project"]) == 0
    out, err = capsys.readouterr()
    assert set(out.splitlines()) == {f"my project/{name}" for name in _FILES}
    assert "sbatch is not installed here" in err
    assert "Fill in partition and account" in err
    assert "cd 'my project'\n" in err
    assert "kdhpc search --study mine" in err
    monkeypatch.chdir(here / "my project")
    assert main(["search", "--study", "mine", "--dry-run"]) == 0
    assert compose_search(["study=mine", "cluster=slurm"]).cluster.partition is None


def test_what_exists_is_left_and_named(here: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    (here / "slurm").mkdir()
    (here / "slurm" / "site.sh").write_text("mine")
    (here / "slurm" / "search_array.sh").symlink_to("/nowhere/else")
    assert main(["init"]) == 0
    out, err = capsys.readouterr()
    assert set(out.splitlines()) == _FILES - {"slurm/site.sh", "slurm/search_array.sh"}
    assert "left as it is: slurm/site.sh\n" in err
    assert "left as it is: slurm/search_array.sh\n" in err
    assert (here / "slurm" / "site.sh").read_text() == "mine"
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    assert main(["init"]) == 0
    assert capsys.readouterr().out == ""
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("folder", ["file", "file/below", "/proc/nowhere"])
def test_folder_that_cannot_be_written_is_one_line(here: Path, folder: str, capsys, monkeypatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    (here / "file").write_text("")
    assert main(["init", folder]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert f"kdhpc: {folder}" in err
    assert "cannot be made" in err


def test_scripts_run_the_environment_that_wrote_them(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOADEDMODULES", "cuda/12.8:python/3.11")
    write_project(here, SiteChoice())
    site = (here / "slurm" / "site.sh").read_text()
    assert f"\nVIRTUAL_ENV={shlex.quote(sys.prefix)}\n" in site
    assert "\n# module load cuda/12.8 python/3.11\n" in site


def test_environment_of_the_project_itself_needs_no_name(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / ".venv" / "bin").mkdir(parents=True)
    (here / ".venv" / "bin" / "kdhpc").touch()
    monkeypatch.setattr(sys, "prefix", str(here / ".venv"))
    write_project(here, SiteChoice())
    assert "\nVIRTUAL_ENV=" not in (here / "slurm" / "site.sh").read_text()


def test_site_without_gpus_default_or_memory(here: Path) -> None:
    choice = choose([partition("a", cores="2", memory_mb="1", time_limit="3:00"), partition("b")], ["x", "no"])
    assert (choice.partition, choice.launch_partition, choice.account) == ("a", "a", None)
    assert (choice.gpus, choice.cores, choice.mem_gb, choice.time_min, choice.signal_delay_s) == (0, 2, None, 3, 90)
    write_project(here, choice)
    cluster = compose_search(["study=mine", "cluster=slurm"]).cluster
    assert (cluster.gpus_per_worker, cluster.mem_gb, cluster.time_min) == (0, None, 3)
    worker = (here / "slurm" / "worker_array.sh").read_text()
    assert "--gres" not in worker
    assert "\n##SBATCH --mem=16G\n" in worker
    assert "\n#SBATCH --signal=B:USR2@90\n" in worker


@pytest.mark.parametrize("name", ["no", "1e3", "it's", "a: b # c"])
def test_names_of_the_site_are_text_in_the_config(name: str, here: Path) -> None:
    write_project(here, choose([partition(name, gres="gpu:1")], [name]))
    document = yaml.safe_load((here / "configs" / "cluster" / "slurm.yaml").read_text())
    assert (document["partition"], document["account"]) == (name, name)


def test_share_of_a_node_is_asked_for() -> None:
    choice = choose([partition("g", cores="16", memory_mb="64000", gres="gpu:8")], [])
    assert (choice.cores, choice.mem_gb) == (2, 7)
    assert (
        choose([partition("g", gres="gpu"), partition("d", gres="gpu:v100:2", is_default=True)], []).partition is None
    )
    assert choose([], []).gpus == 1
