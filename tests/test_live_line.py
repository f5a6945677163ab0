"""The line of progress: never wider than the terminal, nothing of it in a pipe, and nothing left behind."""

import io
import os
import sys
import time
from pathlib import Path

import pytest

from kdhpc.live_line import LiveLine, Part, Shown, fitted, line_width, rewrites
from kdhpc.log import log_to_stderr
from kdhpc.printing import printable_output
from tests.screens import Screen, in_terminal

_PARTS = (
    Part(text="1 of 5", rank=3),
    Part(text="epoch 12/200"),
    Part(text="step 1/4", rank=2),
    Part(text="3 min to go", rank=1),
)
_PROGRAM = """\
import logging, sys, time
from kdhpc.live_line import LiveLine, Part, Shown
from kdhpc.log import log_to_stderr
from kdhpc.printing import printable_output
with printable_output():
    line = LiveLine(lambda: Shown(parts=(Part(text="training " * 20), Part(text="rest", rank=1)), fraction=0.5))
    log_to_stderr()
    line.start()
    try:
        line.above("epoch 1")
        logging.getLogger("x").warning("a\\x1b]0;title\\x07b")
        time.sleep(float(sys.argv[1]))
    finally:
        line.stop()
    print("done", file=sys.stderr)
"""


class Window(io.StringIO):
    """A terminal, as far as programs ask."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class Gone(Window):
    """A terminal whose connection has ended."""

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "LC_ALL", "LC_CTYPE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (("TERM", "xterm"), ("COLUMNS", "40"), ("LANG", "en_US.UTF-8")):
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (80, "1 of 5, epoch 12/200, step 1/4, 3 min to go"),
        (42, "epoch 12/200, step 1/4, 3 min to go"),
        (30, "epoch 12/200, 3 min to go"),
        (13, "epoch 12/200"),
        (5, "epoch"),
    ],
)
def test_fitted_leaves_out_the_highest_ranks_first(width: int, line: str) -> None:
    assert fitted(_PARTS, width) == line


@pytest.mark.parametrize("columns", ["40", "80"])
def test_live_line_is_drawn_from_the_first_moment_within_the_width(
    columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    window = Window()
    monkeypatch.setattr(sys, "stderr", window)
    line = LiveLine(lambda: Shown(parts=_PARTS, fraction=0.25))
    line.start()
    assert "epoch 12/200" in window.getvalue()
    line.above("epoch 11 is done")
    line.stop()
    assert sys.stderr is window
    screen = Screen(window.getvalue())
    assert screen.shown == ["epoch 11 is done"]
    assert screen.widest < int(columns)
    assert "\x1b[?25l" not in window.getvalue(), "a cursor that is hidden stays so if the process is killed"


@pytest.mark.parametrize("columns", [40, 80])
def test_live_line_in_a_real_terminal_leaves_only_what_was_printed(tmp_path: Path, columns: int) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "NO_COLOR": "1"}
    del environment["COLUMNS"]
    code, got = in_terminal([sys.executable, "-c", _PROGRAM, "0.6"], columns=columns, environment=environment)
    screen = Screen(got)
    assert code == 0
    assert screen.shown[0] == "epoch 1"
    assert screen.shown[1].endswith(r"WARNING a\x1b]0;title\x07b")
    assert screen.shown[2:] == ["done"]
    assert got.count("training training") >= 2, "a thread of its own draws it again"
    assert max(len(piece) for piece in got.split("\r") if "training training" in piece) <= columns - 1 + len("\x1b[2K")


def test_live_line_after_ctrl_c_is_gone(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    argv = [sys.executable, "-c", _PROGRAM, "60"]
    code, got = in_terminal(argv, columns=40, environment=environment, interrupt_at="WARNING")
    assert code != 0
    assert "training training" not in "\n".join(Screen(got).shown)
    assert Screen(got).shown[-1] == "KeyboardInterrupt"


def test_live_line_whose_start_is_interrupted_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    window = Window()
    monkeypatch.setattr(sys, "stderr", window)

    def interrupted(stream: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kdhpc.live_line.printable_stream", interrupted)
    line = LiveLine(lambda: Shown(parts=_PARTS))
    with pytest.raises(KeyboardInterrupt):
        line.start()
    assert sys.stderr is window
    assert Screen(window.getvalue()).shown == []
    assert not line.is_drawn


@pytest.mark.parametrize("term", ["dumb", None])
def test_live_line_where_no_line_can_be_rewritten_is_not_drawn(
    monkeypatch: pytest.MonkeyPatch, term: str | None
) -> None:
    stream = Window() if term else io.StringIO()
    monkeypatch.setenv("TERM", term or "xterm")
    monkeypatch.setattr(sys, "stderr", stream)
    line = LiveLine(lambda: Shown(parts=_PARTS))
    line.start()
    assert not line.is_drawn
    line.above("epoch 1")
    line.stop()
    assert stream.getvalue() == "epoch 1\n"
    assert not rewrites(stream)


@pytest.mark.parametrize(("name", "value", "sign"), [("LANG", "C", "-"), ("LANG", "en_US.UTF-8", "━")])
def test_live_line_bar_has_signs_that_the_locale_knows(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, sign: str
) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("NO_COLOR", "1")
    window = Window()
    monkeypatch.setattr(sys, "stderr", window)
    line = LiveLine(lambda: Shown(parts=(Part(text="epoch"),), fraction=0.5))
    line.start()
    line.stop()
    assert sign * 5 in window.getvalue()
    assert "\x1b[3" not in window.getvalue().replace("\x1b[2K", "")


def test_live_line_on_a_terminal_that_is_gone_raises_only_where_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Gone())
    line = LiveLine(lambda: Shown(parts=_PARTS))
    line.start()
    time.sleep(0.3)
    with pytest.raises(OSError, match="gone"):
        line.above("epoch 1")
    line.stop()


def test_log_line_goes_above_a_line_that_was_drawn_later(monkeypatch: pytest.MonkeyPatch) -> None:
    import logging

    window, root = Window(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(sys, "stderr", window)
    try:
        with printable_output():
            log_to_stderr()
            line = LiveLine(lambda: Shown(parts=_PARTS))
            line.start()
            logging.getLogger("kdhpc.test").warning("stopping")
            line.stop()
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    (said,) = Screen(window.getvalue()).shown
    assert said.endswith("WARNING stopping")


def test_line_width_leaves_the_last_column_free(monkeypatch: pytest.MonkeyPatch) -> None:
    assert line_width(Window()) == 39
    monkeypatch.delenv("COLUMNS")
    assert line_width(Window()) == 79


def test_drawing_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four times a second it takes less than a millisecond."""
    monkeypatch.setattr(sys, "stderr", Window())
    line = LiveLine(lambda: Shown(parts=_PARTS, fraction=0.5))
    line.start()
    before = time.process_time()
    time.sleep(2)
    spent = time.process_time() - before
    line.stop()
    assert spent < 0.1
