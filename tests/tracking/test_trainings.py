"""Trials and final trainings that are tracked: what the tracker is told, and that nothing else changes."""

import contextlib
import json
from dataclasses import replace

import pytest
import torch
import yaml
from safetensors.torch import load_file

from kdhpc.config.compose import compose_search
from kdhpc.config.document import read_config, write_config
from kdhpc.config.paths import RunPaths
from kdhpc.config.schema import SearchConfig, TrackingConfig
from kdhpc.errors import ConfigError
from kdhpc.final.final import train_final
from kdhpc.final.run import open_all
from kdhpc.final.settings import read_settings
from kdhpc.graph.serial import from_json
from kdhpc.searching.plan import study_definition
from kdhpc.searching.tracked import tracked_trial
from kdhpc.searching.trial import prepare_training, run_trial
from kdhpc.study.outcome import Outcome
from kdhpc.tracking.epochs import point_of
from kdhpc.tracking.names import how_to_look_at_run, how_to_look_at_study
from kdhpc.tracking.recorder import Recorder
from kdhpc.training.loop import EpochReport
from tests.final.conftest import place as place
from tests.final.conftest import shared as shared
from tests.searching.test_trial import ReportingTrial, begin, setting_of
from tests.training.memory_source import MemoryTrain

KEEPING, HANGING = "fake_trackers:Keeping", "fake_trackers:Hanging"


class PrunedTrial(ReportingTrial):
    def report_rung(self, epoch, accuracy):
        return Outcome.PRUNED if epoch == 2 else super().report_rung(epoch, accuracy)


def kept(folder, kind):
    lines = map(json.loads, (folder / "kept.jsonl").read_text(encoding="utf-8").splitlines())
    return [line[kind] for line in lines if kind in line]


def train(config, *, steps=10_000):
    left = iter(range(steps))
    reports = []
    result = train_final(config, show=reports.append, should_stop=lambda: next(left) == steps - 1)
    return result, reports


def test_train_final_that_goes_on_is_tracked_as_one_run(place):
    config = place.config("run.graph=dml", "run.num_nodes=2", "training.epochs=3", f"tracking={KEEPING}")
    paths = RunPaths.of("tiny-resnet8-dml2", 0)
    assert train(config, steps=5)[0] is None
    assert train(config)[0] is not None
    folder = paths.tracking / "fake_trackers"
    assert kept(folder, "epoch") == [1, 2, 3]
    assert kept(folder, "state") == ["interrupted", "complete"]
    (first, second) = kept(folder, "begin")
    assert first[:3] == ["tiny-resnet8-dml2", "seed 0", None]
    assert first[4], "the graph"
    assert second[2] is not None
    assert kept(folder, "names")[0] == [
        *("accuracy/ensemble", "accuracy/node1", "accuracy/node2", "images_per_second", "learning_rate"),
        *("loss/mean", "loss/node1", "loss/node2", "nll/ensemble"),
    ]


@pytest.mark.parametrize("tracker", [HANGING, "no_such_module:One"])
def test_train_final_has_the_same_bits_whatever_the_tracker_does(place, tracker, caplog):
    overrides = ("run.graph=dml", "run.num_nodes=2", "tracking.wait_s=1")
    plain, plain_reports = train(place.config(*overrides, "run.name=plain"))
    tracked, reports = train(place.config(*overrides, "run.name=tracked", f"tracking={tracker}"))
    assert tracked.settings == plain.settings
    for node in range(2):
        first, second = (load_file(RunPaths.of(name, 0).weights(node)) for name in ("plain", "tracked"))
        assert all(torch.equal(first[key], second[key]) for key in first)
    same = [[replace(report, seconds=0.0) for report in each] for each in (plain_reports, reports)]
    assert same[0] == same[1]
    assert read_settings(RunPaths.of("tracked", 0).settings) == read_settings(RunPaths.of("plain", 0).settings)
    assert any("tracking" in record.getMessage() for record in caplog.records)


def test_run_trial_tracks_its_pruning_and_goes_on_after_an_interruption(tmp_path):
    recorder = Recorder(TrackingConfig(tracker=KEEPING))
    setting = setting_of(tmp_path, f"tracking={KEEPING}", recorder=recorder)
    first = ReportingTrial()
    begin(setting, MemoryTrain().steps_per_epoch + 1, first)
    trial = PrunedTrial(reported=tuple(first.values))
    ends = []

    def ride():
        ends.append((yield from run_trial(trial, setting, prepare_training(trial, setting, None), lambda: False)))

    list(ride())
    recorder.close()
    assert ends == [Outcome.PRUNED]
    folder = setting.paths.tracking / "fake_trackers" / "trial-3"
    assert kept(folder, "epoch") == [1, 2]
    assert kept(folder, "state") == ["interrupted", "pruned"]
    assert kept(folder, "begin")[0][1] == "trial 3"


