"""A cluster site as its users see it: a folder that all nodes share, Slurm's commands, a database."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import optuna
from sqlalchemy import text

from kdhpc.config.paths import StudyPaths
from kdhpc.study.address import EmbeddedAddress
from kdhpc.study.storage import Storage, never
from kdhpc.study.study import SharedStudy
from kdhpc.study.summary import StudyStatus, read_status, study_names
from tests.workspace import Workspace

ROOT = Path(__file__).parents[2]
MAX_ATTEMPTS = 3
# A worker's job in the tests; its training is so small that it needs a few seconds of it.
JOB = ("cluster.cpus_per_worker=1", "cluster.mem_gb=2", "device.threads=1", "worker.lease_s=20", "worker.renew_s=2")
# Every study of the tests trains the same graphs in the same way: whatever happens to it, its values are the same.
EPOCHS = 48
SEARCH = ("study=tiny", f"training.epochs={EPOCHS}", "study.pruner=none", *JOB)


class Site(Workspace):
    """One user's ``runs`` folder on the cluster, with a database of its own."""

    def __init__(self, shared: Workspace, name: str, environment: Mapping[str, str]) -> None:
        super().__init__(shared.folder, environment)
        self.runs = shared.folder / name
        self.environment |= {
            "KDHPC_RUNS": str(self.runs),
            "PATH": f"{Path(sys.executable).parent}:{self.environment['PATH']}",
        }

    def storage(self) -> Storage:
        return Storage(EmbeddedAddress(self.runs / "db"), patience_s=60.0, should_stop=never)

    def paths(self, study: str) -> StudyPaths:
        return StudyPaths(self.runs / study)

    def slurm(self, *command: str) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout

    def sbatch(self, *arguments: str, **environment: str) -> str:
        """Submit; gives the job's id."""
        done = subprocess.run(
            ["sbatch", "--parsable", *arguments],
            cwd=self.folder,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def search_job(self, *arguments: str, options: tuple[str, ...] = ()) -> str:
        """Submit the search script. Node 4 is where the tests break nodes."""
        return self.sbatch("--exclude=node4", *options, str(ROOT / "slurm" / "search_array.sh"), *arguments)

    def launch(self, study: str, *arguments: str) -> str:
        """Launch from the login node; gives the array's id."""
        done = self.run("launch", "--study", study, *SEARCH, *arguments)
        assert done.returncode == 0, done.stderr
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

    def ended(self, job: str) -> str:
        """Wait for a job's end; gives its last state."""
        return until(
            lambda: (found := self.job(job)["JobState"]) not in ("RUNNING", "PENDING", "COMPLETING") and found, 240.0
        )

    def read(self, study: str) -> StudyStatus:
        storage = self.storage()
        try:
            return read_status(storage, study)
        finally:
            storage.close()

    def trained(self, study: str, job: str | None = None) -> int:
        """Wait until a worker (of that job) has a trial with a checkpoint behind it; gives the trial's number."""
        storage = self.storage()
        try:
            until(lambda: study in study_names(storage))

            def number() -> int | None:
                for worker in read_status(storage, study).workers:
                    checkpoint = self.paths(study).checkpoint(worker.trial)
                    if job in (None, worker.job) and checkpoint.exists():
                        return worker.trial + 1
                return None

            return until(number) - 1
        finally:
            storage.close()

    def done(self, study: str, timeout_s: float = 240.0) -> None:
        """Wait until a study's budget is met."""
        storage = self.storage()
        try:
            shared = SharedStudy.open(storage, study)
            until(shared.is_done, timeout_s)
        finally:
            storage.close()

    def logs(self, study: str) -> str:
        """All that the workers of a study wrote."""
        folders = [self.runs / study / "jobs", self.folder]
        return "".join(path.read_text() for folder in folders for path in folder.rglob("*.out") if path.is_file())

    def log(self, study: str, job: str) -> str:
        """All that one worker wrote, in all its runs."""
        return "".join(path.read_text() for path in (self.runs / study / "jobs").rglob(f"{job}_0_log.out"))

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
        storage = self.storage()
        attempts = storage.read(lambda connection: connection.execute(_ATTEMPTS, {"name": study}).scalars().all())
        assert len(attempts) == status.target
        assert all(1 <= attempt <= MAX_ATTEMPTS for attempt in attempts), attempts
        url = storage.address()
        storage.close()
        trials = optuna.load_study(study_name=study, storage=url.render_as_string()).trials
        assert sorted(trial.number for trial in trials) == list(range(status.target))
        assert all(trial.state.is_finished() for trial in trials)
        assert all(trial.state.name == "COMPLETE" for trial in trials)
        return {trial.number: trial.user_attrs["kdhpc"]["slot"] for trial in trials}

    def owners(self, study: str, number: int) -> list[str]:
        """Jobs that worked on a trial, in turn."""
        storage = self.storage()
        url = storage.address()
        storage.close()
        trial = optuna.load_study(study_name=study, storage=url.render_as_string()).trials[number]
        return [owner["job"] for owner in trial.user_attrs["kdhpc"]["owners"]]


_ATTEMPTS = text("""
    SELECT attempts FROM kdhpc_slots JOIN studies USING (study_id) WHERE study_name = :name ORDER BY slot
""")


def until(found: Callable[[], object], timeout_s: float = 200.0):
    """Wait for something true, and give it."""
    deadline = time.monotonic() + timeout_s
    while not (result := found()):
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s in vain"
        time.sleep(0.5)
    return result


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
