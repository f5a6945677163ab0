"""What surrounds a job on a real Slurm: an outer job, another cluster, a site's own commands, hands that hold."""

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.slurm.faults import Cluster
from tests.slurm.site import SEARCH
from tests.workspace import PATIENCE_S, until

_REQUEUES_ITSELF = """\
#!/bin/bash
[ "${SLURM_RESTART_COUNT:-0}" = 0 ] || exec sleep 60
exec python -c 'from kdhpc.cluster import slurm; print(slurm.own_job()); slurm.requeue_own_job()'
"""


def test_job_submitted_from_an_array_task_requeues_itself(cluster: Cluster) -> None:
    with cluster.login_node() as site:
        (site.folder / "inner.sh").write_text(_REQUEUES_ITSELF)
        submit = "sbatch --parsable --exclude=node4 --output=inner.out inner.sh > inner.id"
        outer = site.sbatch("--array=3", "--output=/dev/null", f"--wrap={submit}")
        assert site.ended(f"{outer}_3") == "COMPLETED"
        inner = (site.folder / "inner.id").read_text().strip()
        try:
            site.restarted(inner)
            assert site.job(f"{outer}_3")["Restarts"] == "0"
            assert (site.folder / "inner.out").read_text().startswith(f"{inner}@sandbox\n")
        finally:
            site.slurm("scancel", inner)


def test_cluster_that_slurm_does_not_know_is_refused_before_anything_is_submitted(cluster: Cluster) -> None:
    with cluster.login_node() as site:
        site.environment["SLURM_CLUSTERS"] = "nowhere"
        done = site.run("launch", "--study", "nowhere", *SEARCH, "--workers", "2", "--trials", "2")
        assert done.returncode == 1
        assert "'nowhere' can't be reached now" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
        del site.environment["SLURM_CLUSTERS"]
        assert not site.jobs(name="kdhpc-nowhere")


# Another cluster, as far as this machine's commands tell: where none is named they speak of an empty one.
_WRAPPER = """\
#!/bin/bash
echo "*** {program}: the maintenance of 12 December ***"
[ {program} = sbatch ] && {{ grep -q -- "--clusters=far$" "$1" || exit 9; sed -i /--clusters=/d "$1"; }}
[ "$1" = -M ] && {{ [ "$2" = far ] && shift 2 || exit 8; }} || [ {program} = sbatch ] || set -- "${{@/#0/1}}"
{real} "$@" | sed 's/^Submitted batch job //; s/^ClusterName .*/ClusterName = {name}/'
exit "${{PIPESTATUS[0]}}"
"""


@pytest.fixture
def far_cluster(cluster: Cluster, tmp_path: Path) -> Path:
    """A folder of commands that decorate what they print, for the cluster far; that of this machine is empty."""
    for program in ("sbatch", "squeue", "scontrol", "scancel"):
        path = tmp_path / program
        path.write_text(_WRAPPER.format(program=program, real=shutil.which(program), name="near"))
        path.chmod(0o755)
    return tmp_path


def test_search_on_another_cluster_behind_the_commands_of_a_site(cluster: Cluster, far_cluster: Path) -> None:
    with cluster.login_node() as site:
        user = cluster.login_node()  # Not left: what is left over is found by the commands as they are.
        user._studies = site._studies
        user.environment |= {"PATH": f"{far_cluster}:{user.environment['PATH']}", "SLURM_CLUSTERS": "far"}
        may_end = far_cluster / "jobs-may-end"  # The jobs outlast their workers: a worker may end faster than we look.
        held = f'trap "until [ -e {may_end} ]; do sleep 0.2; done" EXIT'
        setup = f"cluster.setup=['export SLURM_CLUSTER_NAME=far','{held}']"
        options = ("--workers", "2", "--trials", "3", "worker.lease_s=300", setup)
        array = user.launch("far", *options)
        assert array.endswith("@far")
        caught = user.caught("far")
        assert caught.job in (array.replace("@", "_0@"), array.replace("@", "_1@"))
        for elsewhere in ("", "near"):
            user.environment["SLURM_CLUSTERS"] = elsewhere
            again = user.run("launch", "--study", "far", *SEARCH, *options)
            assert "0 workers submitted" in again.stderr, again.stderr
        status = user.status("far")
        assert {job["job"].partition("@")[2] for job in status["jobs"]} == {"far"}
        assert not any(worker["lost"] for worker in status["workers"])
        stopping = user.start("stop", "--study", "far")
        until(lambda: user.read("far").draining)
        caught.let_go()
        assert stopping.stderr is not None
        assert any(re.search(r"waiting for jobs to end: \d+_\d@far", line) for line in stopping.stderr)
        may_end.touch()
        _, err = stopping.communicate(timeout=PATIENCE_S)
        assert stopping.returncode == 0, err
        assert not site.jobs(name="kdhpc-far")


def test_launcher_whose_workers_are_held_says_so(cluster: Cluster) -> None:
    with cluster.login_node() as site:
        launcher = site.staying_launcher("held", "--workers", "1", "--trials", "1", 'cluster.sbatch=["hold"]')
        assert launcher.stderr is not None
        lines = iter(launcher.stderr)
        line = next(line for line in lines if "are held" in line)
        found = re.search(r"all 1 workers of study held are held \(JobHeldUser\).*`scontrol release (\d+)`", line)
        assert found is not None, line
        assert "held (JobHeldUser)" in site.run("status", "--study", "held").stdout
        assert list(site.jobs(name="kdhpc-held")) == [found[1]]
        stopped = site.run("stop", "--study", "held")
        assert f"cancelled, they had not started: {found[1]}" in stopped.stderr
        launcher.communicate(timeout=PATIENCE_S)
        assert launcher.returncode == 0


def test_doctor_looks_at_a_node_through_a_job(cluster: Cluster) -> None:
    with cluster.login_node() as site:
        own = [f"cluster.{key}" for key in ("gpus_per_worker=0", "cpus_per_worker=1", "mem_gb=1")]
        done = site.run("doctor", "--quick", "--job", "--format", "json", *own)
        assert done.returncode == 0, done.stdout + done.stderr
        found = json.loads(done.stdout)
        here, there = ({each["name"]: each["state"] for each in found[room]} for room in ("here", "job"))
        assert here["Slurm"] == there["database"] == there["locks between machines"] == "ok"
        refused = site.run("doctor", "--quick", "--job", *own, "cluster.partition=nowhere")
        assert refused.returncode == 1
        assert "invalid partition specified: nowhere" in refused.stderr
        assert not site.jobs(name="kdhpc-doctor")
