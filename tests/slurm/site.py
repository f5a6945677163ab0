"""A cluster site as its users see it: a folder that all nodes share, Slurm's commands, a database."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import optuna
from sqlalchemy import text

from kdhpc.study.status import read_status
from tests.workspace import Caught, Workspace, until

ROOT = Path(__file__).parents[2]
MAX_ATTEMPTS = 3
# A worker's job in the tests; its training is so small that it needs a few seconds of it. Node 4 is where nodes break.
JOB = (
    *("cluster.cpus_per_worker=1", "cluster.mem_gb=2", 'cluster.sbatch=["exclude=node4"]'),
    *("device.threads=1", "worker.lease_s=20", "worker.renew_s=2"),
)
# Every study of the tests trains the same graphs in the same way: whatever happens to it, its values are the same.
EPOCHS = 32
SEARCH = ("study=tiny", f"training.epochs={EPOCHS}", "study.pruner=none", *JOB)


class Site(Workspace):
    """One user's ``runs`` folder on the cluster. Leaving it cancels all jobs that were submitted through it.

    Args:
        shared: The folder, with data and configs.
        name: Of the ``runs`` folder, which has its own database.
        environment: In which Slurm's commands work.
        has_own_database: Leaving the site stops it.
    """

    def __init__(self, shared: Workspace, name: str, environment: Mapping[str, str], *, has_own_database: bool) -> None:
        super().__init__(shared.folder, environment)
        self.runs = shared.folder / name
        self._has_own_database = has_own_database
        self._jobs: list[str] = []
        self._studies: list[str] = []
        self.environment |= {
            "KDHPC_RUNS": str(self.runs),
            "PATH": f"{Path(sys.executable).parent}:{self.environment['PATH']}",
        }

    def __enter__(self) -> "Site":
        return self

    def __exit__(self, *error: object) -> None:
        for study in self._studies:
            self.slurm("scancel", "--quiet", f"--name=kdhpc-{study}")
        if self._jobs:
            self.slurm("scancel", "--quiet", *self._jobs)
        names = ",".join(f"kdhpc-{study}" for study in self._studies)
        # A launching job that is cancelled stops its server itself, and may take a moment.
        until(lambda: not self.slurm("squeue", "-h", "-n", names or "none").strip())
        until(lambda: not self._jobs or not self.slurm("squeue", "-h", "-j", ",".join(self._jobs), fails="").strip())
        if self._has_own_database:
            self.close()

    def slurm(self, *command: str, fails: str | None = None) -> str:
        """What a command prints; if it fails, ``fails``."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )
        if done.returncode != 0 and fails is not None:
            return fails
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout

    def sbatch(self, *arguments: str, **environment: str) -> str:
        """Submit; gives the job's id. Node 4 is where the tests break nodes."""
        where = () if any(argument.startswith("--nodelist") for argument in arguments) else ("--exclude=node4",)
        done = subprocess.run(
            ["sbatch", "--parsable", *where, *arguments],
            cwd=self.folder,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        job = done.stdout.strip()
        self._jobs.append(job)
        return job

    def search_job(self, study: str, *arguments: str) -> str:
        """Submit the search script."""
        self._studies.append(study)
        return self.sbatch(str(ROOT / "slurm" / "search_array.sh"), "--study", study, *SEARCH, *arguments)

    def staying_launcher(self, study: str, *arguments: str) -> "subprocess.Popen[str]":
        """Launch from the login node, and stay until the end."""
        self._studies.append(study)
        return self.start("launch", "--study", study, *SEARCH, *arguments, "--wait")

    def launch(self, study: str, *arguments: str) -> str:
        """Launch from the login node; gives the array's id."""
        self._studies.append(study)
        done = self.run("launch", "--study", study, *SEARCH, *arguments)
        assert done.returncode == 0, done.stderr
        assert "submitted job " in done.stderr, done.stderr
        return done.stderr.partition("submitted job ")[2].partition(":")[0]

    def jobs(self, *, name: str | None = None) -> dict[str, str]:
        """State of each job and array task in the queue; of all, or of those with a name."""
        named = ("-n", name) if name else ()
        rows = (line.split("|") for line in self.slurm("squeue", "-h", "-r", "-o", "%i|%T", *named).splitlines())
        return {row[0]: row[1] for row in rows}

    def server(self) -> dict[str, object]:
        """Where the site's database is."""
        return json.loads((self.runs / "db" / "endpoint.json").read_text())

    def job(self, job: str) -> dict[str, str]:
        """What Slurm tells of a job, also after its end."""
        shown = self.slurm("scontrol", "show", "job", "-o", job).splitlines()[0]
        return dict(pair.partition("=")[::2] for pair in shown.split() if "=" in pair)

    def restarted(self, job: str, times: int = 1) -> None:
        """Wait until a job was put back into the queue so many times."""
        until(lambda: int(self.job(job).get("Restarts", 0)) >= times)
        assert int(self.job(job)["Restarts"]) == times

    def ended(self, job: str) -> str:
        """Wait for a job's end; gives its last state."""
        return until(lambda: (found := self.job(job)["JobState"]) not in ("RUNNING", "PENDING", "COMPLETING") and found)

    def minutes_run(self, job: str) -> int:
        """For how long a job has been running, whole minutes."""
        hours, minutes, _ = self.job(job)["RunTime"].split(":")
        return 60 * int(hours) + int(minutes)

    def caught(self, study: str, job: str | None = None) -> Caught:
        """One worker in mid-trial, stopped."""
        return self.catch(study, job=job)[0]

    def done(self, study: str) -> None:
        """Wait until a study's budget is met."""
        with self.storage() as storage:
            until(lambda: (trials := read_status(storage, study).trials).running + trials.waiting == 0)

    def logs(self, study: str) -> str:
        """All that the launched workers of a study wrote."""
        return "".join(path.read_text() for path in sorted((self.runs / study / "jobs").rglob("*.out")))

    def log(self, study: str, job: str) -> str:
        """All that one worker wrote, in all its runs."""
        return "".join(path.read_text() for path in (self.runs / study / "jobs").rglob(f"{job}_0_log.out"))

    def output(self, job: str) -> str:
        """All that a script's job wrote."""
        return (self.folder / f"slurm-{job}.out").read_text()

    def course(self, study: str) -> dict[int, list[list[float]]]:
        """Losses of every epoch of each slot of a finished study, after having seen that nothing is wrong with it.

        The budget is met exactly, numbers are unique and without gaps, no trial is running, none had more attempts
        than are allowed, and each went through every epoch once.
        """
        course = {}
        for number, slot in self.finished(study).items():
            lines = [json.loads(line) for line in self.paths(study).metrics(number).read_text().splitlines()]
            assert [line["epoch"] for line in lines] == list(range(1, EPOCHS + 1))
            course[slot] = [line["train_losses"] for line in lines]
        return course

    def finished(self, study: str) -> dict[int, int]:
        """Trials of a finished study and their slots, after the same, epochs left out."""
        status = self.read(study)
        counts = status.trials
        assert counts.complete + counts.pruned == status.target, counts
        assert (counts.running, counts.waiting, counts.failed, status.workers) == (0, 0, 0, ())
        with self.storage() as storage:
            attempts = storage.read(lambda connection: connection.execute(_ATTEMPTS, {"name": study}).scalars().all())
            url = storage.address()
        assert len(attempts) == status.target
        assert all(1 <= attempt <= MAX_ATTEMPTS for attempt in attempts), attempts
        trials = optuna.load_study(study_name=study, storage=url.render_as_string()).trials
        assert sorted(trial.number for trial in trials) == list(range(status.target))
        assert all(trial.state.is_finished() for trial in trials)
        assert all(trial.state.name == "COMPLETE" for trial in trials)
        return {trial.number: trial.user_attrs["kdhpc"]["slot"] for trial in trials}

    def owners(self, study: str, number: int) -> list[str]:
        """Numbers of the jobs that worked on a trial, in turn."""
        with self.storage() as storage:
            url = storage.address()
        trial = optuna.load_study(study_name=study, storage=url.render_as_string()).trials[number]
        return [owner["job"].partition("@")[0] for owner in trial.user_attrs["kdhpc"]["owners"]]


_ATTEMPTS = text("""
    SELECT attempts FROM kdhpc_slots JOIN studies USING (study_id) WHERE study_name = :name ORDER BY slot
""")
