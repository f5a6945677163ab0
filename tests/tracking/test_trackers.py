"""The real trackers: what they wrote is read back with their own packages, after a run went on in another process."""

import json
import os
import subprocess
import sys
from dataclasses import replace

from kdhpc.config.schema import TrackingConfig
from kdhpc.tracking.recorder import Recorder
from tests.tracking.conftest import points
from tests.tracking.test_recorder import record, warnings

_WAIT_S = 120.0
"""Importing a tracker takes seconds, on a machine that is busy many."""
_LOOK_AT_MLFLOW = """
import json, sys
from mlflow import MlflowClient
client = MlflowClient(tracking_uri=sys.argv[1])
(experiment,) = [found for found in client.search_experiments() if found.name == "mine"]
(run,) = client.search_runs([experiment.experiment_id])
history = client.get_metric_history(run.info.run_id, "accuracy/ensemble")
print(json.dumps({
    "name": run.info.run_name, "status": run.info.status, "params": run.data.params, "tags": run.data.tags,
    "history": [[point.step, point.value] for point in history],
    "artifacts": sorted(found.path for found in client.list_artifacts(run.info.run_id)),
}))
"""


def twice(tracker, run):
    """Two processes after each other train it; the second one is thrown back by an epoch."""
    record(tracker, run, then=points(1, 3), end="interrupted", wait_s=_WAIT_S)
    record(tracker, run, begin=points(1, 2), then=points(3, 4), wait_s=_WAIT_S)


def test_tensorboard_has_each_epoch_once_and_what_the_run_is(run, caplog):
    from tensorboard.backend.event_processing import event_accumulator

    twice("tensorboard", run)
    assert not warnings(caplog)
    assert len(list(run.events.iterdir())) == 2, "a file for each process"
    shown = event_accumulator.EventAccumulator(str(run.events))
    shown.Reload()
    assert sorted(shown.Tags()["scalars"]) == ["accuracy/ensemble", "loss/mean"]
    assert [(one.step, one.value) for one in shown.Scalars("accuracy/ensemble")] == [(1, 10), (2, 20), (3, 30), (4, 40)]
    texts = {tag: shown.Tensors(tag)[-1].tensor_proto.string_val[0].decode() for tag in shown.Tags()["tensors"]}
    assert texts["state/text_summary"] == "complete"
    assert "    1 ─▶ 2" in texts["graph/text_summary"]
    assert '| study.gates | ["a\\|b"] |' in texts["config/text_summary"]
    assert "| kdhpc | 0.1 |" in texts["made with/text_summary"]


def test_mlflow_has_each_epoch_once_and_what_the_run_is(run, caplog):
    recorder = Recorder(TrackingConfig(tracker="mlflow", wait_s=_WAIT_S))
    for begin, then, end in (((), points(1, 3), "interrupted"), (points(1, 2), points(3, 4), "complete")):
        told = recorder.begin(lambda: run, lambda begin=begin: begin)
        for point in then:
            told.report(point)
        told.end(end)
    recorder.close()
    assert not warnings(caplog)
    done = subprocess.run(
        [sys.executable, "-c", _LOOK_AT_MLFLOW, run.store.as_uri()],
        env={**os.environ, "MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_DISABLE_TELEMETRY": "true"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["name"], found["status"]) == ("trial 3", "FINISHED")
    assert sorted(found["history"]) == [[1, 10], [2, 20], [3, 30], [4, 40]]
    assert found["params"] == {"training.epochs": "4"}
    assert (found["tags"]["kdhpc.state"], found["tags"]["kdhpc.device"]) == ("complete", "cpu")
    assert found["artifacts"] == ["config.json", "graph.json", "graph.txt"]


def test_wandb_is_offline_and_has_one_folder_of_a_run(run, caplog):
    twice("wandb", run)
    assert not warnings(caplog)
    (folder,) = (run.folder / "wandb").glob("offline-run-*")
    (history,) = folder.glob("run-*.wandb")
    run_id = json.loads(run.record.read_text(encoding="utf-8"))["run_id"]
    assert history.name == f"run-{run_id}.wandb"
    content = history.read_bytes()
    assert content.count(b"accuracy/ensemble") >= 4
    assert b"resnet8" in content


def test_wandb_on_a_disk_that_is_full_counts_what_is_missing(run, caplog, disk):
    on_disk = replace(run, folder=disk.path / "tracking")
    disk.rules("write .wandb err=ENOSPC")
    record("wandb", on_disk, then=points(1, 2), wait_s=_WAIT_S)
    said = warnings(caplog)
    assert said[0].startswith("tracking=wandb fails, training goes on: ")
    assert said[0].endswith(".wandb is not whole, as on a full disk (told once in a process)")
    assert said[1:] == ["tracking=wandb does not have 2 of the epochs here"]
    disk.rules()
    record("wandb", on_disk, begin=points(1, 2), then=points(3, 3), wait_s=_WAIT_S)
    assert len(warnings(caplog)) == 2
    (folder,) = on_disk.folder.glob("wandb/offline-run-*")
    (history,) = folder.glob("run-*.wandb")
    assert history.read_bytes().count(b"accuracy/ensemble") >= 3


def test_tensorboard_on_a_disk_that_is_full_leaves_no_half_record(run, caplog, tmp_path):
    run.events.parent.mkdir(parents=True)
    run.events.write_text("a file where a folder is wanted", encoding="utf-8")
    record("tensorboard", run, then=points(1, 2))
    assert warnings(caplog)[0].startswith("tracking=tensorboard fails, training goes on: FileExistsError")
    assert warnings(caplog)[1:] == ["tracking=tensorboard does not have 2 of the epochs here"]
