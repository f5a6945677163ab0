"""What tools/compare_commits finds in folders of its cases. The cases take minutes, and are not run here."""

import importlib.util
import io
import json
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from kdhpc.graph.spec import Design, Gate

_ROOT = Path(__file__).parents[2]
_RESULT = {"ensemble_accuracy": 75.0, "node_accuracies": [50.0, 62.5], "seconds": 1.0, "versions": {"torch": "1"}}
_WEIGHTS = {"conv.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "bn.num_batches_tracked": np.array(7)}


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    loader = SourceFileLoader("compare_commits", str(_ROOT / "tools" / "compare_commits"))
    spec = importlib.util.spec_from_loader("compare_commits", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["compare_commits"] = module  # Where dataclasses look up their types.
    loader.exec_module(module)
    return module


def compared(
    tool: ModuleType,
    tmp_path: Path,
    *,
    result: dict | None = None,
    weights: dict | None = None,
    checkpoints: tuple[dict, dict] | None = None,
):
    """A folder with what a run leaves, compared with one in which some of it is otherwise."""
    sides = ((_RESULT, _WEIGHTS), (_RESULT if result is None else result, _WEIGHTS if weights is None else weights))
    folders = []
    for number, (document, tensors) in enumerate(sides):
        folder = tmp_path / str(number)
        run = folder / "runs" / "train" / "x" / "seed0"
        run.mkdir(parents=True)
        (run / "result.json").write_text(json.dumps(document))
        epoch = {"epoch": 1, "train_losses": [0.5], "seconds": number}
        (run / "metrics.jsonl").write_text(f"{json.dumps(epoch)}\n")
        save_file(tensors, run / "node1.safetensors")
        if checkpoints is not None:
            saved = io.BytesIO()
            torch.save(checkpoints[number], saved)
            (folder / "stopped.pt").write_bytes(b"a header" + saved.getvalue())
        folders.append(folder)
    return tool.compare(*map(tool.read_values, folders))


def test_equal_folders_are_equal_whatever_their_times(tool: ModuleType, tmp_path: Path) -> None:
    found = compared(tool, tmp_path, result=_RESULT | {"seconds": 9.0, "versions": {"torch": "2"}})
    assert (found.differences, found.notes) == ((), ())
    assert (found.num_tensors, found.num_values) == (2, 5)


def test_changed_bit_of_a_tensor_is_found(tool: ModuleType, tmp_path: Path) -> None:
    changed = _WEIGHTS["conv.weight"].copy()
    changed[1, 2] = np.nextafter(changed[1, 2], np.float32(9))
    (difference,) = compared(tool, tmp_path, weights=_WEIGHTS | {"conv.weight": changed}).differences
    assert difference.name == "runs/train/x/seed0/node1.safetensors: conv.weight[1, 2]"
    assert (difference.before, difference.after) == ("1 of 6 numbers differ, the first is 5.0", "5.0000005")
    assert difference.largest == pytest.approx(2**-21)


def test_sign_of_zero_is_a_bit(tool: ModuleType, tmp_path: Path) -> None:
    changed = _WEIGHTS["conv.weight"].copy()
    changed[0, 0] = -0.0
    (difference,) = compared(tool, tmp_path, weights=_WEIGHTS | {"conv.weight": changed}).differences
    assert (difference.after, difference.largest) == ("-0.0", 0.0)
    assert tool.difference("x", 0.0, -0.0) is not None


def test_another_type_of_the_same_numbers_is_found(tool: ModuleType, tmp_path: Path) -> None:
    weights = _WEIGHTS | {"conv.weight": _WEIGHTS["conv.weight"].astype(np.float64)}
    (difference,) = compared(tool, tmp_path, weights=weights).differences
    assert (difference.before, difference.after) == ("float32 (2, 3)", "float64 (2, 3)")


def test_missing_tensor_and_additional_tensor_are_found(tool: ModuleType, tmp_path: Path) -> None:
    weights = {"conv.weight": _WEIGHTS["conv.weight"], "new": np.zeros(1)}
    missing, additional = compared(tool, tmp_path, weights=weights).differences
    assert missing.name == "runs/train/x/seed0/node1.safetensors: bn.num_batches_tracked"
    assert missing.after == "missing"
    assert (additional.name.split()[-1], additional.before) == ("new", "missing")


def test_changed_accuracy_is_found(tool: ModuleType, tmp_path: Path) -> None:
    result = _RESULT | {"node_accuracies": [50.0, 62.0]}
    (difference,) = compared(tool, tmp_path, result=result).differences
    assert str(difference) == (
        "runs/train/x/seed0/result.json: node_accuracies.1: 62.5 | 62.0 (largest absolute difference 0.5)"
    )


def test_field_that_is_gone_is_a_difference_and_a_new_one_is_none(tool: ModuleType, tmp_path: Path) -> None:
    result = {name: value for name, value in _RESULT.items() if name != "ensemble_accuracy"} | {"new": 1}
    found = compared(tool, tmp_path, result=result)
    assert [each.name.split()[-1] for each in found.differences] == ["ensemble_accuracy"]
    assert found.notes == ("only in AFTER: runs/train/x/seed0/result.json: new",)


def test_checkpoint_may_name_its_tensors_otherwise_but_not_change_them(tool: ModuleType, tmp_path: Path) -> None:
    ones, twos = torch.ones(3), torch.full((3,), 2.0)
    before = {"state": {"nodes": [ones], "sums": ones, "old": torch.zeros(1)}, "step": 3}
    found = compared(tool, tmp_path, checkpoints=(before, {"state": {"trainers": [ones], "sums": twos}, "step": 3}))
    (difference,) = found.differences
    assert difference.name == "stopped.pt: state.sums[0]"
    assert found.notes == (
        "only in BEFORE: stopped.pt: state.old",
        "same bits under another name: stopped.pt: state.nodes.0 -> stopped.pt: state.trainers.0",
    )
    assert found.num_tensors == 4


def test_nothing_to_compare_is_not_equal(tool: ModuleType, tmp_path: Path) -> None:
    assert tool.compare(tool.read_values(tmp_path), {}).differences


def test_cases_have_every_design_and_every_gate(tool: ModuleType) -> None:
    assert set(tool.DESIGNS) == {design.value for design in Design}
    assert set(tool.GATES) == {gate.value for gate in Gate}


def test_what_is_neither_a_commit_nor_a_checkout_is_refused(tool: ModuleType, tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="neither a commit nor a folder"),
        tool.code_of(str(tmp_path / "none"), tmp_path / "code"),
    ):
        pass


def test_side_whose_code_is_not_what_python_imports_is_refused(tool: ModuleType, tmp_path: Path) -> None:
    def sandbox(code: Path, name: str):
        return tool.Sandbox(code=code, data=tmp_path, folder=tmp_path / name, programs=tmp_path)

    sandbox(_ROOT, "own").check_code()
    (tmp_path / "empty").mkdir()
    with pytest.raises(tool.CaseFailedError, match="Python imports kdhpc from"):
        sandbox(tmp_path / "empty", "other").check_code()
