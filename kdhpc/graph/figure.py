"""How every picture is styled and saved: Matplotlib without pyplot, so that nothing global is left changed.

The same content gives the same bytes, whenever it is written.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from matplotlib import style
from matplotlib.figure import Figure

from kdhpc.files import replacing

_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "kdhpc"}
"""Texts stay texts in an SVG, and its identifiers don't change from one run to the next."""
_METADATA: dict[str, dict[str, str | None]] = {".svg": {"Date": None, "Creator": None}, ".png": {"Software": None}}
"""Left out, because it changes with the time and with Matplotlib's version."""
ENDINGS = tuple(_METADATA)
"""Of the files that a picture can be written to."""


@contextmanager
def plain_style() -> Iterator[None]:
    """Make and save figures in Matplotlib's own style, whatever the user has set."""
    with style.context(["default", _STYLE]):
        yield


def save_figure(figure: Figure, paths: Sequence[Path], *, dpi: int) -> None:
    """Write a figure to one or more files, under ``plain_style``; each appears whole or not at all.

    Raises:
        StorageError: the file system refuses.
    """
    for path in paths:
        with replacing(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:], dpi=dpi, metadata=_METADATA[path.suffix])
