"""What can be said of Slurm without one."""

import os
import subprocess
import sys

import pytest

from kdhpc.cluster import slurm
from kdhpc.cluster.launch import num_missing
from kdhpc.cluster.slurm import QueuedJob
from kdhpc.study.summary import TrialCounts


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("59:10", 3550), ("1:00:00", 3600), ("1-02:03:04", 93784), ("0:00", 0), ("UNLIMITED", None), ("INVALID", None)],
)
def test_parse_duration(text: str, seconds: float | None) -> None:
    assert slurm.parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("state", "reason", "condition"),
    [
        ("RUNNING", "None", "running"),
        ("COMPLETING", "None", "ending"),
        ("PENDING", "BeginTime", "waiting for requeue"),
        ("PENDING", "Resources", "waiting (Resources)"),
        ("SUSPENDED", "None", "suspended"),
    ],
)
def test_condition_of_a_job(state: str, reason: str, condition: str) -> None:
    job = QueuedJob(job="7_1", array="7", state=state, time_left="1:00", node="", reason=reason)
    assert job.condition == condition


def test_clean_environment_hides_the_job_and_gives_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    inherited = {"SLURM_JOB_ID": "7", "SLURM_MEM_PER_CPU": "1", "SBATCH_TIMELIMIT": "1", "SUBMITIT_FOLDER": "x"}
    local = {"CUDA_VISIBLE_DEVICES": "0", "TORCHINDUCTOR_CACHE_DIR": "/tmp/x", "TMPDIR": "/tmp"}
    kept = {"SLURM_CONF": "/etc/slurm.conf", "KDHPC_RUNS": "/runs"}
    for name, value in {**inherited, **local, **kept}.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with slurm.clean_environment():
        assert not {*inherited, *local} & os.environ.keys()
        assert kept.items() <= os.environ.items()
    assert dict(os.environ) == before


def test_clean_environment_outside_a_job_keeps_what_the_user_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp")
    with slurm.clean_environment():
        assert os.environ["TMPDIR"] == "/tmp"


def test_own_job_of_an_array_task_is_never_the_raw_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert slurm.own_job() == "7_3"


@pytest.mark.parametrize(
    ("waiting", "running", "present", "wanted", "missing"),
    [
        (6, 0, 0, 4, 4),  # a new study
        (2, 0, 0, 4, 2),  # no more workers than trials
        (6, 2, 2, 4, 2),
        (6, 4, 4, 4, 0),
        (6, 0, 4, 4, 0),  # all of them wait in the queue
        (1, 2, 3, 4, 0),  # the third will take it
        (0, 1, 0, 4, 0),  # its worker is gone, but its lease stands
        (1, 0, 0, 4, 1),
        (0, 0, 0, 4, 0),
        (6, 0, 9, 4, 0),
    ],
)
def test_num_missing(waiting: int, running: int, present: int, wanted: int, missing: int) -> None:
    counts = TrialCounts(complete=0, pruned=0, running=running, waiting=waiting, failed=0)
    assert num_missing(counts, present, wanted) == missing


def test_launch_and_status_import_no_torch() -> None:
    code = "import sys, kdhpc.cluster.launch, kdhpc.cluster.jobs; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
