"""Tables: plain columns in a pipe, fitted to a terminal of any width."""

import io
import os
import re

import pytest

from kdhpc.cli.table import Fact, Table, markdown, plain, show
from kdhpc.printing import has_unicode, printable_stream

WORKERS = Table(
    head=("worker", "pid", "job", "trial", "state", "mode"),
    rows=[("node-17.cluster", "12345", "991_12", "103", "running", "compile"), ("n", "1", "-", "9", "lost", "-")],
    spare=("mode", "pid"),
    alarming=frozenset({1}),
)
REASON = "RuntimeError: CUDA out of memory ± 3, tried to allocate 20 MiB on node-3"
CRASHES = Table(head=("crashed", "reason"), rows=[("7", REASON)], wraps=("reason",))
BEST = Fact(label="best", text="71.20 % (trial 3) in the search, confirmed 70.11 ± 0.30 % (3 seeds)")


class Window(io.StringIO):
    """A terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def modern_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LC_ALL", "LC_CTYPE", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (("TERM", "xterm"), ("LANG", "en_US.UTF-8")):
        monkeypatch.setenv(name, value)


def shown(columns: int, *parts: "str | Fact | Table", monkeypatch: pytest.MonkeyPatch) -> str:
    """What a terminal of so many columns gets."""
    window = Window()
    monkeypatch.setattr("shutil.get_terminal_size", lambda *_, **__: os.terminal_size((columns, 24)))
    show(*parts, stream=printable_stream(window))
    return window.getvalue()


def words_of(text: str) -> list[str]:
    """The lines, without colours and trailing spaces."""
    return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()]


def test_pipe_gets_all_columns_whatever_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    pipe = io.StringIO()
    show("a line", BEST, "", WORKERS, stream=pipe)
    assert pipe.getvalue() == (
        "a line\n"
        "best     71.20 % (trial 3) in the search, confirmed 70.11 ± 0.30 % (3 seeds)\n"
        "\n"
        "worker           pid    job     trial  state    mode\n"
        "node-17.cluster  12345  991_12  103    running  compile\n"
        "n                1      -       9      lost     -\n"
    )


@pytest.mark.parametrize("columns", [30, 40, 48, 56, 80, 200])
def test_terminal_is_never_too_narrow_and_no_word_is_broken_without_need(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = words_of(shown(columns, BEST, WORKERS, CRASHES, monkeypatch=monkeypatch))
    assert max(map(len, lines)) <= columns
    words = " ".join(lines).split()
    assert set(BEST.text.split()) | set(REASON.split()) <= set(words)
    for row in WORKERS.rows:
        assert set(row[2:5]) <= set(words)


def test_terminal_leaves_out_spare_columns_in_their_order_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = words_of(shown(55, WORKERS, monkeypatch=monkeypatch))
    assert whole == plain([WORKERS]).splitlines()
    without_mode = words_of(shown(54, WORKERS, monkeypatch=monkeypatch))
    assert without_mode[0].split() == ["worker", "pid", "job", "trial", "state"]
    assert without_mode[-1] == "(narrow window, so without mode)"
    listed = words_of(shown(38, WORKERS, monkeypatch=monkeypatch))
    assert listed[:2] == ["worker  node-17.cluster", "job     991_12"]
    assert listed[-1] == "(narrow window, so without mode, pid)"


def test_markdown_is_a_table_between_paragraphs_and_no_cell_breaks_it() -> None:
    parts = (Fact(label="best", text="93 %"), Table(head=("name", "value"), rows=[("a|b\nc", "1")]), "", "ends")
    assert markdown(parts) == ("best     93 %\n\n| name | value |\n| --- | ---: |\n| a\\|b\\nc | 1 |\n\nends")


def test_terminal_colours_what_is_alarming_unless_it_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[31mlost" in shown(80, WORKERS, monkeypatch=monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[31m" not in shown(80, WORKERS, monkeypatch=monkeypatch)
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in shown(80, WORKERS, monkeypatch=monkeypatch)


def test_terminal_without_unicode_gets_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    text = shown(80, BEST, "naïve", CRASHES, monkeypatch=monkeypatch)
    assert text.isascii()
    assert "70.11 +- 0.30" in text


@pytest.mark.parametrize(
    ("encoding", "environment", "known"),
    [
        ("utf-8", {"LANG": "de_DE.UTF-8"}, True),
        ("utf-8", {"LANG": "C", "LC_ALL": "C.UTF-8"}, True),
        ("utf-8", {"LANG": "C.utf8", "LC_CTYPE": "C.UTF-8"}, True),
        ("utf-8", {"LANG": "C", "LC_CTYPE": "C.UTF-8"}, False),
        ("utf-8", {}, False),
        ("utf-8", {"LC_ALL": "POSIX", "LANG": "de_DE.UTF-8"}, False),
        ("iso-8859-1", {"LANG": "de_DE.ISO-8859-1"}, False),
        (None, {"LANG": "de_DE.UTF-8"}, False),
    ],
)
def test_has_unicode_goes_by_the_locale_that_people_chose(
    encoding: str | None, environment: dict[str, str], known: bool
) -> None:
    assert has_unicode(encoding, environment) == known


def test_cells_obey_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = Table(head=("name",), rows=[("[red]\x1b[2J\n",)])
    assert words_of(shown(80, hostile, monkeypatch=monkeypatch)) == ["name", r"[red]\x1b[2J\n"]
