"""How a help page is laid out: whole words, at any width of the terminal."""

import argparse
import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

_WIDEST = 100
_NARROWEST = 40
_HELP_COLUMN = 22
_NARROW_MARGIN = 8
_COMMAND = re.compile(r"(kdhpc|sbatch|eval|source|python|export) ")
_CODE = re.compile(r"`[^`]{1,30}`")
_NO_BREAK = "\0"
_WORD = re.compile(r"""(?:'[^']*'|"[^"]*"|\S)+""")


class HelpPage(argparse.HelpFormatter):
    """Fills paragraphs, and breaks long examples as a shell reads them.

    In a description or an epilog, an empty line ends a paragraph. Indented lines are kept: an example (a command, two
    spaces or more, what it does), or an item of a list (a term, two spaces or more, what it means).
    """

    def __init__(self, prog: str, **_: object) -> None:
        columns = min(shutil.get_terminal_size().columns, _WIDEST)
        super().__init__(prog, max_help_position=_HELP_COLUMN, width=max(columns, _NARROWEST) - 2)

    def add_argument(self, action: argparse.Action) -> None:
        """Also count how far subcommands are indented, which argparse forgets."""
        super().add_argument(action)
        for subaction in self._iter_indented_subactions(action):
            length = len(self._format_action_invocation(subaction)) + self._current_indent
            self._action_max_length = max(self._action_max_length, length)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = (f"{indent}{line}" if line else "" for line in laid_out(text, width - len(indent)))
        return "\n".join(lines)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return _wrap(" ".join(text.split()), width)

    def _format_usage(
        self,
        usage: str | None,
        actions: Iterable[argparse.Action],
        groups: Iterable[argparse._MutuallyExclusiveGroup],
        prefix: str | None,
    ) -> str:
        """The same in every version of Python: options first, and no part of it over two lines."""
        if usage is not None:
            return super()._format_usage(usage, actions, groups, prefix)
        actions = [action for action in actions if action.help is not argparse.SUPPRESS]
        exclusive = [list(group._group_actions) for group in groups]
        parts = []
        for action in sorted(actions, key=lambda action: not action.option_strings):
            group = next((group for group in exclusive if action in group), [action])
            if action is group[0]:
                parts.append(self._usage_of(group))
        head = f"{'usage: ' if prefix is None else prefix}{self._prog} "
        fits_beside = len(head) + max(map(len, parts), default=0) <= self._width
        lines = [head.rstrip()]
        for part in parts:
            if len(lines[-1]) + 1 + len(part) > self._width:
                lines.append(" " * ((len(head) if fits_beside else _NARROW_MARGIN) - 1))
            lines[-1] += f" {part}"
        return "\n".join(lines) + "\n\n"

    def _usage_of(self, group: Sequence[argparse.Action]) -> str:
        """One option or argument, or several of which one may be given."""
        shown = []
        for action in group:
            default = self._get_default_metavar_for_optional if action.option_strings else None
            if default is None:
                shown.append(self._format_args(action, self._get_default_metavar_for_positional(action)))
            elif action.nargs == 0:
                shown.append(action.option_strings[0])
            else:
                shown.append(f"{action.option_strings[0]} {self._format_args(action, default(action))}")
        text = " | ".join(shown)
        return text if group[0].required or not group[0].option_strings else f"[{text}]"


def laid_out(text: str, width: int) -> Iterator[str]:
    """The lines of a description or an epilog, none of them wider than that, if no word is."""
    for kind, block in groupby(text.strip("\n").splitlines(), key=_kind_of):
        lines = list(block)
        if kind == "empty":
            yield ""
        elif kind == "paragraph":
            yield from _paragraphs(lines, width)
        elif all(len(line) <= width for line in lines):
            yield from lines
        else:
            for line in lines:
                yield from _example_or_item(line, width)


def _kind_of(line: str) -> str:
    return "empty" if not line.strip() else "indented" if line.startswith(" ") else "paragraph"


def _paragraphs(lines: Sequence[str], width: int) -> Iterator[str]:
    """A line that ends in a colon is the head of what follows."""
    filled: list[str] = []
    for line in lines:
        filled.append(line)
        if line.endswith(":"):
            yield from _wrap(" ".join(filled), width)
            filled = []
    yield from _wrap(" ".join(filled), width)


def _example_or_item(line: str, width: int) -> Iterator[str]:
    margin = len(line) - len(line.lstrip())
    term, gap, meaning = re.match(r"(.*?)(?:( {2,})(.*))?$", line.strip()).groups("")  # type: ignore[union-attr]
    column = margin + len(term) + len(gap)
    if _COMMAND.match(term):
        yield from _command(term, margin, width)
        yield from _wrap(meaning, width, margin + 4)
    elif meaning and width - column >= 30:
        first, *others = _wrap(meaning, width - column)
        yield f"{' ' * margin}{term}{gap}{first}"
        yield from (f"{' ' * column}{other}" for other in others)
    else:
        first, *others = _wrap(term, width - margin)
        yield f"{' ' * margin}{first}"
        yield from _wrap(" ".join((*others, meaning)), width, margin + 4)


def _command(command: str, margin: int, width: int) -> Iterator[str]:
    """A command line, over several lines of a shell where it is too long."""
    line = " " * margin
    for word in _with_values(_WORD.findall(command)):
        if len(line) + 1 + len(word) + 2 > width and line.strip():
            yield f"{line} \\"
            line = " " * (margin + 4)
        line += f" {word}" if line.strip() else word
    yield line


def _with_values(words: Sequence[str]) -> Iterator[str]:
    """An option and its value are one word."""
    option = ""
    for word in words:
        is_value = option and not word.startswith("-") and "=" not in word
        if option and not is_value:
            yield option
        if word.startswith("--"):
            option = word
        else:
            yield f"{option} {word}" if is_value else word
            option = ""
    if option:
        yield option


def _wrap(text: str, width: int, margin: int = 0) -> list[str]:
    """Filled lines in which every word is whole, and a short command, too."""
    room = max(width - margin, 10)
    text = _CODE.sub(lambda code: code[0].replace(" ", _NO_BREAK), text)
    lines = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)
    return [f"{' ' * margin}{line.replace(_NO_BREAK, ' ')}" for line in lines]
