"""Help pages: at any width, with examples that parse, and on a page of docs."""

import argparse
import re
import shlex

import pytest

from kdhpc.cli.main import build_parser
from tools.command_page import PAGE, command_page, commands

_EXAMPLE = re.compile(r" +(kdhpc|sbatch slurm/search_array\.sh|optuna-dashboard) .*")


def pages() -> dict[str, argparse.ArgumentParser]:
    return dict(commands())


def words_of(page: str) -> list[str]:
    """Without the usage, whose parts may have spaces, and the marks of lines that go on."""
    return [word for word in page.partition("\n\n")[2].split() if word != "\\"]


@pytest.mark.parametrize("columns", [60, 80])
def test_help_pages_fit_the_terminal_and_break_no_word(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    whole = {name: words_of(parser.format_help()) for name, parser in pages().items()}
    monkeypatch.setenv("COLUMNS", str(columns))
    for name, parser in pages().items():
        page = parser.format_help()
        assert [line for line in page.splitlines() if len(line) > columns] == [], name
        assert words_of(page) == whole[name], name


def test_every_help_page_says_what_it_is_and_has_an_example_that_parses() -> None:
    for name, parser in pages().items():
        assert parser.description, name
        examples = [line for line in (parser.epilog or "").splitlines() if _EXAMPLE.fullmatch(line)]
        assert examples, f"{name} has no example"
        for example in examples:
            command, *words = shlex.split(re.split(r" {2,}", example.strip())[0])
            if command != "optuna-dashboard":
                build_parser().parse_args(["launch", *words[1:]] if command == "sbatch" else words)


def test_help_page_keeps_an_option_beside_its_value_and_a_command_in_backticks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    for parser in pages().values():
        lines = parser.format_help().splitlines()
        assert [line for line in lines if re.search(r"--(study|seeds|nodes|top|graph|launcher) \\$", line)] == []
        assert [line for line in lines if line.endswith("`kdhpc")] == []


def test_command_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == command_page(), "run `python -m tools.command_page`"
