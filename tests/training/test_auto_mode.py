"""``device.mode=auto`` on a CPU."""

import json
from dataclasses import replace

import pytest
import torch

from kdhpc.training import auto_mode
from kdhpc.training.auto_mode import UNKNOWN, AutoMode, CompileTimes
from kdhpc.training.checkpoint import load_checkpoint, save_checkpoint
from kdhpc.training.compile import programs
from kdhpc.training.compiling import cache_key
from tests.training.memory_source import CPU, runtime_of, setting_of
from tests.training.test_loop import StopAfter, assert_same_state, never
from tests.training.test_packed_resume import KEY, training_of

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
TIMES = CompileTimes(compile_s=30.0, eager_s=0.2, compiled_s=0.15)
WORTH_IT = CompileTimes(compile_s=0.0, eager_s=1.0, compiled_s=0.1)
COMPILER = "aot_eager"
"""As real as Inductor to all but the speed, and compiled in a second."""


@pytest.fixture(autouse=True)
def quick_compiler(monkeypatch):
    monkeypatch.setattr(auto_mode, "programs_in", lambda mode, device: programs(None if mode == "eager" else COMPILER))
    torch._dynamo.reset()
    programs.cache_clear()
    yield
    programs.cache_clear()


def auto(folder, *, before=lambda: None):
    return AutoMode(cache_key(setting_of(), name="resnet8", num_nodes=2), folder, before)


def put_on_record(folder, times):
    auto(folder)._put_on_record(times)


def trained(training):
    reports = list(training.epochs(never))
    return [report.train_losses for report in reports], training.state()


@pytest.mark.parametrize(
    ("num_steps", "eager_s", "is_compiled", "is_won"),
    [
        (599, 0.2, False, False),
        (601, 0.2, False, True),
        (601, 0.1, False, False),  # On a machine twice as fast the compiled step will be, too.
        (1, 0.2, True, True),
    ],
)
def test_compiling_is_won_back_by_what_the_steps_ahead_save(num_steps, eager_s, is_compiled, is_won):
    won_s = TIMES.seconds_won(num_steps=num_steps, eager_s=eager_s, is_compiled=is_compiled)
    assert (won_s > 0) is is_won


def test_step_that_compiling_makes_slower_is_never_compiled():
    times = CompileTimes(compile_s=1.0, eager_s=0.1, compiled_s=0.11)
    assert times.seconds_won(num_steps=10**9, eager_s=0.1, is_compiled=True) < 0


def test_choice_is_left_open_on_a_cpu_under_auto_alone():
    assert runtime_of(CPU).mode_is_open
    assert not runtime_of(CPU, target="cuda").mode_is_open
    assert not runtime_of(replace(CPU, mode="eager")).mode_is_open


def test_short_training_has_the_bits_of_an_eager_one_and_leaves_no_record(tmp_path):
    training = training_of("pad_crop", auto=auto(tmp_path))
    found = trained(training)
    expected = trained(training_of("pad_crop", programs(None)))
    assert training.mode == "eager"
    assert found[0] == expected[0]
    assert_same_state(found[1], expected[1])
    assert list(tmp_path.iterdir()) == []


def test_long_training_has_the_bits_of_a_compiled_one_and_puts_its_times_on_record(tmp_path):
    put_on_record(tmp_path, WORTH_IT)
    used = []
    chooser = auto(tmp_path, before=lambda: used.append(1))
    training = training_of("pad_crop", auto=chooser, epochs=5)
    found = trained(training)
    expected = trained(training_of("pad_crop", programs(COMPILER), epochs=5))
    assert training.mode == "compile"
    assert used == [1]
    assert found[0] == expected[0]
    assert_same_state(found[1], expected[1])
    times = chooser._on_record()
    assert times != WORTH_IT
    assert times.compile_s > times.compiled_s > 0


@pytest.mark.parametrize(("first", "then"), [("compile", "eager"), ("eager", "compile")])
def test_resumed_training_keeps_the_mode_that_it_has_had(tmp_path, first, then):
    times = {"compile": WORTH_IT, "eager": UNKNOWN}
    put_on_record(tmp_path / "first", times[first])
    put_on_record(tmp_path / "then", times[then])
    begun = training_of("pad_crop", auto=auto(tmp_path / "first"))
    list(begun.epochs(StopAfter(3)))
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, begun.state(), KEY)
    resumed = training_of("pad_crop", auto=auto(tmp_path / "then"))
    resumed.restore(load_checkpoint(path, KEY))
    state = trained(resumed)[1]
    assert (begun.mode, resumed.mode) == (first, first)
    assert_same_state(state, trained(training_of("pad_crop", auto=auto(tmp_path / "first")))[1])


def test_step_is_measured_once_a_process(tmp_path):
    chooser, measured = auto(tmp_path), []

    def measure():
        measured.append(1)
        return 1e-3

    assert [chooser.choose(10, measure).mode, chooser.choose(10, measure).mode] == ["eager", "eager"]
    assert measured == [1]
    assert chooser.choose(10**7, measure).mode == "compile"
    assert chooser.choose(10, measure).mode == "compile"  # It costs nothing any more.


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"compile_s": 0, "eager_s": 0, "compiled_s": 0}', '{"compile_s": "1"}', "\0"]
)
def test_record_that_is_damaged_is_none(tmp_path, content):
    put_on_record(tmp_path, TIMES)
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text())["compile_s"] == 30
    path.write_text(content)
    assert auto(tmp_path)._on_record() is None
