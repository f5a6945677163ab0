"""Final trainings on disks that fail: what is called done can be read, and no epoch is trained twice without need."""

import logging
import signal

import pytest

from kdhpc.config.paths import RunPaths
from kdhpc.errors import ConfigError, DataError, KdhpcError, StorageError
from kdhpc.files.writing import write_whole
from kdhpc.final.result import read_result
from kdhpc.training.metrics import read_metrics
from tests.final.conftest import TINY
from tests.final.test_final import StopAfter, same, train, weights_of
from tests.final.test_train_command import LONG, same_weights, wait_for

DML = ("run.graph=dml", "run.num_nodes=2")


@pytest.fixture
def whole(place):
    """The weights of an undisturbed run, by node."""
    train(place.config(*DML, "run.name=whole"))
    return [weights_of("whole", node=node) for node in (0, 1)]


def is_as(whole, name="run"):
    return all(same(weights_of(name, node=node), weights) for node, weights in enumerate(whole))


@pytest.mark.parametrize(
    ("rule", "file"),
    [
        ("write,flush,fsync run/seed0/.node1 late=EDQUOT", "node1.safetensors"),
        ("flush run/seed0/.node2 late=EDQUOT", "node2.safetensors"),
        ("write run/seed0/.node1 late=EDQUOT", "node1.safetensors"),
        ("create run/seed0/.node2 err=ENOSPC", "node2.safetensors"),
        ("write run/seed0/.node2 err=ENOSPC", "node2.safetensors"),
        ("rename run/seed0/node1 err=EIO", "node1.safetensors"),
        ("flush run/seed0/.result late=EDQUOT", "result.json"),
        ("write run/seed0/.result late=EDQUOT", "result.json"),
    ],
)
def test_files_of_the_end_that_a_disk_refuses_are_written_the_next_time(place, faulty, whole, rule, file):
    config, paths = place.config(*DML, "run.name=run"), RunPaths.of("run", 0)
    faulty.rules(rule)
    with pytest.raises(StorageError) as error:
        train(config)
    message = str(error.value)
    assert message.startswith(f"{paths.root / file} cannot be written: ")
    assert message.endswith("make room, and the same command writes what is missing")
    assert not paths.result.exists()
    assert paths.checkpoint.exists()
    faulty.rules()
    result, reports = train(config, stop=StopAfter(1))
    assert [report.epoch for report in reports] == [2], "scored, not trained"
    assert result == read_result(paths.result)
    assert result.seconds == sum(report.seconds for report in read_metrics(paths.metrics))
    assert is_as(whole)
    assert not paths.checkpoint.exists()
    assert train(config) == (result, [])


def test_weights_that_a_quota_refuses_at_close_fail_the_command_and_not_the_training(place, faulty, whole):
    """As users run it, with the rule that hid it: exit 0, a result, no checkpoint, and weights of zeros."""
    paths = RunPaths.of("run", 0)
    command = ("train", "--graph", "dml", "--nodes", "2", *TINY, "run.name=run")
    faulty.rules("write,flush,fsync seed0/.node1 late=EDQUOT", "flush,fsync seed0/node late=EDQUOT")
    failed = place.run(*command)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.splitlines()[-1] == (
        f"kdhpc: {paths.weights(0)} cannot be written: Disk quota exceeded: "
        "make room, and the same command writes what is missing"
    )
    faulty.rules()
    again = place.run(*command)
    assert again.returncode == 0, again.stderr
    assert "epoch 1/2" not in again.stderr
    assert is_as(whole)


def test_disk_that_fills_up_in_the_middle_costs_no_more_than_since_the_last_checkpoint(place, faulty):
    epochs = "training.epochs=8"
    train(place.config(*DML, epochs, "run.name=whole"))
    command = ("train", "--graph", "dml", "--nodes", "2", *LONG, epochs, "run.name=run")
    run = place.runs / "train" / "run" / "seed0"
    training = place.start(*command)
    wait_for(run / "checkpoint.pt")
    training.send_signal(signal.SIGSTOP)
    faulty.rules("write,create run/seed0 err=ENOSPC")
    training.send_signal(signal.SIGCONT)
    _, err = training.communicate(timeout=300)
    assert training.returncode == 1
    assert "Traceback" not in err
    assert err.splitlines()[-1] == (
        f"kdhpc: {run / 'node1.safetensors'} cannot be written: No space left on device: make room, "
        f"and the same command trains on from its last checkpoint {run / 'checkpoint.pt'}"
    )
    assert not (run / "result.json").exists()
    faulty.rules()
    again = place.run(*command)
    assert again.returncode == 0, again.stderr
    assert "goes on after epoch" in again.stderr
    for node in ("node1.safetensors", "node2.safetensors"):
        assert same_weights(run / node, place.runs / "train" / "whole" / "seed0" / node)


