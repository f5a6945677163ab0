"""A final training that meets its job's time limit: USR2, by which Slurm announces it."""

from pathlib import Path

from kdhpc.training.metrics import read_metrics
from tests.slurm.faults import Cluster
from tests.workspace import PATIENCE_S, until

_TRAINING = (
    *("dataset=fashion_mnist", "dataset.name=tiny", "dataset.image_size=16", "network=resnet8", "network.crops=[3]"),
    *("training=short", "training.batch_size=16", "training.epochs=96", "device.threads=1", "run.name=limit"),
    *("hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=2", "hydra.launcher.name=limit"),
)


def test_sweep_job_at_its_time_limit_is_requeued_and_goes_on(cluster: Cluster) -> None:
    site = cluster.site
    sweep = site.start("train", "--graph", "dml", "--nodes", "2", "--launcher", "submitit_slurm", *_TRAINING)
    run = site.runs / "train" / "limit" / "seed0"
    until(lambda: (run / "metrics.jsonl").exists() or sweep.poll() is not None)
    (task,) = [job for job, state in site.jobs(name="limit").items() if state == "RUNNING"]
    site.slurm("scancel", "--signal=USR2", task)
    out, err = sweep.communicate(timeout=PATIENCE_S)
    assert sweep.returncode == 0, (out, err)
    assert site.job(task)["Restarts"] == "1"
    logs = "".join(path.read_text() for path in Path(site.runs).glob("sweeps/*/jobs/*.out"))
    assert "goes on after epoch" in logs
    assert [report.epoch for report in read_metrics(run / "metrics.jsonl")] == list(range(1, 97))
