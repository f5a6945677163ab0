"""The packed data sets."""

from collections.abc import Iterator

from kdhpc.config.paths import data_root, packed_dir
from kdhpc.data.packed import PackedDataset, prepared_names
from kdhpc.doctor.finding import Finding, absent, fault, ok
from kdhpc.errors import DataError, StorageError


def check_datasets() -> Iterator[Finding]:
    """Each one: whether it opens. Its bytes are read by ``kdhpc data check``."""
    names = prepared_names(data_root())
    if not names:
        yield absent("data sets", f"none in {data_root()}", "kdhpc data prepare --help")
    for name in names:
        try:
            manifest = PackedDataset.open(packed_dir(name)).manifest
        except (DataError, StorageError) as exc:
            yield fault(f"data {name}", str(exc), f"prepare it again, or remove {packed_dir(name)}")
        else:
            images = f"{manifest.train} training and {manifest.test} test images"
            yield ok(f"data {name}", f"{len(manifest.classes)} classes, {images}")