def test_disk_that_takes_nothing_any_more_says_what_is_lost(place, faulty, whole):
    config, paths = place.config(*DML, "run.name=run"), RunPaths.of("run", 0)

    def fill_up():
        faulty.rules("write,create run/seed0 err=ENOSPC")
        return False

    with pytest.raises(StorageError) as error:
        train(config, stop=fill_up)
    assert str(error.value) == (
        f"{paths.weights(0)} cannot be written: No space left on device: make room, and the same command trains it "
        "again, as no checkpoint could be written"
    )
    faulty.rules()
    assert train(config)[0] is not None
    assert is_as(whole)


@pytest.mark.parametrize("file", ["config.yaml", "settings.json", "graph.json", "owner.json", "lock"])
def test_files_of_the_beginning_that_a_disk_refuses_are_one_error(place, faulty, file):
    config, paths = place.config(*DML, "run.name=run"), RunPaths.of("run", 0)
    faulty.rules(f"flush,create seed0/{'' if file == 'lock' else '.'}{file} err=EDQUOT")
    with pytest.raises(KdhpcError, match=f"{paths.root / file} cannot be .*: Disk quota exceeded"):
        train(config)
    faulty.rules()
    assert train(config)[0] is not None


def test_checkpoint_that_cannot_be_removed_does_not_undo_what_is_done(place, faulty):
    config, paths = place.config(*DML, "run.name=run"), RunPaths.of("run", 0)
    write_whole(paths.root / f".node1.safetensors.{'0' * 16}.tmp", "of a process that was killed")
    faulty.rules("unlink seed0/checkpoint.pt err=EACCES")
    result, _ = train(config)
    assert result == read_result(paths.result)
    assert paths.checkpoint.exists()
    assert list(paths.root.glob(".*.tmp")) == []
    faulty.rules()
    assert train(config) == (result, [])
    assert not paths.checkpoint.exists()


def test_checkpoint_that_cannot_be_read_now_is_not_trained_over(place, faulty):
    config = place.config(*DML, "run.name=run")
    train(config, stop=StopAfter(3))
    faulty.rules("open seed0/checkpoint.pt err=EACCES")
    with pytest.raises(StorageError, match=r"seed0/checkpoint\.pt cannot be read: Permission denied"):
        train(config)
    faulty.rules()
    assert train(config)[0] is not None


@pytest.mark.parametrize("content", [b"\0" * 300, b'{\n  "dataset.name": "ti', b"", b"[]"])
def test_settings_that_a_power_cut_has_damaged_are_written_anew_and_the_checkpoint_is_used(
    place, whole, caplog, content
):
    config, paths = place.config(*DML, "run.name=run"), RunPaths.of("run", 0)
    train(config, stop=StopAfter(5))
    sound = paths.settings.read_bytes()
    for path in (paths.settings, paths.config, paths.graph, paths.owner):
        path.write_bytes(content)
    with caplog.at_level(logging.INFO):
        assert train(config)[0] is not None
    assert f"{paths.settings} cannot be understood: it is written anew" in caplog.text
    assert "goes on after epoch 1, step 5" in caplog.text
    assert paths.settings.read_bytes() == sound
    assert is_as(whole)


def test_settings_that_are_damaged_let_no_other_training_pass_for_this_one(place):
    paths = RunPaths.of("run", 0)
    train(place.config(*DML, "run.name=run"))
    paths.settings.write_bytes(b"\0" * 100)
    with pytest.raises(ConfigError, match=r"seed0 was trained with other settings, says its result\.json"):
        train(place.config(*DML, "run.name=run", "training.epochs=1"))
    assert train(place.config(*DML, "run.name=run"))[1] == []


