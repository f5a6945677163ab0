"""A table by one job: it submits a search, then a training that needs it, and outlives its own time limit."""

import json

from tests.slurm.faults import Cluster
from tests.slurm.site import JOB, ROOT
from tests.workspace import until

_PLAN = f"""\
title: One graph
miniature:
  data: tiny
  study: small
  trials: 3
  network: resnet8
  nodes: 2
searches:
  - study: "{{study}}"
    overrides: [study=tiny, {", ".join(repr(word) for word in JOB)}, cluster.workers=1]
trainings:
  - name: of-the-search
    graph: best of {{study}}
    overrides:
      - dataset=tiny
      - network=resnet8
      - network.crops=[3]
      - training=short
      - device.threads=1
      - hydra.launcher.cpus_per_task=1
      - hydra.launcher.mem_gb=2
      # They are in the queue for longer than the job that submitted them is away.
      - hydra.launcher.additional_parameters.begin=now+90
reports:
  - words: [graph]
    of: [of-the-search]
"""


def test_job_that_reproduces_submits_what_comes_next_and_goes_on_after_its_time_limit(cluster: Cluster) -> None:
    with cluster.own_site("reproduced") as site:
        plan = site.folder / "configs" / "reproduce" / "figure6.yaml"
        plan.parent.mkdir(exist_ok=True)
        plan.write_text(_PLAN)
        job = site.sbatch(str(ROOT / "slurm" / "reproduce.sh"), "figure6", "--scale", "miniature", "--data", "tiny")
        worker = site.caught("small")
        server = site.server()
        assert server["job"] == f"{job}@sandbox"
        # What Slurm sends before the time limit; its worker stands still meanwhile, as its database is away.
        site.slurm("scancel", "--signal=USR2", "--batch", job)
        worker.let_go()
        site.restarted(job)
        until(lambda: site.jobs(name="of-the-search") or site.job(job)["JobState"] == "FAILED")
        site.slurm("scancel", "--signal=USR2", "--batch", job)
        site.restarted(job, 2)

        assert site.ended(job) == "COMPLETED", site.output(job)

        said = site.output(job)
        assert f"requeueing job {job}" in said
        assert said.count("submitted job") == 1, "the search's workers were not submitted twice"
        assert "of-the-search waits for jobs of that name that are in the queue already" in said
        assert len(list((site.runs / "sweeps").iterdir())) == 1, "nor were the trainings"
        results = list((site.runs / "train" / "of-the-search").glob("seed*/result.json"))
        assert sorted(json.loads(path.read_text())["seed"] for path in results) == [0, 1]
        assert (site.runs / "reproduce" / "figure6-miniature" / "graph.png").stat().st_size > 1000
        # It was the job's own, and ended with it.
        until(lambda: site.server()["pid"] is None)
