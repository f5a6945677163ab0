"""Packed data sets of small sources."""

from pathlib import Path

from kdhpc.data.prepare import Prepared, PrepareRequest, prepare
from kdhpc.data.progress import Progress
from kdhpc.data.readers.folder import FolderReader
from kdhpc.data.readers.source import Reader
from tests.data.trees import silent


def pack(
    source: Path,
    folder: Path,
    *,
    reader: Reader | None = None,
    size: int | None = 16,
    num_jobs: int = 1,
    skip_broken: bool = False,
    altered: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Prepared:
    """Prepare a source, a folder of images unless a reader is given."""
    request = PrepareRequest(
        reader=reader or FolderReader(),
        reader_name="folder" if reader is None else type(reader).__name__,
        source=source,
        folder=folder,
        size=size,
        num_jobs=num_jobs,
        skip_broken=skip_broken,
        altered=altered,
        force=force,
    )
    return prepare(request, progress or silent())
