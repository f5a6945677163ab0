"""A sweep of final trainings as Slurm jobs."""

import json

from tests.slurm.faults import Cluster
from tests.slurm.site import until

_TRAINING = (
    *("dataset=fashion_mnist", "dataset.name=tiny", "dataset.image_size=16", "network=resnet8", "network.crops=[3]"),
    *("training=short", "training.batch_size=16", "device.threads=1"),
    *("hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=2"),
)


def test_sweep_of_graphs_and_seeds_survives_a_requeue(cluster: Cluster) -> None:
    site = cluster.site
    sweep = site.start(
        *("train", "--graph", "dml,independent", "--nodes", "2", "--seeds", "0,1", "--launcher", "submitit_slurm"),
        *_TRAINING,
        *("training.epochs=48", "hydra.launcher.name=sweep"),
    )
    checkpoints = site.runs / "train"
    until(lambda: list(checkpoints.rglob("checkpoint.pt")) or sweep.poll() is not None)
    task = next(job for job, state in site.jobs(name="sweep").items() if state == "RUNNING")
    site.slurm("scontrol", "requeue", task)
    out, err = sweep.communicate(timeout=240)
    assert sweep.returncode == 0, (out, err)
    assert site.job(task)["Restarts"] == "1"
    results = [json.loads(path.read_text()) for path in checkpoints.rglob("result.json")]
    assert len(results) == 4
    assert {result["seed"] for result in results} == {0, 1}
    table = site.run("results", "--format", "json")
    assert [row["seeds"] for row in json.loads(table.stdout)] == [[0, 1], [0, 1]]
