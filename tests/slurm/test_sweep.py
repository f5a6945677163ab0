"""A sweep of final trainings as Slurm jobs."""

import json
import sys

from tests.slurm.faults import Cluster
from tests.workspace import PATIENCE_S, until

_TRAINING = (
    *("dataset=fashion_mnist", "dataset.name=tiny", "dataset.image_size=16", "network=resnet8", "network.crops=[3]"),
    *("training=short", "training.batch_size=16", "device.threads=1"),
    *("hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=2"),
)


def test_sweep_of_graphs_and_seeds_survives_a_requeue(cluster: Cluster) -> None:
    with cluster.login_node() as site:
        sweep = site.start(
            *("train", "--graph", "dml,independent", "--nodes", "2", "--seeds", "0,1", "--launcher", "submitit_slurm"),
            *_TRAINING,
            *("training.epochs=96", "run.checkpoint_every_s=0.05", "hydra.launcher.name=sweep"),
            f'hydra.launcher.python="env FOR_THE_JOBS=1 {sys.executable} -P"',
        )
        run = site.runs / "train" / "tiny-resnet8-dml2" / "seed0"
        until(lambda: (run / "checkpoint.pt").exists() or sweep.poll() is not None)
        (task,) = [job for job in site.jobs(name="sweep") if job.endswith("_0")]
        site.slurm("scontrol", "requeue", task)
        site.restarted(task)
        assert not (run / "result.json").exists()
        out, err = sweep.communicate(timeout=PATIENCE_S)
        assert sweep.returncode == 0, (out, err)
        (log,) = site.runs.glob(f"sweeps/*/jobs/{task}_0_log.out")
        assert "goes on after epoch" in log.read_text()
        (script,) = site.runs.glob("sweeps/*/jobs/*_submission.sh")
        assert f" env FOR_THE_JOBS=1 {sys.executable} -P -u -m submitit" in script.read_text()
        results = [json.loads(path.read_text()) for path in (site.runs / "train").rglob("result.json")]
        assert len(results) == 4
        assert {result["seed"] for result in results} == {0, 1}
        table = site.run("results", "--format", "json")
        assert [row["seeds"] for row in json.loads(table.stdout)] == [[0, 1], [0, 1]]


def test_sweep_job_that_is_cancelled_ends_the_wait(cluster: Cluster) -> None:
    """Without accounting, only the queue tells."""
    with cluster.login_node() as site:
        sweep = site.start(
            *("train", "--graph", "dml", "--nodes", "2", "--launcher", "submitit_slurm", *_TRAINING),
            *("training.epochs=10000", "run.name=cancelled", "hydra.launcher.name=cancelled"),
        )
        until(
            lambda: (site.runs / "train" / "cancelled" / "seed0" / "metrics.jsonl").exists() or sweep.poll() is not None
        )
        site.slurm("scancel", "--name=cancelled")
        _, err = sweep.communicate(timeout=PATIENCE_S)
        assert sweep.returncode == 1
        assert "has not produced any output" in err
        assert "logs: " in err
