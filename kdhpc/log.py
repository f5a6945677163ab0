"""Logging of processes that nobody watches: workers and jobs."""

import logging
import sys
from typing import TYPE_CHECKING, TextIO

from kdhpc.printing import printable_stream

if TYPE_CHECKING:
    _StreamHandler = logging.StreamHandler[TextIO]
else:
    _StreamHandler = logging.StreamHandler  # Python 3.10 has no [TextIO].


def log_to_stderr() -> None:
    """Log lines of a worker: when, how grave, what."""
    logging.basicConfig(
        handlers=[_ToStderr()],
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        force=True,
    )
    # It tells of each list of fonts that it makes.
    logging.getLogger("matplotlib").setLevel(logging.WARNING)


class _ToStderr(_StreamHandler):
    """Writes to what standard error is at the moment: a line that is drawn on a terminal keeps below what is logged."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]  # an attribute there, set once
        return printable_stream(sys.stderr)
