"""What trackers do to training: nothing. They raise, hang, end their process, and are absent."""

import os
import random
import signal
import sys
import time

import pytest

from kdhpc.config.schema import TrackingConfig
from kdhpc.errors import LeaseLostError, StorageError
from kdhpc.tracking.names import absence
from kdhpc.tracking.recorder import Recorder
from tests.tracking.conftest import epochs, kept, points


def record(tracker, run, *, begin=(), then=(), end="complete", wait_s=20.0, hurry=False, **more):
    """One run, told to a tracker."""
    recorder = Recorder(TrackingConfig(tracker=tracker, wait_s=wait_s), **more)
    told = recorder.begin(lambda: run, lambda: begin)
    for point in then:
        told.report(point)
    told.end(end)
    recorder.close(hurry=hurry)
    return recorder


def warnings(caplog):
    return [found.getMessage() for found in caplog.records]


def test_recorder_tells_a_tracker_all_of_a_run(run, caplog):
    record("fake_trackers:Keeping", run, then=points(1, 2))
    first, *others = kept(run)
    assert first == {"begin": ["mine", "trial 3", None, ["network.name", "study.gates"], True]}
    assert others == [
        {"epoch": 1, "names": ["accuracy/ensemble", "loss/mean"]},
        {"epoch": 2, "names": ["accuracy/ensemble", "loss/mean"]},
        {"state": "complete", "reason": ""},
    ]
    assert not warnings(caplog)


def test_recorder_of_a_run_that_goes_on_repeats_no_epoch_and_gives_those_that_were_missed(run, caplog):
    record("fake_trackers:Keeping", run, then=points(1, 2), end="interrupted")
    # Another process trained epochs 3 and 4 without a tracker, and was thrown back by one epoch.
    record("fake_trackers:Keeping", run, begin=points(1, 3), then=points(4, 5))
    assert epochs(run) == [1, 2, 3, 4, 5]
    assert [line["state"] for line in kept(run) if "state" in line] == ["interrupted", "complete"]
    assert not warnings(caplog)


def test_recorder_of_what_the_tracker_has_no_longer_gives_all_epochs_again(run):
    record("fake_trackers:Keeping", run, then=points(1, 2), end="interrupted")
    (run.events / "kept.jsonl").unlink()
    record("fake_trackers:Keeping", run, begin=points(1, 2), then=points(3, 3))
    assert epochs(run) == [1, 2, 3]


def test_recorder_whose_journal_is_damaged_or_of_another_run_begins_anew(run):
    record("fake_trackers:Keeping", run, then=points(1, 1), end="interrupted")
    for damage in ("[", '{"epoch": "x"}', run.record.read_text(encoding="utf-8").replace("the study", "another")):
        run.record.write_text(damage, encoding="utf-8")
        record("fake_trackers:Keeping", run, then=points(1, 1))
    assert epochs(run) == [1, 1, 1, 1]


def test_recorder_of_a_tracker_that_raises_warns_once_and_counts(run, caplog):
    record("fake_trackers:Raising", run, then=points(1, 4))
    assert warnings(caplog) == [
        "tracking=fake_trackers:Raising fails, training goes on: RuntimeError: no room on the tracker's disk (told "
        "once in a process)",
        "tracking=fake_trackers:Raising does not have 4 of the epochs here",
    ]
    assert kept(run)[-1] == {"state": "complete", "reason": ""}


def test_recorder_of_a_tracker_that_exits_warns_and_goes_on(run, caplog):
    record("fake_trackers:Exiting", run, then=points(1, 2))
    assert "SystemExit: enough" in warnings(caplog)[0]


def test_recorder_whose_process_dies_starts_it_again_with_what_was_lost(run, caplog):
    record("fake_trackers:LeavingAtTwo", run, then=points(1, 1))
    recorder = Recorder(TrackingConfig(tracker="fake_trackers:LeavingAtTwo"))
    told = recorder.begin(lambda: run, lambda: points(1, 1))
    for point in points(2, 4):
        told.report(point)
        deadline = time.monotonic() + 10  # The pipe takes what a dead process will not read.
        while point.epoch == 2 and not (run.events / "been").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)
    told.end("complete")
    recorder.close()
    assert epochs(run) == [1, 2, 3, 4]
    assert warnings(caplog) == [
        "tracking=fake_trackers:LeavingAtTwo: its process has ended; training goes on, and it is started again"
    ]


