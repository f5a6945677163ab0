"""Whose jobs a study's are: on which cluster, and whether variables are this job's or those of one outside of it."""

import signal
import time
from pathlib import Path

import pytest

from kdhpc.cli.main import main
from kdhpc.cluster import commands, slurm
from kdhpc.cluster.requeue import requeue_if_out_of_time
from kdhpc.cluster.signals import StopSignals
from kdhpc.config.compose import compose_search
from kdhpc.config.paths import StudyPaths
from kdhpc.errors import ClusterError
from kdhpc.searching.jobs import cancel_waiting, launching_jobs, mark_lost, study_jobs, vanished, worker_jobs
from kdhpc.searching.manifest import Manifest, freeze_launch
from kdhpc.study.owner import Owner
from kdhpc.study.status import read_status
from kdhpc.study.storage import Storage
from tests.study.made import make, take

# Two clusters whose numbers meet: 7_0 is the study's on gpu, and nobody's here.
_TWO = """\
case "$*" in
  *"-M gpu"*)
    echo '7_0|7|RUNNING|1:00|g1|None|x'; echo '7_1|7|PENDING||g|Priority|x'; echo '3|3|RUNNING|1:00|g|None|x';;
  *"-M "*) echo "squeue: error: no such cluster" >&2; exit 1;;
  *) echo '7_2|7|RUNNING|1:00|h1|None|x'; echo '8_0|8|RUNNING|1:00|h2|None|x';;
esac
"""


@pytest.fixture
def clusters(storage: Storage, fake_slurm):
    """A study whose launcher is job 3 of gpu, with workers there and here; this machine is of here."""
    make(storage)
    for path in StudyPaths.of("tiny").launch("").parent.glob("*.json"):
        path.unlink()
    known = {"study": "tiny", "host": "h", "user": "u", "command": (), "kdhpc": "0"}
    Manifest(**known, launch="a", job="3@gpu", arrays=("7@gpu",), cluster="gpu").write()
    Manifest(**known, launch="b", job=None, arrays=("8@here",), cluster="here").write()
    Manifest(**known, launch="local", job=None, arrays=(), executor="local").write()
    StudyPaths.of("tiny").launch_jobs("local").mkdir(parents=True, exist_ok=True)
    fake_slurm.answer("scontrol", "echo 'ClusterName = here'")
    fake_slurm.answer("scancel", "exit 0")
    fake_slurm.answer("squeue", _TWO)
    yield fake_slurm
    for path in StudyPaths.of("tiny").launch("").parent.glob("*.json"):
        path.unlink()


def test_jobs_of_a_study_are_looked_for_and_cancelled_where_they_are(clusters, monkeypatch) -> None:
    monkeypatch.setenv("SLURM_CLUSTERS", "elsewhere")
    monkeypatch.setenv("SCANCEL_STATE", "RUNNING")
    assert [job.job for job in study_jobs("tiny")] == ["8_0", "7_0@gpu", "7_1@gpu", "3@gpu"]
    assert [job.job for job in worker_jobs("tiny")] == ["8_0", "7_0@gpu", "7_1@gpu"]
    assert [job.job for job in launching_jobs("tiny")] == ["3@gpu"]
    clusters.answer("scancel", "env | grep -E '^(SLURM_CLUSTERS|SCANCEL_)' && exit 1; exit 0")
    assert cancel_waiting(worker_jobs("tiny")) == ("7_1@gpu",)
    assert clusters.calls("scancel") == ["-M gpu --quiet 7_1"]
    assert slurm.is_started("3@gpu")
    assert not slurm.is_started("3@here")


