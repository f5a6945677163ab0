"""``python -m tools.watch_picture STUDY FILE.svg``: the live view of a study at this moment, as docs/ shows it."""

import io
import re
import sys
import time

from rich._export_format import CONSOLE_SVG_FORMAT

from kdhpc.cli.terminal import Terminal
from kdhpc.cli.watch_view import Asides, View, fitted_parts
from kdhpc.study.status import read_status
from kdhpc.study.storage import Storage

_COLUMNS, _LINES = 80, 24


class _Window(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def main(study: str, path: str) -> None:
    """Write it."""
    view = View(status=read_status(Storage.connect(), study), asides=Asides(), read_at=time.time())
    terminal = Terminal(_Window())
    terminal.console.record = True
    terminal.console.size = (_COLUMNS, _LINES)
    terminal.print(fitted_parts(view, _LINES, terminal.num_lines))
    # No fonts from the web: whoever looks has one of equal widths.
    picture = re.sub(r"@font-face \{\{.*?\}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    terminal.console.save_svg(path, title="kdhpc status --watch", code_format=picture)


if __name__ == "__main__":
    main(*sys.argv[1:])
