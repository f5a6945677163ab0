"""Several workers in one Slurm job, as where whole nodes are given, and a job that comes back after it was killed."""

import subprocess
import sys
from dataclasses import replace

import pytest

from kdhpc.config.compose import compose_search
from kdhpc.searching.plan import plan_study
from kdhpc.searching.worker import _free_slots_of_the_dead
from kdhpc.study.storage import Storage
from kdhpc.study.study import SharedStudy
from tests.study.made import HERE, make, take
from tests.workspace import PATIENCE_S, until

OTHER = replace(HERE, token="e" * 32)


@pytest.mark.parametrize(
    ("newcomer", "freed"),
    [
        (OTHER, 0),
        (replace(OTHER, restarts=1), 1),
        (replace(OTHER, restarts=1, job="17_4"), 0),
        (replace(OTHER, restarts=1, job=None), 0),
    ],
)
def test_worker_frees_what_an_earlier_run_of_its_job_held(storage: Storage, newcomer, freed: int) -> None:
    study = make(storage, target=1)
    take(study)
    _free_slots_of_the_dead(study, newcomer)
    assert study.progress().running == 1 - freed


def test_worker_frees_what_processes_of_its_machine_held_that_are_gone(storage: Storage) -> None:
    study = make(storage, target=2)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    take(study, replace(OTHER, pid=ended.pid))
    take(study, replace(OTHER, pid=ended.pid, process_space="another machine", token="f" * 32))
    _free_slots_of_the_dead(study, HERE)
    assert [lease.owner.process_space for lease in study.active_leases()] == ["another machine"]


def test_workers_of_one_job_leave_each_other_their_trials(workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KDHPC_RUNS", "KDHPC_DATA", "KDHPC_CONFIG_DIR"):
        monkeypatch.setenv(name, workspace.environment[name])
    config = compose_search(["study=tiny", "study.trials=2", "study.pruner=none", "training.epochs=24"])
    storage = Storage.connect()
    plan_study("nodeful", config).open(storage)
    for name, value in (("SLURM_JOB_ID", "77"), ("SLURM_RESTART_COUNT", "0")):
        monkeypatch.setitem(workspace.environment, name, value)

    command = ("worker", "--study", "nodeful", "device.threads=1", "device.device=cpu", "worker.rung_checkpoint_s=0")
    first = workspace.start(*command)
    (held,) = workspace.catch("nodeful", job="77")
    second = workspace.start(*command)
    study = SharedStudy.open(storage, "nodeful")
    owners = until(lambda: len(found := {h.number: h.owner for h in study.active_leases()}) == 2 and found)
    assert owners[held.trial].pid == held.pid
    assert {owner.job for owner in owners.values()} == {"77"}
    held.let_go()
    for worker in (first, second):
        out, err = worker.communicate(timeout=PATIENCE_S)
        assert (worker.returncode, out) == (0, "1 trial finished\n"), err
        assert err.count("device CPU, precision float32, mode auto") == 1
    storage.close()
