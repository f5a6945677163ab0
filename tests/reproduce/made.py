"""A data set that is prepared, as far as a plan looks at it."""

from pathlib import Path

from tests.data.made import pack
from tests.data.trees import write_folder


def pack_few(name: str) -> None:
    """Six images of 28 px under some name, in the folder's ``data``."""
    pack(write_folder(Path("images")), Path("data") / name, size=28)