def test_recorder_whose_process_dies_again_and_again_gives_up(run, caplog):
    recorder = Recorder(TrackingConfig(tracker="fake_trackers:AlwaysLeaving"))
    told = recorder.begin(lambda: run, lambda: [])
    for point in points(1, 12):
        told.report(point)
        time.sleep(0.3)
    told.end("complete")
    recorder.close()
    assert [line.partition("; ")[2] for line in warnings(caplog)] == [
        "training goes on, and it is started again",
        "training goes on without it",
        "",
    ]
    assert warnings(caplog)[-1].endswith("does not have 12 of the epochs here")


def test_recorder_of_a_tracker_that_hangs_waits_as_long_as_it_may_and_ends_it(run, caplog):
    recorder = Recorder(TrackingConfig(tracker="fake_trackers:Hanging", wait_s=1.0), most_waiting=3)
    told = recorder.begin(lambda: run, lambda: [])
    began = time.monotonic()
    # More than fits into a pipe and the queue.
    many = [point for _ in range(800) for point in points(1, 4)]
    for point in many:
        told.report(point)
    assert time.monotonic() - began < 2, "training waits for nothing"
    while not (run.events / "kept.jsonl").exists() or len(kept(run)) < 2:
        time.sleep(0.05)
    began = time.monotonic()
    recorder.close()
    assert 0.9 < time.monotonic() - began < 5
    assert [line.partition(", ")[0] for line in warnings(caplog)] == [
        "tracking=fake_trackers:Hanging is too slow",
        "tracking=fake_trackers:Hanging is not waited for any longer (tracking.wait_s)",
        "tracking=fake_trackers:Hanging does not have 4 of the epochs here",
    ]
    with pytest.raises(ProcessLookupError):
        os.kill(kept(run)[1]["hangs"], 0)


def test_recorder_leaves_this_process_as_it_is(run, capfd, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)}
    before = random.getstate()
    began = time.monotonic()
    record("fake_trackers:Rude", run, then=points(1, 2))
    assert time.monotonic() - began < 10, "what it does at its exit is not waited for"
    assert random.getstate() == before
    assert {number: signal.getsignal(number) for number in handlers} == handlers
    assert capfd.readouterr() == ("", "")
    assert {"environment": {"WANDB_MODE": "online", "DO_NOT_TRACK": "true"}} in kept(run), "the user's wins"
    assert epochs(run) == [1, 2]


@pytest.mark.parametrize(
    ("tracker", "said"),
    [
        ("no_such_trackers:One", "tracking=no_such_trackers:One needs the module no_such_trackers, which is not found"),
        ("fake_trackers:Missing", "cannot be imported: AttributeError"),
        ("fake_trackers:NO_CLASS", "cannot be imported: TypeError: NO_CLASS is no class"),
    ],
)
def test_recorder_of_a_tracker_that_is_absent_says_so_once(run, caplog, tracker, said):
    record(tracker, run, then=points(1, 3))
    (warning,) = warnings(caplog)
    assert said in warning
    assert warning.endswith("training goes on without it")


def test_recorder_that_cannot_describe_a_run_trains_on(caplog):
    recorder = Recorder(TrackingConfig(tracker="fake_trackers:Keeping"))
    with recorder.begin(lambda: 1 / 0, lambda: []) as told:
        told.report(points(1, 1)[0])
    recorder.close()
    assert warnings(caplog) == ["a run is not tracked: ZeroDivisionError: division by zero"]


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (LeaseLostError("another"), "lost"),
        (StorageError("full"), "interrupted"),
        (KeyboardInterrupt(), "interrupted"),
        (RuntimeError("a bug"), "failed"),
    ],
)
def test_record_of_a_run_that_ends_by_an_error_says_how(error, state):
    said = []

    class Listening:
        def give(self, record, message):
            said.append(message.state)

    from kdhpc.tracking.recorder import RunRecord

    with pytest.raises(type(error)), RunRecord(Listening(), 1, None, []):
        raise error
    assert said == [state]


def test_absence_of_a_package_names_its_extra(monkeypatch, tmp_path):
    (tmp_path / "wandb").mkdir()  # What W&B writes is not W&B.
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    for name in ("tensorboard", "mlflow", "wandb"):
        monkeypatch.delitem(sys.modules, name, raising=False)  # Another test may have imported it.
        assert absence(name) == (
            f"tracking={name} needs the package {name}, which is not installed here: pip install 'kdhpc[{name}]'"
        )
    assert absence("none") is None
