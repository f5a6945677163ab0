"""How every picture is styled and saved: Matplotlib without pyplot, so that nothing global is left changed.

The same content gives the same bytes, whenever it is written. What draws imports this module before Matplotlib.
"""

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from kdhpc.errors import ConfigError
from kdhpc.files.writing import replacing


def _import_matplotlib() -> None:
    """Import Matplotlib, whatever the user has set for it: no window is opened here, and no style but ours is used.

    ``MPLBACKEND`` is hidden, because Matplotlib cannot be imported if it does not know the name in it: in a notebook's
    terminal, it is that of a module that other environments lack. Warnings about a configuration are not shown.

    Raises:
        ConfigError: a configuration file is no text.
    """
    backend = os.environ.pop("MPLBACKEND", None)
    talk = logging.getLogger("matplotlib")
    level = talk.level
    talk.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import_module("matplotlib.style")
    except UnicodeDecodeError as exc:
        raise ConfigError(
            "Matplotlib cannot be used: its configuration (matplotlibrc in the working folder, what MATPLOTLIBRC or "
            "MPLCONFIGDIR name, or ~/.config/matplotlib) is not in UTF-8; mend that file or move it away"
        ) from exc
    finally:
        talk.setLevel(level)
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


_import_matplotlib()

# isort: split
from matplotlib import style  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "kdhpc"}
"""Texts stay texts in an SVG, and its identifiers don't change from one run to the next."""
_METADATA: dict[str, dict[str, str | None]] = {".svg": {"Date": None, "Creator": None}, ".png": {"Software": None}}
"""Left out, because it changes with the time and with Matplotlib's version."""
ENDINGS = tuple(_METADATA)
"""File name endings of the formats in which a picture can be written."""


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
