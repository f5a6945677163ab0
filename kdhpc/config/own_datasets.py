"""Configs of data sets that have no config file: what is packed under a name says how to train on it."""

from dataclasses import dataclass

from kdhpc.config.paths import data_root, packed_dir
from kdhpc.config.schema import check_dataset_name
from kdhpc.errors import ConfigError, DataError, StorageError
from kdhpc.files.json_text import parse_json
from kdhpc.files.reading import read_whole

MANIFEST = "manifest.json"
"""In the folder of a packed data set, what is in it; see `kdhpc.data.packed`."""
PHOTOGRAPH = 96
"""Images whose shorter side has so many pixels or more are augmented as photographs."""
_FEW = 5
"""With fewer training images a class, a search keeps half of them to score graphs, so that each class has one."""


@dataclass(frozen=True, kw_only=True)
class StoredAs:
    """How the images of a data set are stored."""

    height: int
    """Stored height, in pixels."""
    width: int
    """Stored width, in pixels."""
    per_class: float
    """Training images for each class, on average."""
    mean: tuple[float, ...] = ()
    """Mean of each channel of the training images, 0 to 1; empty: not known."""
    std: tuple[float, ...] = ()
    """Standard deviation of each channel; goes with ``mean``."""


def dataset_group_of(name: str, stored: StoredAs) -> dict[str, object]:
    """The group ``dataset`` of a config, for images that are stored so.

    Small images are augmented as CIFAR's: padded by an eighth of their side, cropped to their side, flipped. Larger
    ones are augmented as photographs: crops of random area, resized to seven eighths of the stored side. For scoring,
    the middle is cut out.
    """
    side = min(stored.height, stored.width)
    group: dict[str, object] = {"name": name, "validation_fraction": 0.2 if stored.per_class >= _FEW else 0.5}
    if side < PHOTOGRAPH:
        group |= {"image_size": side, "augmentation": "pad_crop", "pad": side // 8}
    else:
        group |= {"image_size": side - side // 8, "augmentation": "resized_crop", "resize": side}
    if stored.mean:
        group |= {"mean": list(stored.mean), "std": list(stored.std)}
    return group


def packed_names() -> tuple[str, ...]:
    """Names of all data sets that are packed in ``$KDHPC_DATA``, damaged ones among them; none if it is unreadable."""
    try:
        return tuple(sorted(path.parent.name for path in data_root().glob(f"*/{MANIFEST}") if _fits(path.parent.name)))
    except OSError:
        return ()


def packed_group(name: str) -> dict[str, object] | None:
    """The group ``dataset`` for a packed data set; None: nothing is packed under that name.

    Raises:
        DataError: its manifest is damaged.
        StorageError: the file system refuses to read it.
    """
    if not _fits(name):
        return None
    path = packed_dir(name) / MANIFEST
    try:
        return dataset_group_of(name, _stored(parse_json(read_whole(path))))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as exc:
        raise DataError(f"{path} is damaged: see `kdhpc data check {name}`") from exc


def readable_groups() -> dict[str, dict[str, object]]:
    """The groups of all packed data sets whose manifests can be read, by name."""
    found: dict[str, dict[str, object]] = {}
    for name in packed_names():
        try:
            group = packed_group(name)
        except (DataError, StorageError):
            continue
        if group is not None:
            found[name] = group
    return found


def _stored(manifest: object) -> StoredAs:
    if not isinstance(manifest, dict):
        raise TypeError("no mapping")
    height, width, _ = map(int, manifest["image_shape"])
    mean, std = (tuple(map(float, manifest.get(key, ()))) for key in ("mean", "std"))
    return StoredAs(
        height=height,
        width=width,
        per_class=int(manifest["train"]) / max(1, len(manifest["classes"])),
        mean=mean,
        std=std,
    )


def _fits(name: str) -> bool:
    try:
        return check_dataset_name(name) == name
    except ConfigError:
        return False
