"""The ways in which jobs die. Each is a scenario on a real Slurm: something is broken, and the study must end whole.

Scenarios run beside each other, so each touches only what is its own: its study, its jobs, its database if it breaks
that, and node 4 only if it breaks that. They end with ``course``, which compares what was trained, epoch by epoch, with
a search that nothing happened to.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.slurm.site import ROOT, SEARCH, Site, until
from tests.workspace import Workspace

TRIALS = 4


@dataclass(frozen=True, kw_only=True)
class Cluster:
    shared: Workspace
    site: Site
    """With a database on the login node."""
    undisturbed: dict[int, list[list[float]]]
    """What each slot comes to."""

    def own_site(self, name: str) -> Site:
        """One whose database is its own."""
        return Site(self.shared, name, self.site.environment)

    def check(self, site: Site, study: str, trials: int) -> None:
        course = site.course(study)
        assert set(course) == set(range(trials))
        assert all(course[slot] == self.undisturbed[slot] for slot in course.keys() & self.undisturbed.keys())


def killed(cluster: Cluster) -> None:
    site = cluster.site
    launcher = site.start("launch", "--study", "killed", *SEARCH, "--workers", "1", "--trials", "1", "--wait")
    number = site.trained("killed")
    os.kill(site.read("killed").workers[0].pid, signal.SIGKILL)
    _, err = launcher.communicate(timeout=200)
    assert launcher.returncode == 0, err
    assert "freed the trials of lost workers: 0" in err
    assert len(set(site.owners("killed", number))) == 2
    assert resumed(site.logs("killed"), number)
    cluster.check(site, "killed", 1)


def scancelled(cluster: Cluster) -> None:
    site = cluster.site
    array = site.launch("scancelled", "--workers", "2", "--trials", str(TRIALS))
    number = site.trained("scancelled", f"{array}_0")
    site.slurm("scancel", f"{array}_0")
    assert site.ended(f"{array}_0") == "CANCELLED"
    site.done("scancelled")
    assert set(site.owners("scancelled", number)) == {f"{array}_0", f"{array}_1"}
    assert resumed(site.log("scancelled", f"{array}_1"), number)
    cluster.check(site, "scancelled", TRIALS)


def time_limit(cluster: Cluster) -> None:
    site = cluster.site
    trials = 4 * TRIALS
    array = site.launch("limited", "--workers", "2", "--trials", str(trials), "cluster.signal_delay_s=110")
    last = f"{array}_1"  # Its raw id is the whole array's.
    site.trained("limited", last)
    site.slurm("scontrol", "update", f"jobid={last}", "timelimit=2")
    until(lambda: site.job(last).get("Restarts") == "1")
    site.slurm("scontrol", "update", f"jobid={last}", "timelimit=60")
    assert site.job(f"{array}_0")["Restarts"] == "0"
    until(lambda: "waiting for requeue" in site.run("status", "--study", "limited").stdout)
    site.done("limited")
    assert site.ended(last) == "COMPLETED"
    log = site.log("limited", last)
    assert "SIGUSR2: stopping after this step" in log
    assert f"requeueing job {last}" in log
    interrupted = int(re.findall(r"trial (\d+): interrupted", log)[0])
    assert resumed(site.logs("limited"), interrupted)
    cluster.check(site, "limited", trials)


def requeued(cluster: Cluster) -> None:
    site = cluster.site
    array = site.launch("requeued", "--workers", "1", "--trials", "2")
    number = site.trained("requeued", array)
    site.slurm("scontrol", "requeue", array)
    site.done("requeued")
    assert site.job(array)["Restarts"] == "1"
    assert resumed(site.log("requeued", array), number)
    assert site.owners("requeued", number) == [array, array]
    cluster.check(site, "requeued", 2)


def node_down_and_preempted(cluster: Cluster) -> None:
    site = cluster.site
    array = site.launch("node4", "--workers", "1", "--trials", "3", 'cluster.sbatch=["nodelist=node4"]')
    number = site.trained("node4", array)
    site.slurm("scontrol", "update", "nodename=node4", "state=down", "reason=test")
    until(lambda: site.jobs()[array] == "PENDING")
    site.slurm("scontrol", "update", "nodename=node4", "state=resume")
    until(lambda: site.job(array)["JobState"] == "RUNNING")
    assert site.job(array)["Restarts"] == "1"
    until(lambda: resumed(site.log("node4", array), number))
    second = site.trained("node4", array)
    site.sbatch("--partition=urgent", "--nodelist=node4", "--gres=gpu:1", "--output=/dev/null", "--wrap=sleep 3")
    until(lambda: site.job(array).get("Restarts") == "2")
    site.done("node4")
    assert resumed(site.log("node4", array), second)
    cluster.check(site, "node4", 3)


def database_away(cluster: Cluster) -> None:
    site = cluster.own_site("away")
    assert site.run("db", "start", "--listen", "all").returncode == 0
    site.launch("away", "--workers", "2", "--trials", "3")
    site.trained("away")
    assert site.run("db", "stop").returncode == 0
    time.sleep(20)
    assert site.run("db", "start", "--listen", "all").returncode == 0
    site.done("away")
    cluster.check(site, "away", 3)
    assert site.run("db", "stop").returncode == 0


def database_killed_and_launcher_out_of_time(cluster: Cluster) -> None:
    site = cluster.own_site("hosted")
    job = site.search_job(
        "--study", "hosted", *SEARCH, "--workers", "2", "--trials", str(TRIALS),
        options=("--time=1", "--signal=B:USR2@25"),
    )  # fmt: skip
    until(lambda: (site.runs / "db" / "endpoint.json").exists())
    site.trained("hosted")
    server = site.server()
    assert server["job"] == job
    os.kill(int(server["pid"]), signal.SIGKILL)
    until(lambda: site.server()["pid"] not in (None, server["pid"]))
    until(lambda: site.job(job).get("Restarts") == "1")
    site.slurm("scontrol", "update", f"jobid={job}", "timelimit=60")
    assert site.ended(job) == "COMPLETED"
    assert site.server()["pid"] is None
    log = (site.folder / f"slurm-{job}.out").read_text()
    assert f"requeueing job {job}" in log
    assert log.count("submitted job") == 1
    assert list((site.runs / "hosted" / "export").glob("*.json"))
    with running_database(site):
        cluster.check(site, "hosted", TRIALS)


def launcher_killed(cluster: Cluster) -> None:
    site = cluster.own_site("relaunched")
    command = ("--study", "again", *SEARCH, "--workers", "1", "--trials", "2")
    job = site.search_job(*command)
    until(lambda: (site.runs / "db" / "endpoint.json").exists())
    number = site.trained("again")
    site.slurm("scancel", "--signal=KILL", "--batch", job)
    site.ended(job)
    # Where Slurm confines jobs, the server dies with its job.
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(site.server()["pid"]), signal.SIGKILL)
    # And on a cluster it ran on another machine: it is taken over because Slurm says that its job has ended.
    endpoint = site.runs / "db" / "endpoint.json"
    endpoint.write_text(json.dumps({**site.server(), "node": "elsewhere"}))
    assert "was started on elsewhere" in site.run("db", "start").stderr
    job = site.search_job(*command)
    assert site.ended(job) == "COMPLETED"
    log = (site.folder / f"slurm-{job}.out").read_text()
    assert "0 workers submitted" in log
    with running_database(site):
        assert len(site.owners("again", number)) == 1
        cluster.check(site, "again", 2)


def two_launchers(cluster: Cluster) -> None:
    site = cluster.own_site("twice")
    command = ("--study", "twice", *SEARCH, "--workers", "2", "--trials", str(TRIALS))
    jobs = [site.search_job(*command), site.search_job(*command)]
    assert [site.ended(job) for job in jobs] == ["COMPLETED", "COMPLETED"]
    logs = [(site.folder / f"slurm-{job}.out").read_text() for job in jobs]
    assert sorted(int(re.findall(r"(\d) workers submitted", log)[0]) for log in logs) == [0, 2]
    with running_database(site):
        cluster.check(site, "twice", TRIALS)


def disk_full(cluster: Cluster) -> None:
    site = cluster.site
    folder = site.runs / "full" / "trials"
    folder.mkdir(parents=True)
    site.slurm("mount", "-t", "tmpfs", "-o", "size=2M", "none", str(folder))
    try:
        array = site.launch("full", "--workers", "1", "--trials", "2")
        number = site.trained("full", array)
        (folder / "filler").write_bytes(bytes(shutil.disk_usage(folder).free - 100_000))
        until(lambda: "trains on without a new checkpoint" in site.log("full", array))
        site.slurm("scontrol", "requeue", array)
        until(lambda: site.job(array).get("Restarts") == "1")
        (folder / "filler").unlink()
        site.done("full")
        assert resumed(site.log("full", array), number)
        cluster.check(site, "full", 2)
    finally:
        site.slurm("umount", "--lazy", str(folder))


def clocks_apart(cluster: Cluster) -> None:
    """The script for plain arrays; one worker's clock is an hour ahead of, another's an hour behind the database's."""
    site = cluster.site
    site.launch("clocks", "--workers", "1", "--trials", str(TRIALS))
    jobs = []
    for shift_s in (3600, -3600):
        folder = site.folder / f"clock{shift_s}"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(_CLOCK.format(shift_s=shift_s))
        script = str(ROOT / "slurm" / "worker_array.sh")
        options = ("worker.lease_s=20", "worker.renew_s=2", "device.threads=1")
        jobs.append(
            site.sbatch("--array=0", "--mem=2G", script, "--study", "clocks", *options, PYTHONPATH=f"{folder}:{ROOT}")
        )
    site.done("clocks")
    assert {site.ended(f"{job}_0") for job in jobs} == {"COMPLETED"}
    cluster.check(site, "clocks", TRIALS)
    assert all(len(site.owners("clocks", number)) == 1 for number in range(TRIALS))


_CLOCK = """\
import time
_true = time.time
time.time = lambda: _true() + {shift_s}
"""


def resumed(log: str, number: int) -> bool:
    """Whether a trial went on from a checkpoint that was not its beginning."""
    steps = re.findall(rf"trial {number} goes on after epoch \d+, step (\d+)", log)
    return bool(steps) and all(int(step) > 0 for step in steps)


@contextlib.contextmanager
def running_database(site: Site):
    """That of a launching job ends with it."""
    assert site.run("db", "start").returncode == 0
    yield
    assert site.run("db", "stop").returncode == 0


FAULTS: dict[str, Callable[[Cluster], None]] = {
    scenario.__name__: scenario
    for scenario in (
        database_killed_and_launcher_out_of_time,
        node_down_and_preempted,
        time_limit,
        launcher_killed,
        database_away,
        killed,
        scancelled,
        requeued,
        disk_full,
        two_launchers,
        clocks_apart,
    )
}
