"""What can be said of Slurm without one."""

import os
import subprocess
import sys

import pytest

from kdhpc.cluster import commands, slurm
from kdhpc.cluster.slurm import QueuedJob
from kdhpc.errors import ClusterBusyError, ClusterError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("59:10", 3550), ("1:00:00", 3600), ("1-02:03:04", 93784), ("0:00", 0), ("UNLIMITED", None), ("INVALID", None)],
)
def test_parse_duration(text: str, seconds: float | None) -> None:
    assert commands.parse_duration(text) == seconds


@pytest.mark.parametrize(("given", "cpus"), [("1", 1), ("1000000", len(os.sched_getaffinity(0))), (None, None)])
def test_own_cpus_are_those_of_the_job_where_the_machine_has_them(
    given: str | None, cpus: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    if given is None:
        monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    else:
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", given)
    assert slurm.own_cpus() == cpus


@pytest.mark.parametrize(
    ("state", "reason", "condition"),
    [
        ("RUNNING", "None", "running"),
        ("COMPLETING", "None", "ending"),
        ("PENDING", "BeginTime", "waiting for requeue"),
        ("PENDING", "Resources", "waiting (Resources)"),
        ("SUSPENDED", "None", "suspended"),
        ("PENDING", "JobHeldUser", "held (JobHeldUser)"),
        ("PENDING", "launch failed requeued held", "held (launch failed requeued held)"),
        ("PENDING", "DependencyNeverSatisfied", "held (DependencyNeverSatisfied)"),
    ],
)
def test_condition_of_a_job(state: str, reason: str, condition: str) -> None:
    job = QueuedJob(job="7_1", array="7", state=state, time_left="1:00", node="", reason=reason, script="")
    assert job.condition == condition


def test_clean_environment_hides_the_job_and_gives_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    inherited = {"SLURM_JOB_ID": "7", "SLURM_MEM_PER_CPU": "1", "SBATCH_TIMELIMIT": "1", "SUBMITIT_FOLDER": "x"}
    local = {"CUDA_VISIBLE_DEVICES": "0", "TORCHINDUCTOR_CACHE_DIR": "/tmp/x", "TMPDIR": "/tmp"}
    kept = {"SLURM_CONF": "/etc/slurm.conf", "SLURM_CONF_SERVER": "head", "SLURM_JWT": "x", "KDHPC_RUNS": "/runs"}
    for name, value in {**inherited, **local, **kept}.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with commands.clean_environment():
        assert not {*inherited, *local} & os.environ.keys()
        assert kept.items() <= os.environ.items()
    assert dict(os.environ) == before


def test_clean_environment_outside_a_job_keeps_what_the_user_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp")
    with commands.clean_environment():
        assert os.environ["TMPDIR"] == "/tmp"


def test_own_job_of_an_array_task_is_never_the_raw_id(fake_slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("KDHPC_SLURM_JOB", "7")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert slurm.own_job() == "7_3"


def test_queue_is_asked_for_all_partitions_whatever_the_user_has_set(fake_slurm, monkeypatch) -> None:
    monkeypatch.setenv("SQUEUE_STATES", "PENDING")
    fake_slurm.answer("squeue", 'echo "7_0|7|RUNNING|1:00|node1|None|/a|b$SQUEUE_STATES/x.sh"')
    (job,) = slurm.queue()
    assert (job.job, job.array, job.state, job.script) == ("7_0", "7", "RUNNING", "/a|b/x.sh")
    assert "-a" in fake_slurm.calls("squeue")[0].split()


def test_queue_patient_asks_a_busy_controller_again(fake_slurm, monkeypatch) -> None:
    monkeypatch.setattr(commands, "_BETWEEN_TRIES_S", 0.0)
    fake_slurm.answer("squeue", "[ $N -ge 4 ] && echo '7|7|RUNNING|1:00|node1|None|x.sh'")
    with pytest.raises(ClusterError, match="squeue"):
        slurm.queue()
    assert [job.job for job in slurm.queue(patient=True)] == ["7"]


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("Batch job submission failed: Socket timed out on send/recv operation", ClusterBusyError),
        ("Batch job submission failed: Unable to contact slurm controller (connect failure)", ClusterBusyError),
        ("Slurm temporarily unable to accept job, sleeping and retrying", ClusterBusyError),
        ("Batch job submission failed: Resource temporarily unavailable", ClusterBusyError),
        ("Batch job submission failed: Slurm backup controller in standby mode", ClusterBusyError),
        ("invalid partition specified: nowhere", ClusterError),
        ("Batch job submission failed: Requested node configuration is not available", ClusterError),
        ("Batch job submission failed: Invalid account or account/partition combination specified", ClusterError),
    ],
)
def test_refusal_knows_a_busy_controller_by_its_words(words: str, kind: type[ClusterError]) -> None:
    error = commands.refusal("sbatch did not take it", f"sbatch: error:\n {words}\n")
    assert (type(error), str(error)) == (kind, f"sbatch did not take it: sbatch: error: {words}")


def test_largest_array_asks_a_busy_controller_again(fake_slurm, monkeypatch) -> None:
    monkeypatch.setattr(commands, "_BETWEEN_TRIES_S", 0.0)
    fake_slurm.answer("scontrol", "[ $N -ge 3 ] && echo 'MaxArraySize            = 1001'")
    assert slurm.largest_array() == 1001


def test_time_limit_is_by_the_clock_of_slurm(fake_slurm, monkeypatch) -> None:
    assert slurm.time_limit() is None, "outside of a job"
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_END_TIME", "1")
    assert slurm.time_limit() is None, "no answer"
    fake_slurm.answer("squeue", "echo '7|30:00|1:00:00'")
    limit = slurm.time_limit()
    assert limit is not None
    assert (limit.left_s, limit.whole_s) == (1800, 3600)
    fake_slurm.answer("squeue", "echo '7|UNLIMITED|UNLIMITED'")
    assert slurm.time_limit() is None


def test_launch_and_status_import_no_torch() -> None:
    code = "import sys, kdhpc.searching.launch, kdhpc.searching.jobs; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
