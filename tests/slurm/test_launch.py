"""Launching, joining, stopping and watching, as users do it."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.screens import in_terminal
from tests.slurm.faults import TRIALS, Cluster, times_resumed
from tests.slurm.site import ROOT, SEARCH, Site
from tests.workspace import PATIENCE_S, until


@pytest.fixture(scope="session")
def site(cluster: Cluster) -> Site:
    return cluster.site


def test_launch_dry_run_prints_the_script_and_submits_nothing(site: Site) -> None:
    done = site.run(
        "launch", "--study", "dry", *SEARCH, "--workers", "3", "--dry-run",
        "cluster.partition=urgent", 'cluster.sbatch=["exclude=node2",nice]', "cluster.setup=['module load cuda']",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    wanted = {"--array=0-2%3", "--partition=urgent", "--exclude=node2", "--nice", "--requeue", "--signal=USR2@180"}
    assert {f"#SBATCH {option}" for option in wanted} <= set(lines)
    assert "module load cuda" in lines
    assert not site.jobs(name="kdhpc-dry")
    assert not (site.runs / "dry").exists()
    (site.folder / "dry.sh").write_text(done.stdout)
    site.slurm("sbatch", "--test-only", "dry.sh")


def test_launch_more_workers_than_an_array_takes_says_so(site: Site) -> None:
    done = site.run("launch", "--study", "many", *SEARCH, "--workers", "101", "--trials", "200")
    assert done.returncode == 1
    assert "MaxArraySize" in done.stderr.splitlines()[-1]
    assert "100" in done.stderr.splitlines()[-1]


def test_launch_refused_by_sbatch_is_one_line(site: Site) -> None:
    done = site.run("launch", "--study", "refused", *SEARCH, "cluster.partition=nowhere")
    assert done.returncode == 1
    assert "invalid partition" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_launch_from_inside_an_array_task(cluster: Cluster) -> None:
    site = cluster.site
    command = f"srun python -m kdhpc.cli.main launch --study nested {shlex.join(SEARCH)} --workers 2 --trials 2"
    outer = site.sbatch("--array=1", "--gres=gpu:1", "--mem-per-cpu=1000", "--output=nested.out", f"--wrap={command}")
    assert site.ended(f"{outer}_1") == "COMPLETED", (site.folder / "nested.out").read_text()
    site.done("nested")
    cluster.check(site, "nested", 2)


def test_workers_beyond_the_budget_exit_at_once(cluster: Cluster) -> None:
    site = cluster.site
    job = site.sbatch("--array=0-1", "--mem=2G", str(ROOT / "slurm" / "worker_array.sh"), "--study", "calm")
    assert [site.ended(f"{job}_{task}") for task in range(2)] == ["COMPLETED", "COMPLETED"]
    for task in range(2):
        assert "0 trials finished" in site.output(f"{job}_{task}")
    again = site.run("launch", "--study", "calm", *SEARCH, "--workers", "2", "--trials", str(site.read("calm").target))
    assert "0 workers submitted" in again.stderr


def test_confirm_trains_the_best_graph_of_a_finished_study_in_jobs(cluster: Cluster) -> None:
    site = cluster.site
    before = site.read("calm")
    command = ("confirm", "--study", "calm", *SEARCH, "--top", "1", "--seeds", "1", "--workers", "2", "--launch")
    launched = site.run(*command)
    assert launched.returncode == 0, launched.stderr
    assert "study calm: 1 worker submitted, up to 2 at once" in launched.stderr, "as many as there are trainings"
    job = launched.stderr.partition("submitted job ")[2].partition(":")[0]
    assert site.ended(job) == "COMPLETED", site.logs("calm")
    after = site.read("calm")
    assert (after.given_trials.complete, after.unfinished, after.trials) == (1, 0, before.trials)
    assert (after.best.number, after.best.confirmed.seeds) == (before.best.number, 1)
    again = site.run(*command, "--wait")
    assert again.returncode == 0, again.stderr
    assert "study calm: 0 workers submitted" in again.stderr
    assert f"kdhpc: trial {after.best.number}: " in again.stderr
    assert ", confirmed " in again.stderr
    assert site.read("calm").given_trials == after.given_trials


def test_search_job_with_a_given_database_stays_and_exports(cluster: Cluster) -> None:
    with cluster.login_node() as site:
        with site.storage() as storage:
            site.environment["KDHPC_STORAGE"] = storage.address().render_as_string()
        job = site.search_job("given", "--workers", "1", "--trials", "1")
        assert site.ended(job) == "COMPLETED", site.output(job)
        assert list((site.runs / "given" / "export").glob("*.json"))
        cluster.check(site, "given", 1)


def test_launch_that_stays_waits_for_a_controller_that_is_away(cluster: Cluster) -> None:
    with cluster.login_node() as site:
        conf = Path(site.environment["SLURM_CONF"])
        away = conf.with_name("comes-back.conf")
        away.write_text(re.sub(r"(?m)^SlurmctldPort=.*$", "SlurmctldPort=9", conf.read_text()))
        site.environment["SLURM_CONF"] = str(away)
        launcher = site.staying_launcher("patient", "--workers", "1", "--trials", "1")
        assert launcher.stderr is not None
        assert any("no worker is submitted for now, trying again: " in line for line in launcher.stderr)
        away.write_text(conf.read_text())
        site.environment["SLURM_CONF"] = str(conf)
        _, err = launcher.communicate(timeout=PATIENCE_S)
        assert launcher.returncode == 0, err
        cluster.check(site, "patient", 1)


def test_stop_drains_and_a_launch_goes_on(cluster: Cluster) -> None:
    with cluster.login_node() as site:
        site.launch("drained", "--workers", "2", "--trials", str(2 * TRIALS))
        worker = site.caught("drained")
        stopping = site.start("stop", "--study", "drained")
        until(lambda: site.read("drained").draining)
        worker.let_go()
        _, err = stopping.communicate(timeout=PATIENCE_S)
        assert stopping.returncode == 0, err
        status = site.status("drained")
        assert (status["draining"], status["trials"]["running"], status["workers"]) == (True, 0, [])
        assert site.read("drained").trials.waiting > 0
        site.launch("drained", "--workers", "2", "--trials", str(2 * TRIALS))
        site.done("drained")
        assert times_resumed(site.logs("drained"), worker.trial) == 1
        cluster.check(site, "drained", 2 * TRIALS)


def test_status_shows_jobs_and_the_lost(cluster: Cluster) -> None:
    with cluster.login_node() as site:
        array = site.launch("shown", "--workers", "1", "--trials", "1", "worker.lease_s=300")
        caught = site.caught("shown")
        jobs = site.status("shown")["jobs"]
        assert [(job["job"], job["state"], job["condition"]) for job in jobs] == [(array, "RUNNING", "running")]
        assert jobs[0]["node"].startswith("node")
        assert re.fullmatch(r"\d+:\d\d:\d\d", jobs[0]["time_left"])
        shown = site.run("status", "--study", "shown").stdout.splitlines()
        row = next(line.split() for line in shown if line.startswith(f"{array} "))
        assert (row[2], row[-1]) == (str(caught.trial), "running")
        watch = [sys.executable, "-m", "kdhpc.cli.main", "status", "--study", "shown", "--watch"]
        code, drawn = in_terminal(watch, columns=80, environment=site.environment, interrupt_at="s ago")
        assert code == 130
        drawn = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn)
        assert re.search(rf"{array}\S* +{caught.trial} +\d+ .* s ago", drawn), drawn
        os.kill(caught.pid, signal.SIGKILL)
        until(lambda: array not in site.jobs())
        worker = site.status("shown")["workers"][0]
        assert (worker["job"], worker["trial"], worker["lost"]) == (array, caught.trial, True)
        site.launch("shown", "--workers", "1", "--trials", "1")
        site.done("shown")
        cluster.check(site, "shown", 1)


def test_status_controller_away_answers_without_jobs(site: Site) -> None:
    conf = Path(site.environment["SLURM_CONF"])
    away = conf.with_name("away.conf")
    away.write_text(re.sub(r"(?m)^SlurmctldPort=.*$", "SlurmctldPort=9", conf.read_text()))
    site.environment["SLURM_CONF"] = str(away)
    before = time.monotonic()
    try:
        done = site.run("status", "--study", "calm", "--format", "json")
    finally:
        site.environment["SLURM_CONF"] = str(conf)
    assert done.returncode == 0
    assert time.monotonic() - before < 60
    assert json.loads(done.stdout)["jobs"] is None
    # The first that is asked is which cluster this machine is of, as the study's jobs have a cluster.
    assert "no jobs shown: scontrol did not answer within 5 s" in done.stderr


def test_worker_time_limit_too_short_for_an_epoch_starts_no_trial(cluster: Cluster) -> None:
    site = cluster.site
    site.launch("slow", "--workers", "1", "--trials", "1")
    site.done("slow")
    metrics = site.paths("slow").metrics(0)
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    slow = "".join(json.dumps({**line, "seconds": 4000.0}) + "\n" for line in lines)
    metrics.write_text(slow)
    array = site.launch("slow", "--workers", "1", "--trials", "2", "cluster.time_min=60")
    assert site.ended(array) == "FAILED"
    assert "too short for a trial's first epoch: raise cluster.time_min" in site.log("slow", array)
    assert site.read("slow").trials.waiting == 1


def test_scripts_pass_bash(site: Site) -> None:
    for script in ("search_array.sh", "worker_array.sh", "reproduce.sh", "site.sh.example"):
        subprocess.run(["bash", "-n", str(ROOT / "slurm" / script)], check=True)
