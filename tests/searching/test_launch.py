"""A launch: how many workers it submits, how it ends, and what it refuses before anything is started."""

import contextlib
import subprocess
import sys
from types import SimpleNamespace

import psycopg2
import pytest

from kdhpc.cluster import commands
from kdhpc.cluster.signals import StopSignals
from kdhpc.config.compose import compose_search
from kdhpc.config.paths import StudyPaths, runs_root
from kdhpc.errors import ClusterBusyError, ClusterError
from kdhpc.searching import launch as launching
from kdhpc.searching.jobs import worker_jobs
from kdhpc.searching.launch import Launch, num_missing
from kdhpc.searching.manifest import Manifest, read_manifests
from kdhpc.server.address import EmbeddedAddress
from kdhpc.study.status import StudyStatus, TrialCounts
from kdhpc.study.storage import Storage
from tests.study.made import make, take


@pytest.mark.parametrize(
    ("waiting", "present", "idle", "wanted", "missing"),
    [
        (6, 0, 0, 4, 4),  # a new study
        (2, 0, 0, 4, 2),  # no more workers than trials
        (6, 2, 0, 4, 2),
        (6, 4, 0, 4, 0),
        (6, 4, 4, 4, 0),  # all of them wait in the queue
        (1, 3, 1, 4, 0),  # the third will take it
        (0, 0, 0, 4, 0),
        (6, 9, 0, 4, 0),
    ],
)
def test_num_missing(waiting: int, present: int, idle: int, wanted: int, missing: int) -> None:
    for draining, count in ((False, missing), (True, 0)):
        status = SimpleNamespace(draining=draining, waiting=waiting)
        assert num_missing(status, present=present, idle=idle, wanted=wanted) == count


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many workers each submission asked for."""
    counts: list[int] = []

    def submit_workers(study: str, config: object, cluster: object, count: int) -> str:
        counts.append(count)
        return str(7 + len(counts))

    monkeypatch.setattr(launching, "submit_workers", submit_workers)
    monkeypatch.setattr(launching, "_POLL_S", 0.05)
    return counts


def begun(storage: Storage, *, trials: int = 4, workers: int = 2, arrays: tuple[str, ...] = ("7",)) -> Launch:
    """A launch that has submitted job array 7, or what is given."""
    study = make(storage, target=trials)
    manifest = Manifest(
        study="tiny", launch="first", host="here", user="me", command=(), kdhpc="0", job=None, arrays=arrays
    )
    manifest.write()
    config = compose_search(["study=quickstart", "cluster=slurm", f"cluster.workers={workers}"])
    return Launch(storage, study, manifest, config)


@pytest.fixture(autouse=True)
def _no_launch_before(storage: Storage) -> None:
    for path in StudyPaths.of("tiny").launch("").parent.glob("*.json"):
        path.unlink()


def test_top_up_takes_a_job_that_ends_for_one_that_may_come_back(storage, fake_slurm, submitted) -> None:
    launch = begun(storage)
    fake_slurm.queue("7_0 COMPLETING", "7_1 PENDING")
    assert launch.top_up() == 0
    fake_slurm.queue("7_1 PENDING")
    assert launch.top_up() == 1


def test_top_up_counts_a_job_with_several_trials_once(storage, fake_slurm, submitted) -> None:
    launch = begun(storage, trials=5, workers=4)
    study = make(storage, target=5)
    for _ in range(3):  # HERE is job 17_3.
        take(study)
    StudyPaths.of("tiny").launch("first").unlink()
    Manifest(
        study="tiny", launch="other", host="here", user="me", command=(), kdhpc="0", job=None, arrays=("17",)
    ).write()
    fake_slurm.queue("17_3 RUNNING", "17_4 PENDING")
    assert launch.top_up() == 1, "two trials wait, and one idle worker"


def test_top_up_and_leave_waits_for_workers_that_are_about_to_end(storage, fake_slurm, submitted, caplog) -> None:
    launch = begun(storage)
    fake_slurm.answer(
        "squeue",
        "case $N in 1|2|3) echo '7_0|7|RUNNING|1:00|n|None|x'; echo '7_1|7|COMPLETING|1:00|n|None|x';; esac",
    )
    with StopSignals() as stop, caplog.at_level("INFO"):
        assert launch.top_up_and_leave(stop) == 2
    assert "waiting for jobs that have no trial to get one or to end: 7_0 7_1" in caplog.text


def test_top_up_and_leave_does_not_count_what_takes_long_to_end(storage, fake_slurm, submitted, monkeypatch) -> None:
    monkeypatch.setattr(launching, "_SETTLE_S", 0.2)
    launch = begun(storage)
    fake_slurm.queue("7_0 RUNNING", "7_1 COMPLETING")
    with StopSignals() as stop:
        assert launch.top_up_and_leave(stop) == 1


def test_workers_that_nobody_wrote_down_are_known_by_their_script(storage, fake_slurm, monkeypatch, tmp_path) -> None:
    begun(storage)
    folder = StudyPaths.of("tiny").launch_jobs("first")
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / ".submission_file_0123.sh"
    row = f"|RUNNING|1:00:00|node1|None|{script}"
    fake_slurm.answer("squeue", f"echo '7_0|7{row}'; echo '9_0|9{row}'; echo '8|8|RUNNING|1:00|node1|None|/other.sh'")
    assert [job.job for job in worker_jobs("tiny")] == ["7_0", "9_0"]
    # Submitted by another path to the same folder.
    link = tmp_path / "link"
    link.symlink_to(runs_root())
    monkeypatch.setenv("KDHPC_RUNS", str(link))
    assert [job.job for job in worker_jobs("tiny")] == ["7_0", "9_0"]
    folder.rmdir()


def ended(server_host: object, launch: Launch) -> None:
    with StopSignals() as stop:
        assert launch.watch(server_host, stop, lambda status: None)


def test_watch_ends_the_workers_whose_database_ends_with_it(storage, fake_slurm, submitted, caplog) -> None:
    launch = begun(storage, trials=1)
    take(make(storage, target=1)).complete(50.0)
    server_host = SimpleNamespace(keep_up=lambda: None, leaves_none=True)
    fake_slurm.answer("scancel", "exit 0")
    fake_slurm.answer(
        "squeue",
        "[ $N -lt 4 ] && echo '7_0|7|RUNNING|1:00|n|None|x'; [ $N = 1 ] && echo '7_1|7|PENDING|1:00|n|None|x'; true",
    )
    ended(server_host, launch)
    assert fake_slurm.calls("scancel") == ["--quiet 7_1"]
    server_host.leaves_none = False
    ended(server_host, launch)
    assert len(fake_slurm.calls("squeue")) == 4, "a database that stays is no reason"


def test_watch_cancels_workers_that_do_not_end_by_themselves(storage, fake_slurm, submitted, monkeypatch) -> None:
    monkeypatch.setattr(launching, "_FAREWELL_S", 0.2)
    launch = begun(storage, trials=1)
    take(make(storage, target=1)).complete(50.0)
    fake_slurm.answer("scancel", "exit 0")
    fake_slurm.queue("7_0 RUNNING", "7_1 COMPLETING")
    ended(SimpleNamespace(keep_up=lambda: None, leaves_none=True), launch)
    assert fake_slurm.calls("scancel") == ["--quiet 7_0 7_1"]


@pytest.fixture
def busy_slurm(fake_slurm, monkeypatch):
    """One that lets the first sbatch wait in vain."""
    monkeypatch.setattr(commands, "_BETWEEN_TRIES_S", 0.0)
    monkeypatch.setattr(launching, "_POLL_S", 0.05)
    monkeypatch.setattr(launching, "_QUEUE_POLL_S", 0.0)
    fake_slurm.queue()
    fake_slurm.answer("scontrol", "[ $N = 2 ] && echo 'MaxArraySize = 1001' && echo 'ClusterName = here'")
    words = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
    fake_slurm.answer("sbatch", f"[ $N = 1 ] && {{ echo '{words}' >&2; exit 1; }}; echo Submitted batch job 9")
    return fake_slurm


def test_launch_that_stays_asks_a_busy_controller_again(storage, busy_slurm, caplog) -> None:
    launch, study = begun(storage, trials=1, workers=1, arrays=()), make(storage, target=1)
    assert launch.top_up_or_later() == 0
    assert "no worker is submitted for now, trying again: sbatch did not take the jobs: " in caplog.text

    def show(status: StudyStatus) -> None:
        if len(busy_slurm.calls("sbatch")) == 2 and status.trials.waiting:
            take(study).complete(50.0)

    with StopSignals() as stop:
        assert launch.watch(SimpleNamespace(keep_up=lambda: None, leaves_none=False), stop, show)
    (manifest,) = read_manifests("tiny")
    assert manifest.arrays == ("9@here",)


@pytest.mark.parametrize(("state", "gives_up"), [("complete", False), ("diverged", False), ("failed", True)])
def test_lost_workers_are_counted_from_a_trial_that_ended_well(
    storage, fake_slurm, submitted, state: str, gives_up: bool
) -> None:
    """A broken node that fails one trial after the other would have workers replaced for ever."""
    launch = begun(storage, workers=1)
    fake_slurm.queue()
    launch._replaced = launch._config.worker.max_failures + 1
    counts = {"complete": 0, "pruned": 0, "running": 0, "waiting": 3, "failed": 0} | {state: 1}
    if gives_up:
        with pytest.raises(
            ClusterError, match="workers of study 'tiny' had to be replaced, and no trial ended well meanwhile"
        ):
            launch._replace(TrialCounts(**counts))
    else:
        launch._replace(TrialCounts(**counts))
        assert launch._replaced == 1
        assert submitted == [1]


def test_launch_that_leaves_says_that_the_controller_is_busy(storage, busy_slurm) -> None:
    launch = begun(storage, arrays=())
    with StopSignals() as stop, pytest.raises(ClusterBusyError, match="Socket timed out"):
        launch.top_up_and_leave(stop)


def test_launch_that_is_refused_does_not_stay(storage, busy_slurm) -> None:
    busy_slurm.answer("sbatch", "echo 'sbatch: error: invalid partition specified: nowhere' >&2; exit 1")
    with pytest.raises(ClusterError, match="invalid partition") as raised:
        begun(storage, arrays=()).top_up_or_later()
    assert type(raised.value) is ClusterError


def run(workspace, *argv: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "kdhpc.cli.main", "launch", *argv],
        cwd=workspace.folder,
        env={**workspace.environment, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_launch_on_a_database_that_no_other_node_reaches_and_that_is_in_use_is_refused(workspace, fake_slurm) -> None:
    url = EmbeddedAddress(workspace.runs / "db")().set(drivername="postgresql").render_as_string()
    with contextlib.closing(psycopg2.connect(url)):
        done = run(workspace, "--study", "apart", "study=tiny", PATH=f"{fake_slurm.folder}:/usr/bin:/bin")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "listens on 127.0.0.1 only" in line
    assert line.endswith("`kdhpc db stop` where it runs, then launch again")
    assert not (workspace.folder / "runs" / "apart").exists()


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_launch_without_slurm_says_so_and_starts_nothing(workspace, options, tmp_path) -> None:
    runs = tmp_path / "runs"
    done = run(workspace, "--study", "apart", "study=tiny", *options, PATH=str(tmp_path), KDHPC_RUNS=str(runs))
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "kdhpc: sbatch is not installed here: this must run on a machine of a Slurm cluster"
    ]
    assert not runs.exists()


def test_launch_signal_while_it_is_loaded_counts(workspace, fake_slurm, tmp_path) -> None:
    (tmp_path / "sitecustomize.py").write_text(_SIGNAL_AT_IMPORT)
    done = run(
        workspace, "--study", "early", "study=tiny", PATH=f"{fake_slurm.folder}:/usr/bin:/bin", PYTHONPATH=str(tmp_path)
    )
    assert done.returncode == 130, done.stderr
    assert "SIGUSR2: stopping after this step" in done.stderr


_SIGNAL_AT_IMPORT = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "kdhpc.searching.launch":
            os.kill(os.getpid(), signal.SIGUSR2)

sys.meta_path.insert(0, Finder())
"""
