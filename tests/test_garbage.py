"""When a command's process looks for garbage."""

import subprocess
import sys

_PROGRAM = """\
import atexit, gc
usual = gc.get_threshold()
atexit.register(lambda: print("at the end:", gc.get_freeze_count() > 0))  # What is registered first runs last.
from kdhpc.garbage import collect_as_usual, collect_seldom
collect_seldom()
collect_seldom()  # A job of a command.
print("seldom:", gc.get_threshold()[0] > 10 * usual[0], gc.isenabled(), gc.get_freeze_count())
if {imports_end}:
    collect_as_usual()
    print("as usual:", gc.get_threshold() == usual, gc.get_freeze_count() > 0)
"""


def test_imports_and_the_end_are_spared_and_what_comes_between_is_not() -> None:
    assert _said(_PROGRAM.format(imports_end=True)) == [
        "seldom: True True 0",
        "as usual: True True",
        "at the end: True",
    ]


def test_a_command_that_only_imports_is_spared_at_its_end() -> None:
    assert _said(_PROGRAM.format(imports_end=False)) == ["seldom: True True 0", "at the end: True"]


def test_in_a_program_of_somebody_elses_thresholds_stay() -> None:
    program = """\
import gc
gc.set_threshold(123, 4, 5)
from kdhpc.garbage import collect_as_usual
collect_as_usual()
print(gc.get_threshold())
"""
    assert _said(program) == ["(123, 4, 5)"]


def _said(program: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()
