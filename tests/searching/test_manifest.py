"""What a launch leaves on the disk: whole files, and one that is damaged costs nothing but what it said."""

import logging
from pathlib import Path

import pytest

from kdhpc.config.compose import compose_search
from kdhpc.config.document import read_config
from kdhpc.config.paths import StudyPaths
from kdhpc.config.schema import SearchConfig
from kdhpc.errors import ClusterError, ConfigError, StorageError
from kdhpc.searching.jobs import launching_jobs, study_jobs, worker_jobs
from kdhpc.searching.launch import continued_launch
from kdhpc.searching.manifest import Manifest, freeze_launch, read_manifest, read_manifests
from tests.faults import FaultyDisk


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KDHPC_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def _write(launch: str, *, job: str | None = None, arrays: tuple[str, ...] = ()) -> Path:
    Manifest(
        study="tiny", launch=launch, host="here", user="me", command=("x",), kdhpc="0", job=job, arrays=arrays
    ).write()
    return StudyPaths.of("tiny").launch(launch)


_DAMAGED = [b"", b"\0" * 300, b'{"study": "ti', b"[]", b'{"study": "tiny"}', b'{"study": NaN}', b"\xff\xfe{"]


@pytest.mark.parametrize("content", _DAMAGED)
def test_a_damaged_manifest_is_told_of_once_and_costs_what_it_said(
    runs: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    _write("a", arrays=("7",))
    path = _write("job12", job="12", arrays=("8",))
    path.write_bytes(content)

    for _ in range(2):
        found = {manifest.launch: (manifest.job, manifest.arrays) for manifest in read_manifests("tiny")}
        assert found == {"a": (None, ("7",)), "job12": ("12", ())}
    assert read_manifest("tiny", "job12") is None

    (told,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert told.startswith(f"{path} is damaged (")
    assert "\n" not in told


def test_jobs_of_a_launch_whose_manifest_is_damaged_are_still_counted(runs: Path, fake_slurm) -> None:
    """As in a launch that died before it wrote down what it submitted: by the folder of the jobs' script."""
    _write("job12", job="12", arrays=("8",)).write_bytes(b"\0" * 300)
    folder = StudyPaths.of("tiny").launch_jobs("job12")
    folder.mkdir(parents=True)
    jobs = (("8_0", "RUNNING", folder), ("8_1", "PENDING", folder), ("9_0", "RUNNING", "/"), ("12", "RUNNING", "/"))
    lines = [f"{job}|{job.partition('_')[0]}|{state}|1:00:00|node1|None|{at}/x.sh" for job, state, at in jobs]
    fake_slurm.answer("squeue", "\n".join(f"echo '{line}'" for line in lines))

    assert [job.job for job in worker_jobs("tiny")] == ["8_0", "8_1"]
    assert [job.job for job in study_jobs("tiny")] == ["8_0", "8_1", "12"]
    assert [job.job for job in launching_jobs("tiny")] == ["12"]


def _in_job(monkeypatch: pytest.MonkeyPatch, *, restarts: int) -> None:
    """One whose variables are its own."""
    for name, value in (("SLURM_JOB_ID", "12"), ("KDHPC_SLURM_JOB", "12"), ("SLURM_CLUSTER_NAME", "gpu")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))


def test_a_launcher_that_was_requeued_begins_anew_without_its_manifest(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _in_job(monkeypatch, restarts=0)
    manifest = freeze_launch("tiny", compose_search(["study=quickstart", "cluster=slurm"]))
    manifest.write()
    assert {"kdhpc", "python", "torch"} <= manifest.versions.keys()
    assert read_manifest("tiny", manifest.launch) == manifest
    _in_job(monkeypatch, restarts=1)
    StudyPaths.of("tiny").launch(manifest.launch).write_bytes(b"\0")

    assert continued_launch("tiny") is None
    (found,) = read_manifests("tiny")
    assert (found.job, found.cluster) == ("12@gpu", "gpu")


def test_launches_of_one_job_go_on_each_as_what_it_was(runs: Path, fake_slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of one batch script, two of them the same; the last did not come to its turn before the requeue."""
    _in_job(monkeypatch, restarts=0)
    made = {}
    for workers in (1, 2, 2):
        monkeypatch.setattr("sys.argv", ["kdhpc", "launch", "--study", "tiny", "--workers", str(workers)])
        config = compose_search(["study=quickstart", "cluster=slurm", f"cluster.workers={workers}"])
        manifest = freeze_launch("tiny", config)
        manifest.write()
        assert continued_launch("tiny") is None
        made.setdefault(workers, set()).add(manifest.launch)
    assert sum(len(names) for names in made.values()) == 3

    for restarts in (1, 2):
        _in_job(monkeypatch, restarts=restarts)
        gone_on = {}
        for workers in (1, 2, 2):
            monkeypatch.setattr("sys.argv", ["kdhpc", "launch", "--study", "tiny", "--workers", str(workers)])
            continued = continued_launch("tiny")
            assert continued is not None
            assert continued[1].cluster.workers == workers
            gone_on.setdefault(workers, set()).add(continued[0].launch)
        assert gone_on == made
        assert continued_launch("tiny") is None
    monkeypatch.setattr("sys.argv", ["kdhpc", "launch", "--study", "tiny", "--workers", "9"])
    _in_job(monkeypatch, restarts=3)
    assert continued_launch("tiny") is None


def test_manifests_on_a_disk_that_fails(disk: FaultyDisk, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    monkeypatch.setenv("KDHPC_RUNS", str(disk.path / "runs"))
    _write("a", arrays=("7",))
    path = _write("b", arrays=("8",))

    disk.rules("open launches/b err=ESTALE 1", "readdir launches err=EIO 1")
    assert [manifest.arrays for manifest in read_manifests("tiny")] == [("7",), ("8",)]

    disk.rules("open launches/b err=EACCES")
    assert [manifest.arrays for manifest in read_manifests("tiny")] == [("7",), ()]
    assert f"{path} cannot be read: Permission denied" in caplog.messages
    with pytest.raises(StorageError, match=r"launches/b\.json cannot be read"):
        read_manifest("tiny", "b")

    disk.rules("readdir launches err=EACCES")
    with pytest.raises(ClusterError, match="launches cannot be read: Permission denied"):
        read_manifests("tiny")

    disk.rules("flush launches/.b late=EDQUOT")
    with pytest.raises(StorageError, match=r"launches/b\.json cannot be written: Disk quota exceeded"):
        _write("b", arrays=("9",))
    disk.rules()
    assert [manifest.arrays for manifest in read_manifests("tiny")] == [("7",), ("8",)]
    assert read_manifests("other") == ()


def test_a_frozen_config_is_whole_or_not_there(disk: FaultyDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDHPC_RUNS", str(disk.path / "runs"))
    config = compose_search(["study=quickstart"])
    disk.rules("write,flush,fsync .yaml late=EDQUOT")
    with pytest.raises(StorageError, match=r"config/\S+\.yaml cannot be written: Disk quota exceeded"):
        freeze_launch("tiny", config)
    disk.rules()
    assert not [path for path in (disk.path / "runs").rglob("*") if path.is_file()]

    path = freeze_launch("tiny", config).config
    disk.rules("open .yaml err=ESTALE 1")
    assert read_config(SearchConfig, path) == config
    disk.rules("open .yaml err=EACCES")
    with pytest.raises(StorageError, match=rf"{path} cannot be read: Permission denied"):
        read_config(SearchConfig, path)
    disk.rules()
    path.write_bytes(b"\0" * 100)
    with pytest.raises(ConfigError, match=r"config file \S+\.yaml.* cannot be read"):
        read_config(SearchConfig, path)
