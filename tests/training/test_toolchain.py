import logging
import re
import sysconfig
from pathlib import Path

import pytest
import torch

from kdhpc.training.compile import Compiler
from kdhpc.training.toolchain import missing_tool


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """A folder that is all of PATH; there is nothing in it yet but for Python's headers below it."""
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sysconfig, "get_path", lambda name, scheme: str(tmp_path / name))
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "Python.h").touch()
    return tmp_path


def put(path: Path) -> None:
    path.touch()
    path.chmod(0o700)


@pytest.mark.parametrize(
    ("gpu", "words", "variable", "found"),
    [
        (True, r"needs a C compiler, gcc or clang is not there: .*set CC$", "CC", ("gcc", "clang")),
        (False, r"needs a C\+\+ compiler, g\+\+ is not there: .*set CXX$", "CXX", ("g++",)),
    ],
)
def test_missing_tool_compiler(tools, monkeypatch, gpu, words, variable, found):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: gpu)
    assert re.search(words, missing_tool())
    monkeypatch.setenv(variable, "nvc -O2")
    assert f"{variable}=nvc is none" in missing_tool()
    put(tools / "nvc")
    assert missing_tool() is None
    monkeypatch.delenv(variable)
    for name in found:
        put(tools / name)
        assert missing_tool() is None
        (tools / name).unlink()


def test_missing_tool_headers(tools):
    put(tools / "g++")
    assert missing_tool() is None
    (tools / "include" / "Python.h").unlink()
    assert missing_tool().startswith(f"torch.compile needs Python's headers, {tools}/include/Python.h is not there: ")


def test_compiler_that_fails_for_want_of_a_tool_says_so_in_a_line(tools, caplog):
    compiler = Compiler("inductor")
    with caplog.at_level(logging.WARNING):
        compiler.give_up(RuntimeError("An exception occurred in a subprocess:\n\nTraceback\nOSError: no file g++"))
    assert compiler.mode == "eager"
    (message,) = (entry.getMessage() for entry in caplog.records)
    assert "\n" not in message
    assert "torch.compile needs a C++ compiler, g++ is not there" in message
    assert message.endswith("(RuntimeError: An exception occurred in a subprocess: OSError: no file g++)")


def test_missing_tool_nothing_on_a_machine_that_compiles():
    assert missing_tool() is None
