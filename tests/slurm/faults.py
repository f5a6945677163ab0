"""The ways in which jobs die. Each is a scenario on a real Slurm: something is broken, and the study must end whole.

Scenarios run beside each other, so each touches only what is its own: its study, its jobs, its database if it breaks
that, and node 4 only if it breaks that. They end with ``check``, which compares what was trained, epoch by epoch, with
a search that nothing happened to.
"""

import contextlib
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kdhpc.study.status import read_status
from tests.server.servers import pretend_elsewhere
from tests.slurm.site import ROOT, Site
from tests.workspace import PATIENCE_S, Workspace, until

TRIALS = 4


@dataclass(frozen=True, kw_only=True)
class Cluster:
    shared: Workspace
    site: Site
    """With a database on the login node."""
    undisturbed: dict[int, list[list[float]]]
    """What each slot comes to."""

    def login_node(self) -> Site:
        """The same site, to be left when a scenario ends."""
        return Site(self.shared, self.site.runs.name, self.site.environment, has_own_database=False)

    def own_site(self, name: str) -> Site:
        """One whose database is its own."""
        return Site(self.shared, name, self.site.environment, has_own_database=True)

    def check(self, site: Site, study: str, trials: int) -> None:
        course = site.course(study)
        assert set(course) == set(range(trials))
        assert all(course[slot] == self.undisturbed[slot] for slot in course.keys() & self.undisturbed.keys())


def killed(cluster: Cluster) -> None:
    with cluster.login_node() as site:
        launcher = site.staying_launcher("killed", "--workers", "1", "--trials", "1")
        worker = site.caught("killed")
        os.kill(worker.pid, signal.SIGKILL)
        _, err = launcher.communicate(timeout=PATIENCE_S)
        assert launcher.returncode == 0, err
        assert f"freed the trials of lost workers: {worker.trial}" in err
        assert len(set(site.owners("killed", worker.trial))) == 2
        assert times_resumed(site.logs("killed"), worker.trial) == 1
        cluster.check(site, "killed", 1)


def scancelled(cluster: Cluster) -> None:
    with cluster.login_node() as site:
        array = site.launch("scancelled", "--workers", "2", "--trials", str(TRIALS))
        worker = site.caught("scancelled", f"{array}_0")
        site.slurm("scancel", f"{array}_0")
        worker.let_go()
        assert site.ended(f"{array}_0") == "CANCELLED"
        site.done("scancelled")
        assert site.owners("scancelled", worker.trial) == [f"{array}_0", f"{array}_1"]
        assert times_resumed(site.log("scancelled", f"{array}_1"), worker.trial) == 1
        cluster.check(site, "scancelled", TRIALS)


def time_limit(cluster: Cluster) -> None:
    """Slurm itself announces the limit, and holds the requeued task back."""
    with cluster.login_node() as site:
        trials = 2 * TRIALS
        options = ("cluster.signal_delay_s=170", "worker.lease_s=300")
        array = site.launch("limited", "--workers", "2", "--trials", str(trials), *options)
        last = f"{array}_1"  # Its raw id is the whole array's.
        worker = site.caught("limited", last)
        site.slurm("scontrol", "update", f"jobid={last}", f"timelimit={site.minutes_run(last) + 3}")
        # Slurm may tell the worker to go on, too.
        until(lambda: is_pending(worker.pid, signal.SIGUSR2) or "SIGUSR2" in site.log("limited", last))
        worker.let_go()
        site.restarted(last)
        site.slurm("scontrol", "update", f"jobid={last}", "timelimit=60", "starttime=now+600")
        assert site.job(f"{array}_0")["Restarts"] == "0"
        until(lambda: "waiting for requeue" in site.run("status", "--study", "limited").stdout)
        site.slurm("scontrol", "update", f"jobid={last}", "starttime=now")
        site.done("limited")
        assert site.ended(last) == "COMPLETED"
        log = site.log("limited", last)
        assert "SIGUSR2: stopping after this step" in log
        assert f"trial {worker.trial}: interrupted" in log
        assert f"requeueing job {last}" in log
        assert times_resumed(site.logs("limited"), worker.trial) == 1
        cluster.check(site, "limited", trials)


def requeued(cluster: Cluster) -> None:
    with cluster.login_node() as site:
        array = site.launch("requeued", "--workers", "1", "--trials", "2")
        worker = site.caught("requeued")
        site.slurm("scontrol", "requeue", array)
        worker.let_go()
        site.done("requeued")
        site.restarted(array)
        assert times_resumed(site.log("requeued", array), worker.trial) == 1
        assert site.owners("requeued", worker.trial) == [array, array]
        cluster.check(site, "requeued", 2)


