"""Logging of processes that nobody watches: workers and jobs."""

import logging
import sys

from kdhpc.printing import printable_stream


def log_to_stderr() -> None:
    """Log lines of a worker: when, how grave, what."""
    logging.basicConfig(
        stream=printable_stream(sys.stderr),
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        force=True,
    )