def test_workers_are_lost_by_the_queue_of_their_own_cluster(clusters, storage: Storage) -> None:
    study = make(storage)
    for job in ("7_0@gpu", "7_2@gpu", "8_0@here", "8_1@here"):
        take(study, Owner.current(job=job))
    leases = study.active_leases()
    lost = [lease.owner.job for lease in vanished("tiny", leases, worker_jobs("tiny"))]
    assert lost == ["7_2@gpu", "8_1@here"]
    shown = mark_lost(read_status(storage, "tiny"), study_jobs("tiny")).workers
    assert {worker.job: worker.lost for worker in shown} == {
        "7_0@gpu": False,
        "7_2@gpu": True,
        "8_0": False,
        "8_1": True,
    }


def test_queue_of_a_cluster_that_is_away_frees_nothing(clusters) -> None:
    clusters.answer("squeue", _TWO.replace('*"-M gpu"*)', '*"-M none"*)'))
    with pytest.raises(ClusterError, match=r"`squeue -M gpu .*no such cluster"):
        worker_jobs("tiny")


def _job(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    slurm._own_job_asked.cache_clear()


_SHOWN = "JobId=12 {array}JobName=x Requeue=1 Restarts={restarts} BatchFlag=1 Command=/x/Restarts=9"


@pytest.mark.parametrize(
    ("array", "restarts", "own"),
    [
        ("", 0, "12"),
        ("", 2, "12"),
        ("ArrayJobId=7 ArrayTaskId=3 ", 1, "7_3"),
        ("ArrayJobId=12 ArrayTaskId=3 ", 0, "12_3"),
    ],
)
def test_own_job_is_told_from_the_one_it_was_submitted_in(fake_slurm, monkeypatch, array, restarts, own) -> None:
    """sbatch, called in task 3 of array 7 that was requeued once, hands that task's variables on to job 12."""
    lines = ["Welcome", "JobId=13 ArrayJobId=12 ArrayTaskId=4 Restarts=5 Command=x"]
    lines.append(_SHOWN.format(array=array, restarts=restarts))
    fake_slurm.answer("scontrol", "[ $1 = requeue ] || " + "; ".join(f"echo '{line}'" for line in lines))
    _job(
        monkeypatch,
        **{"SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3", "SLURM_RESTART_COUNT": "1"},
        **{"SUBMITIT_EXECUTOR": "slurm", "KDHPC_SLURM_JOB": "9"},
    )
    assert slurm.own_job() == own
    assert slurm.num_restarts() == restarts
    assert not slurm.is_submitted()
    with StopSignals() as stop:
        stop.stop(signal.SIGUSR2)
        monkeypatch.setattr("kdhpc.cluster.requeue._TERM_PATIENCE_S", 0.0)
        assert requeue_if_out_of_time(stop, is_ours=True)
    assert fake_slurm.calls("scontrol") == ["show job -o 12", f"requeue {own}"]


def test_own_job_that_slurm_does_not_tell_is_an_error(fake_slurm, monkeypatch) -> None:
    monkeypatch.setattr(commands, "_BETWEEN_TRIES_S", 0.0)
    _job(monkeypatch, SLURM_JOB_ID="12", SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID="3")
    fake_slurm.answer("scontrol", "echo nothing")
    with pytest.raises(ClusterError, match="does not say whether job 12"):
        slurm.own_job()
    _job(monkeypatch, KDHPC_SLURM_JOB="12", SUBMITIT_EXECUTOR="slurm", SLURM_CLUSTER_NAME="gpu")
    assert slurm.own_job() == "7_3@gpu"
    assert slurm.is_submitted()


def test_launches_of_one_allocation_have_their_own_files(fake_slurm, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KDHPC_RUNS", str(tmp_path / "runs"))
    _job(monkeypatch, SLURM_JOB_ID="12", SLURM_CLUSTER_NAME="gpu")
    config = compose_search(["study=quickstart", "cluster=slurm"])
    made = [freeze_launch("tiny", config) for _ in range(3)]
    assert len({manifest.config for manifest in made}) == 3
    assert {(manifest.job, manifest.cluster) for manifest in made} == {("12@gpu", "gpu")}
    assert all(manifest.config.exists() for manifest in made)


@pytest.mark.parametrize("banner", ["echo Welcome", "printf 'kdhpc \\033[1m\\n\\n'", "echo 'JOBID|STATE'"])
def test_queue_is_read_between_the_words_of_a_site(fake_slurm, banner: str) -> None:
    header = "echo 'kdhpc|JOBID|ARRAY_JOB_ID|STATE|TIME_LEFT|NODELIST|REASON|COMMAND'"
    row = "echo 'kdhpc|7_0|7|RUNNING|1:00|n|None|/a|b.sh'"
    fake_slurm.answer("squeue", f"{banner}; {header}; {banner}; {row}; {banner}; echo '1 job'", decorated=True)
    assert [(job.job, job.script) for job in slurm.queue()] == [("7_0", "/a|b.sh")]
    fake_slurm.answer("squeue", f"{banner}; {header}", decorated=True)
    assert slurm.queue() == ()


@pytest.mark.parametrize(
    "answer",
    [
        "true",
        "echo '7_0 RUNNING'",
        "echo '[site] kdhpc|JOBID|ARRAY_JOB_ID'; echo '[site] kdhpc|7_0|7'",
        "echo 'kdhpc|JOBID|x'; echo 'kdhpc|7_0|7|RUNNING'",
    ],
)
def test_queue_that_is_not_understood_is_one_line_and_not_empty(fake_slurm, answer: str) -> None:
    fake_slurm.answer("squeue", answer, decorated=True)
    with pytest.raises(ClusterError, match=r"^the answer of squeue \(\S+/squeue\) is not understood: .+") as raised:
        slurm.queue()
    assert str(raised.value).isprintable()


def test_command_that_a_wrapper_hangs_in_is_ended_in_time(fake_slurm) -> None:
    fake_slurm.answer("squeue", "sleep 50; true", decorated=True)
    before = time.monotonic()
    with pytest.raises(ClusterError, match="did not answer within 0 s"):
        commands.ask("squeue", timeout_s=0.3)
    assert time.monotonic() - before < 5


_UNCONFIGURED = """\
echo "squeue: error: resolve_ctls_from_dns_srv: res_nsearch error: Unknown host
squeue: error: fetch_config: DNS SRV lookup failed
squeue: error: _establish_config_source: failed to fetch config
squeue: fatal: Could not establish a configuration source" >&2; exit 1"""


def test_client_without_configuration_is_asked_once_and_costs_a_short_line(clusters, capsys, monkeypatch) -> None:
    for program in ("squeue", "scontrol"):
        clusters.answer(program, _UNCONFIGURED)
    slurm._KNOWN.clear()
    line = "Slurm's commands know of no cluster on this machine: set SLURM_CONF to its slurm.conf"
    assert main(["status", "--study", "tiny"]) == 0
    assert capsys.readouterr().err == f"kdhpc: no jobs shown: {line}\n"
    assert len(clusters.calls("scontrol") + clusters.calls("squeue")) == 1


def test_launch_without_a_configuration_begins_nothing(fake_slurm, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("KDHPC_RUNS", str(tmp_path / "runs"))
    fake_slurm.answer("scontrol", _UNCONFIGURED)
    assert main(["launch", "--study", "tiny", "study=quickstart"]) == 1
    assert "know of no cluster" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_search_of_this_machine_has_nothing_to_ask_slurm(clusters, storage: Storage, capsys) -> None:
    for launch in ("a", "b"):
        StudyPaths.of("tiny").launch(launch).unlink()
    take(make(storage), Owner.current(job="local-123")).complete(50.0)
    for program in ("squeue", "scontrol"):
        clusters.answer(program, _UNCONFIGURED)
    assert main(["status", "--study", "tiny"]) == 0
    assert main(["stop", "--study", "tiny"]) == 0
    assert capsys.readouterr().err == ""
    assert clusters.calls("squeue") + clusters.calls("scontrol") + clusters.calls("scancel") == []