def node_down_and_preempted(cluster: Cluster) -> None:
    with cluster.login_node() as site:
        array = site.launch("node4", "--workers", "1", "--trials", "3", 'cluster.sbatch=["nodelist=node4"]')
        first = site.caught("node4")
        site.slurm("scontrol", "update", "nodename=node4", "state=down", "reason=test")
        first.let_go()
        until(lambda: site.jobs().get(array) == "PENDING")
        site.slurm("scontrol", "update", "nodename=node4", "state=resume")
        until(lambda: times_resumed(site.log("node4", array), first.trial) == 1)
        site.restarted(array)
        second = site.caught("node4")
        site.sbatch("--partition=urgent", "--nodelist=node4", "--gres=gpu:1", "--output=/dev/null", "--wrap=sleep 3")
        # Where a job is requeued by preemption, Slurm tells it to go on before it tells it to end.
        until(lambda: site.job(array).get("Restarts") == "2" or is_pending(second.pid, signal.SIGTERM))
        second.let_go()
        site.restarted(array, 2)
        site.done("node4")
        assert times_resumed(site.log("node4", array), second.trial) == (2 if second.trial == first.trial else 1)
        cluster.check(site, "node4", 3)


def database_away(cluster: Cluster) -> None:
    """For longer than a lease: nobody takes over what its owner still trains."""
    with cluster.own_site("away") as site:
        assert site.run("db", "start", "--listen", "all").returncode == 0
        site.launch("away", "--workers", "2", "--trials", "3")
        site.caught("away").let_go()
        assert site.run("db", "stop").returncode == 0
        time.sleep(20)
        assert site.run("db", "start", "--listen", "all").returncode == 0
        site.done("away")
        cluster.check(site, "away", 3)
        assert [len(site.owners("away", number)) for number in range(3)] == [1, 1, 1]


def database_killed_and_launcher_out_of_time(cluster: Cluster) -> None:
    with cluster.own_site("hosted") as site:
        trials = 2 * TRIALS
        job = site.search_job("hosted", "--workers", "2", "--trials", str(trials))
        site.caught("hosted").let_go()
        server = site.server()
        assert server["job"] == f"{job}@sandbox"
        os.kill(int(server["pid"]), signal.SIGKILL)
        until(lambda: site.server()["pid"] not in (None, server["pid"]))
        # What Slurm sends before the time limit; that it does is `time_limit`'s to show.
        site.slurm("scancel", "--signal=USR2", "--batch", job)
        site.restarted(job)
        assert site.ended(job) == "COMPLETED"
        assert site.server()["pid"] is None
        assert f"requeueing job {job}" in site.output(job)
        assert site.output(job).count("submitted job") == 1
        assert list((site.runs / "hosted" / "export").glob("*.json"))
        with running_database(site):
            cluster.check(site, "hosted", trials)
            assert all(len(site.owners("hosted", number)) == 1 for number in range(trials))


def launcher_killed(cluster: Cluster) -> None:
    with cluster.own_site("relaunched") as site:
        command = ("again", "--workers", "1", "--trials", str(TRIALS), "worker.lease_s=300")
        job = site.search_job(*command)
        worker = site.caught("again")
        site.slurm("scancel", "--signal=KILL", "--batch", job)
        site.ended(job)
        # Where Slurm confines jobs, the server dies with its job.
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(site.server()["pid"]), signal.SIGKILL)
        # And on a cluster it ran on another machine: it is taken over because Slurm says that its job has ended.
        pretend_elsewhere(site.runs / "db")
        worker.let_go()
        assert "was started on elsewhere" in site.run("db", "start").stderr
        job = site.search_job(*command)
        assert site.ended(job) == "COMPLETED"
        assert "0 workers submitted" in site.output(job)
        assert "PostgreSQL on elsewhere does not answer" in site.output(job)
        assert "removed PostgreSQL's lock file" in site.output(job)
        with running_database(site):
            assert len(site.owners("again", worker.trial)) == 1
            cluster.check(site, "again", TRIALS)


def stopped_with_its_server(cluster: Cluster) -> None:
    """`kdhpc stop` on a study whose launching job hosts the database: that ends, too, and comes back."""
    with cluster.own_site("stopped") as site:
        command = ("stopped", "--workers", "2", "--trials", str(2 * TRIALS))
        job = site.search_job(*command)
        worker = site.caught("stopped")
        stopping = site.start("stop", "--study", "stopped")
        until(lambda: site.read("stopped").draining)
        worker.let_go()
        _, err = stopping.communicate(timeout=PATIENCE_S)
        assert stopping.returncode == 0, err
        assert site.ended(job) == "COMPLETED"
        assert site.server()["pid"] is None
        assert not site.jobs(name="kdhpc-stopped")
        job = site.search_job(*command)
        assert site.ended(job) == "COMPLETED"
        assert times_resumed(site.logs("stopped"), worker.trial) == 1
        with running_database(site):
            cluster.check(site, "stopped", 2 * TRIALS)


