"""Names of folders: a study's, a data set's, a training's. They may come from files that others wrote."""

from pathlib import Path

from kdhpc.errors import ConfigError
from kdhpc.printing import one_line

_LONGEST_BYTES = 255  # Of every file system in use.
_SHOWN = 80


def is_folder_name(name: str) -> bool:
    """Whether a name is that of a single folder, not hidden, which leads nowhere else and can be printed."""
    is_plain = name == one_line(name) and "/" not in name and not name.startswith(".")
    return is_plain and 0 < len(name.encode(errors="surrogatepass")) <= _LONGEST_BYTES


def inside(folder: Path, name: str) -> Path:
    """The path of that name in a folder. It never leads out of the folder.

    Raises:
        ConfigError: the name cannot be that of a folder, see :func:`is_folder_name`.
    """
    if not is_folder_name(name):
        raise ConfigError(
            f"{name[:_SHOWN]!r} can be no folder in {folder}: a name has no '/', no '.' first, and up to "
            f"{_LONGEST_BYTES} bytes"
        )
    return folder / name
