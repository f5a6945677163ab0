"""What is printed holds no control characters, whoever wrote the text."""

import io
import logging
import re
import sys

import pytest

from kdhpc.cli.main import main
from kdhpc.cli.progress import Progress
from kdhpc.cli.table import aligned
from kdhpc.data.progress import Progress as DataProgress
from kdhpc.log import log_to_stderr
from kdhpc.printing import one_line, printable, printable_output, printable_stream

HOSTILE = "a\x1b]0;title\x07\x1b[2J\rb\x9bc\u202ed"
SHOWN = r"a\x1b]0;title\x07\x1b[2J\rb\x9bc\u202ed"


class Terminal(io.StringIO):
    """As far as programs ask."""

    def isatty(self) -> bool:
        return True


def test_printable_writes_controls_out_and_keeps_lines_and_words() -> None:
    assert printable(HOSTILE) == SHOWN
    assert printable("Größe\t±\n日本") == "Größe\t±\n日本"
    assert one_line("a\nb\tc") == r"a\nb\tc"


def test_printable_stream_is_put_on_once_and_is_the_other_one_in_all_else() -> None:
    terminal = Terminal()
    stream = printable_stream(terminal)
    assert printable_stream(stream) is stream
    assert stream.isatty()
    print(HOSTILE, HOSTILE, sep="\n", file=stream)
    stream.writelines(["x\x00", "y"])
    assert terminal.getvalue() == f"{SHOWN}\n{SHOWN}\nx\\x00y"


def test_printable_stream_writes_what_the_encoding_lacks_as_python_does() -> None:
    buffer = io.BytesIO()
    stream = printable_stream(io.TextIOWrapper(buffer, encoding="ascii", write_through=True))
    stream.write("± \udce9 a")
    assert buffer.getvalue() == rb"\xb1 \xe9 a"


def test_main_says_what_is_wrong_without_obeying_it(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    assert main(["train", "--graph", HOSTILE, "--nodes", "2", "dataset=cifar10", "network=resnet8"]) != 0
    assert (sys.stdout, sys.stderr) == before
    said = capsys.readouterr().err
    assert not [char for char in said.rstrip("\n") if not char.isprintable()]
    assert r"\x1b[2J" in said


def test_log_lines_are_printable(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        log_to_stderr()
        logging.getLogger("kdhpc.test").warning("reason: %s", HOSTILE)
    finally:
        for handler in root.handlers[:]:
            root.removeHandler(handler)
        for handler in handlers:
            root.addHandler(handler)
        root.setLevel(level)
    assert f"reason: {SHOWN}\n" in capsys.readouterr().err


def test_table_cell_breaks_no_line() -> None:
    assert aligned([("name", "x"), ("a\nb", "1")]) == ["name  x", r"a\nb  1"]


def test_progress_in_bytes_is_shown_in_mb() -> None:
    told = io.StringIO()
    progress = DataProgress(told)
    progress.start("checking it", 12_345_678, in_mb=True)
    progress.advance(12_345_678)
    assert re.fullmatch(r"checking it: 12 of 12 MB \([\d,]+ MB a second\)\n", told.getvalue())


def test_progress_on_a_terminal_still_rewrites_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    with printable_output():
        Progress().tell(HOSTILE)
        progress = DataProgress(sys.stderr)
        progress.start(HOSTILE, 1)
        progress.advance(1)
    first, second, rest = terminal.getvalue().split("\n")
    assert first == f"kdhpc: {SHOWN}"
    assert second.startswith(f"\r\x1b[K{SHOWN}: 0 of 1\r\x1b[K{SHOWN}: 1 of 1")
    assert rest == ""