def plain_array_out_of_time(cluster: Cluster) -> None:
    """The script for plain arrays, whose worker is the batch script itself."""
    with cluster.login_node() as site:
        site.launch("plain", "--workers", "1", "--trials", "3", 'cluster.sbatch=["exclude=node4",hold]')
        script = str(ROOT / "slurm" / "worker_array.sh")
        options = ("worker.rung_checkpoint_s=0", "device.threads=1")
        job = site.sbatch("--array=3", "--mem=2G", script, "--study", "plain", *options)
        worker = site.caught("plain", f"{job}_3")
        site.slurm("scancel", "--signal=USR2", "--batch", f"{job}_3")
        worker.let_go()
        site.restarted(f"{job}_3")
        site.done("plain")
        assert site.ended(f"{job}_3") == "COMPLETED"
        assert times_resumed(site.output(f"{job}_3"), worker.trial) == 1
        cluster.check(site, "plain", 3)


def two_launchers(cluster: Cluster) -> None:
    with cluster.own_site("twice") as site:
        # As tools/quickstart, or a search on this machine, leaves one: it listens to this machine alone.
        assert site.run("db", "start").returncode == 0
        command = ("twice", "--workers", "2", "--trials", str(TRIALS))
        jobs = [site.search_job(*command), site.search_job(*command)]
        assert [site.ended(job) for job in jobs] == ["COMPLETED", "COMPLETED"]
        submitted = [int(re.findall(r"(\d) workers? submitted", site.output(job))[0]) for job in jobs]
        assert sorted(submitted) == [0, 2]
        with running_database(site):
            cluster.check(site, "twice", TRIALS)


def disk_full(cluster: Cluster) -> None:
    with cluster.login_node() as site:
        folder = site.runs / "full" / "trials"
        folder.mkdir(parents=True)
        site.slurm("mount", "-t", "tmpfs", "-o", "size=8M", "none", str(folder))
        try:
            array = site.launch("full", "--workers", "1", "--trials", "2")
            worker = site.caught("full")
            # Room for lines of metrics, not for a checkpoint.
            (folder / "filler").write_bytes(bytes(shutil.disk_usage(folder).free - 100_000))
            worker.let_go()
            until(lambda: "trains on without a new checkpoint" in site.log("full", array))
            (worker,) = [site.caught("full")]
            site.slurm("scontrol", "requeue", array)
            worker.let_go()
            site.restarted(array)
            (folder / "filler").unlink()
            site.done("full")
            assert times_resumed(site.log("full", array), worker.trial) == 1
            cluster.check(site, "full", 2)
        finally:
            site.slurm("umount", "--lazy", str(folder))


def clocks_apart(cluster: Cluster) -> None:
    """The script for plain arrays; one worker's clock is an hour ahead of, another's an hour behind the database's."""
    with cluster.login_node() as site:
        trials = 2 * TRIALS
        held = site.launch("clocks", "--workers", "1", "--trials", str(trials), 'cluster.sbatch=["exclude=node4",hold]')
        jobs = []
        for shift_s in (3600, -3600):
            folder = site.folder / f"clock{shift_s}"
            folder.mkdir()
            (folder / "sitecustomize.py").write_text(_CLOCK.format(shift_s=shift_s))
            script = str(ROOT / "slurm" / "worker_array.sh")
            options = ("worker.lease_s=20", "worker.renew_s=2", "device.threads=1")
            jobs.append(
                site.sbatch(
                    "--array=0", "--mem=2G", script, "--study", "clocks", *options, PYTHONPATH=f"{folder}:{ROOT}"
                )
            )
        with site.storage() as storage:
            until(
                lambda: (
                    {f"{job}_0@sandbox" for job in jobs}
                    <= {worker.job for worker in read_status(storage, "clocks").workers}
                )
            )
        site.slurm("scontrol", "release", held)
        site.done("clocks")
        assert {site.ended(f"{job}_0") for job in jobs} == {"COMPLETED"}
        cluster.check(site, "clocks", trials)
        owners = [site.owners("clocks", number) for number in range(trials)]
        assert all(len(of_trial) == 1 for of_trial in owners)
        assert {f"{job}_0" for job in jobs} <= {owner for of_trial in owners for owner in of_trial}


_CLOCK = """\
import time
_true = time.time
time.time = lambda: _true() + {shift_s}
"""


def times_resumed(log: str, number: int) -> int:
    """How often a trial went on from a checkpoint, none of which was its beginning."""
    steps = re.findall(rf"trial {number} goes on after epoch \d+, step (\d+)", log)
    assert all(int(step) > 0 for step in steps)
    return len(steps)


def is_pending(pid: int, number: signal.Signals) -> bool:
    """Whether a process that stands still was sent a signal."""
    with contextlib.suppress(FileNotFoundError):
        status = Path(f"/proc/{pid}/status").read_text()
        return any(int(mask, 16) >> (number - 1) & 1 for mask in re.findall(r"(?:Shd|Sig)Pnd:\s*(\w+)", status))
    return False


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
        stopped_with_its_server,
        database_away,
        killed,
        scancelled,
        requeued,
        plain_array_out_of_time,
        disk_full,
        two_launchers,
        clocks_apart,
    )
}
