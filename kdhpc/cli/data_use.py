"""How to train on a packed data set: the override that names it, and commands to begin with."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from kdhpc.config.paths import OWN_FOLDERS

if TYPE_CHECKING:
    from kdhpc.data.packed import Manifest

_TRUTHS = frozenset(("true", "false", "yes", "no", "on", "off", "null", "none", "inf", "nan"))
_BATCH_SIZE = 32
"""Of ``training=short``."""
_LEAST_MAP = 2
"""Smaller attention maps cannot be compared."""


def use_of(name: str) -> str:
    """The override that chooses a data set, for a shell: ``dataset=pets``. A name that reads as a number is quoted."""
    is_word = re.match(r"[A-Za-z]", name) is not None and name.lower() not in _TRUTHS
    return f"dataset={name}" if is_word else f"\"dataset='{name}'\""


def config_of(name: str) -> Path | None:
    """The config file of a data set's name, the user's or a shipped one; None: what is packed says how to train."""
    from kdhpc.config.folders import config_dirs

    paths = (folder / "dataset" / f"{name}.yaml" for folder in config_dirs())
    return next((path for path in paths if path.is_file()), None)


def next_commands(manifest: "Manifest") -> tuple[str, str]:
    """A short training and a short search on a data set."""
    from kdhpc.config.own_datasets import PHOTOGRAPH, StoredAs, dataset_group_of

    name, (height, width, _) = manifest.name, manifest.image_shape
    per_class = manifest.train / len(manifest.classes)
    group = dataset_group_of(name, StoredAs(height=height, width=width, per_class=per_class))
    image_size, kept = int(str(group["image_size"])), float(str(group["validation_fraction"]))
    network = "resnet8" if min(height, width) < PHOTOGRAPH else "resnet18"
    study = f"{name}-search" if name in OWN_FOLDERS else name
    chosen = [use_of(name), f"network={network}"]
    maps = [] if config_of(name) is not None else _maps(network, image_size)
    train = ["kdhpc train --graph dml --nodes 2", *chosen, "training=short", *_batch(manifest.train)]
    search = [f"kdhpc search --study {study} study=quickstart", *chosen, "dataset.subset=null", *maps]
    return " ".join(train), " ".join([*search, *_batch(int(manifest.train * (1 - kept)))])


def _maps(network: str, image_size: int) -> list[str]:
    """What a search needs where a network's usual crops do not fit into its attention map."""
    from kdhpc.config.networks import NETWORKS
    from kdhpc.config.schema import NetworkConfig
    from kdhpc.networks.names import crops_of

    crops = crops_of(NetworkConfig(name=network), image_size)
    if max(crops) < _LEAST_MAP:
        return ["'study.designs=[prob+,prob-]'"]
    return [] if crops == NETWORKS[network].crops else [f"'network.crops={list(crops)}'".replace(" ", "")]


def _batch(num_images: int) -> list[str]:
    """A batch size that so many images fill."""
    if num_images >= _BATCH_SIZE:
        return []
    return [f"training.batch_size={1 << max(0, num_images.bit_length() - 1)}"]
