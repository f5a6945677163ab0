"""``import kdhpc`` costs nothing, and gives what it promises."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import kdhpc

_PACKAGE = Path(kdhpc.__file__).parent
_COST = """\
import time
before = time.process_time()
import kdhpc
cost = time.process_time() - before
import sys
heavy = {"torch", "numpy", "hydra", "optuna", "sqlalchemy", "matplotlib", "PIL"} & set(sys.modules)
kdhpc.dml(2)
print(cost < 0.1, sorted(heavy), "torch" in sys.modules, cost)
"""


def test_import_costs_milliseconds_and_graphs_need_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", _COST], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("True [] False"), done.stdout


@pytest.mark.parametrize("name", kdhpc.__all__)
def test_promised_name_is_there(name: str) -> None:
    assert getattr(kdhpc, name) is not None


def test_promises_are_kept() -> None:
    promised = {"load_graph", "dml", "independent", "train", "load", "search"}
    assert promised <= set(kdhpc.__all__)
    assert {"predict", "attention", "classes"} <= set(dir(kdhpc.Ensemble))
    assert set(kdhpc.__all__) <= set(dir(kdhpc))


def test_stub_for_type_checkers_has_the_same_names() -> None:
    tree = ast.parse((_PACKAGE / "__init__.pyi").read_text())
    names = {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    listed = next(node.value for node in tree.body if isinstance(node, ast.Assign))
    assert names | {"__version__"} == set(ast.literal_eval(listed)) == set(kdhpc.__all__)
    assert (_PACKAGE / "py.typed").exists()


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'fit'"):
        _ = kdhpc.fit