def test_settings_that_are_damaged_let_no_other_training_throw_a_checkpoint_away(place):
    paths = RunPaths.of("run", 0)
    train(place.config(*DML, "run.name=run"), stop=StopAfter(5))
    paths.settings.write_bytes(b"")
    kept = paths.checkpoint.read_bytes()
    with pytest.raises(
        ConfigError, match=r"settings\.json cannot be understood, and the checkpoint beside it is of other"
    ):
        train(place.config(*DML, "run.name=run", "training.learning_rate=0.001"))
    assert paths.checkpoint.read_bytes() == kept
    assert train(place.config(*DML, "run.name=run"))[0] is not None


@pytest.mark.parametrize("damage", [b"\0" * 200, b'{"epoch": 1, "st', b"nan\n", b"\xff\xfe\n{}\n"])
def test_log_that_a_power_cut_has_damaged_is_cut_back_and_the_checkpoint_is_used(place, whole, damage):
    paths = RunPaths.of("run", 0)
    train(place.config(*DML, "run.name=run"), stop=StopAfter(6))
    with paths.metrics.open("ab") as metrics:
        metrics.write(damage)
    done = place.run("train", "--graph", "dml", "--nodes", "2", *TINY, "run.name=run")
    assert done.returncode == 0, done.stderr
    assert f"{paths.metrics}: cut out what cannot be read" in done.stderr
    assert "goes on after epoch 1, step 6" in done.stderr
    assert is_as(whole)


def cut(path):
    write_whole(path, path.read_bytes()[:-100])


def empty(path):
    content = path.read_bytes()
    write_whole(path, content[:-4096] + bytes(4096))


def nothing(path):
    write_whole(path, b"")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(), "cannot be read (No such file or directory)"),
        (cut, "cannot be read as safetensors"),
        (nothing, "cannot be read as safetensors"),
        (empty, "is not what was written when the training ended"),
    ],
)
def test_run_whose_weights_are_damaged_since_is_never_done(place, whole, damage, said):
    config, paths = place.config(*DML, "run.name=run"), RunPaths.of("run", 0)
    train(config)
    damage(paths.weights(1))
    with pytest.raises(DataError) as error:
        train(config)
    assert str(error.value).startswith(f"{paths.root} is done: node2.safetensors {said}")
    assert f"remove {paths.result}, and the same command goes on from its checkpoint" in str(error.value)
    paths.result.unlink()
    assert train(config)[0] is not None
    assert is_as(whole)


@pytest.mark.parametrize("content", [b"\0" * 700, b'{"format": "kdhpc-result", "ver', b""])
def test_result_that_is_damaged_is_named_with_what_to_do(place, content):
    config, paths = place.config(*DML, "run.name=run"), RunPaths.of("run", 0)
    result, _ = train(config)
    paths.result.write_bytes(content)
    with pytest.raises(DataError, match=r"run/seed0/result\.json is not .*: remove .*, and the same"):
        train(config)
    paths.result.unlink()
    again, _ = train(config)
    assert (again.weights, again.ensemble_accuracy) == (result.weights, result.ensemble_accuracy)


def test_result_that_cannot_be_read_now_is_not_called_damaged(place, faulty):
    config = place.config(*DML, "run.name=run")
    result, _ = train(config)
    faulty.rules("open seed0/result.json err=EIO 1")
    assert train(config) == (result, [])
    faulty.rules("open seed0/result.json err=EACCES")
    with pytest.raises(StorageError, match=r"result\.json cannot be read: Permission denied"):
        train(config)


def test_result_of_another_seed_is_not_this_one(place):
    train(place.config(*DML, "run.name=run"))
    RunPaths.of("run", 0).root.rename(RunPaths.of("run", 1).root)
    with pytest.raises(ConfigError, match=r"seed1/result\.json is of run, seed 0: move .*seed1 away"):
        train(place.config(*DML, "run.name=run", "run.seed=1"))
    RunPaths.of("run", 1).root.rename(RunPaths.of("run", 0).root)
    assert train(place.config(*DML, "run.name=run"))[1] == []


def test_log_with_gaps_makes_no_number_of_seconds(place, faulty):
    faulty.rules("open seed0/metrics.jsonl err=EACCES")
    result, _ = train(place.config(*DML, "run.name=run"))
    assert result.seconds is None
    assert read_result(RunPaths.of("run", 0).result) == result