def test_run_trial_that_is_given_back_or_crashes_is_tracked_as_that(tmp_path):
    for error, state in ((None, "interrupted"), (RuntimeError("a bug"), "failed")):
        recorder = Recorder(TrackingConfig(tracker=KEEPING))
        setting = setting_of(tmp_path / state, f"tracking={KEEPING}", recorder=recorder)
        trial = ReportingTrial()
        journey = run_trial(trial, setting, prepare_training(trial, setting, None), lambda: False)
        next(journey)
        with contextlib.suppress(RuntimeError):
            _ = journey.close() if error is None else journey.throw(error)
        recorder.close()
        assert kept(setting.paths.tracking / "fake_trackers" / "trial-3", "state") == [state]


def test_tracked_trial_says_what_the_trial_is(tmp_path):
    setting, trial = setting_of(tmp_path), ReportingTrial()
    run = tracked_trial(
        trial.graph,
        number=trial.number,
        seed=trial.seed,
        study_uid="the study",
        paths=setting.paths,
        config=setting.config,
        made_with={"kdhpc": "0.1"},
    )
    assert from_json(run.graph, origin="test") == ReportingTrial.graph
    assert run.drawing.count("\n") > 2
    assert run.config["training.batch_size"] == 4
    assert (run.config["seed"], run.config["trial"]) == (1, 3)


def test_point_of_an_epoch_of_a_schedule_has_its_last_learning_rate():
    training = compose_search(["study=quickstart", "training.epochs=4", "training.milestones=[3]"]).training
    report = EpochReport(
        epoch=3,
        step=30,
        rung=False,
        train_losses=(1.0, 3.0),
        node_accuracies=None,
        ensemble_accuracy=None,
        seconds=2.0,
    )
    assert point_of(report, training).values == {
        "loss/node1": 1.0,
        "loss/node2": 3.0,
        "loss/mean": 2.0,
        "learning_rate": training.learning_rate * training.gamma,
        "images_per_second": 10 * training.batch_size / 2.0,
    }


def test_tracking_is_no_part_of_what_a_study_is_made_with():
    plain, tracked = (compose_search(["study=quickstart", *more]) for more in ((), ("tracking=wandb",)))
    assert study_definition("mine", plain, "0123") == study_definition("mine", tracked, "0123")
    assert tracked.tracking == TrackingConfig(tracker="wandb")


def test_config_that_an_older_version_froze_tracks_nothing(tmp_path):
    path = tmp_path / "frozen.yaml"
    write_config(compose_search(["study=quickstart", "tracking=wandb"]), path)
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    del document["tracking"]
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    assert read_config(SearchConfig, path).tracking == TrackingConfig()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("tracking=tensorbord", "did you mean 'tensorboard'?"),
        ("tracking.tracker=comet", "tracking.tracker=comet is not allowed: no tracker is called so"),
        ("tracking.wait_s=-1", "tracking.wait_s=-1.0 is not allowed: 0 to 600"),
        ("tracking.wait_s=inf", "tracking.wait_s=.inf is not allowed: a finite number"),
    ],
)
def test_tracking_that_cannot_be_meant_is_refused(override, said):
    with pytest.raises(ConfigError, match=said.replace("?", r"\?")):
        compose_search(["study=quickstart", override])


def test_tracker_that_is_not_installed_is_refused_before_anything_is_trained(place, monkeypatch):
    monkeypatch.setattr("kdhpc.tracking.names._is_installed", lambda module: False)
    with pytest.raises(ConfigError, match=r"pip install 'kdhpc\[wandb\]'"):
        open_all([place.config("run.graph=dml", "run.num_nodes=2", "tracking=wandb")])
    assert not place.runs.exists()


def test_how_to_look_names_what_the_user_has_chosen(monkeypatch):
    monkeypatch.setenv("KDHPC_RUNS", "/my runs")
    paths = RunPaths.of("dml2", 0)
    said = {
        tracker: how_to_look_at_study(TrackingConfig(tracker=tracker), "mine")
        for tracker in ("none", "tensorboard", "mlflow", "wandb", KEEPING)
    }
    assert said == {
        "none": None,
        "tensorboard": "`tensorboard --logdir '/my runs/mine/tracking/tensorboard'` shows what is tracked",
        "mlflow": "`MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri '/my runs/mine/tracking/mlflow'` shows "
        "what is tracked",
        "wandb": "`wandb sync '/my runs/mine/tracking'/wandb/offline-run-*` uploads what is tracked",
        KEEPING: None,
    }
    wandb = how_to_look_at_run(TrackingConfig(tracker="wandb"), paths)
    assert wandb == "`wandb sync '/my runs/train/dml2'/seed*/tracking/wandb/offline-run-*` uploads what is tracked"
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@host")
    assert how_to_look_at_run(TrackingConfig(tracker="wandb"), paths) == "tracked by W&B with WANDB_MODE=online"
    mlflow = how_to_look_at_run(TrackingConfig(tracker="mlflow"), paths)
    assert mlflow == "tracked by MLflow where MLFLOW_TRACKING_URI says"
