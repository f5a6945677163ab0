"""How a training differs from an earlier one that it builds on: the search of its graph, or its teacher's training."""

from collections.abc import Sequence

from kdhpc.config.document import flatten, to_document
from kdhpc.config.schema import TrainConfig
from kdhpc.graph.serial import Provenance

IMAGES = ("dataset", "dataset_checksum")
"""Keys that tell images apart."""


def facts_of(config: TrainConfig, dataset_checksum: str) -> Provenance:
    """The facts about a training, under the same keys as in the provenance of a graph."""
    return {
        "dataset": config.dataset.name,
        "dataset_checksum": dataset_checksum,
        "network": config.network.name,
        **flatten("config", to_document(config)),
    }


def differences(there: Provenance, here: Provenance, keys: Sequence[str]) -> tuple[str, str] | None:
    """How two trainings differ. A data set with the same images counts as the same, whatever its name.

    Args:
        there: Facts of the earlier training. Keys that it lacks do not count as different.
        here: Facts of this training.
        keys: The keys to compare.

    Returns:
        The values that differ, in words: first those of the earlier training, then those of this one. None: nothing
        differs.
    """
    different = [key for key in keys if there.get(key, here[key]) != here[key]]
    images = [key for key in IMAGES if key in different]
    if images and there.get("dataset_checksum") == here["dataset_checksum"]:
        images.clear()
    told = images[:1] + [key for key in different if key not in IMAGES]
    if not told:
        return None
    then, now = (
        ", ".join(f"{key.removeprefix('config.')} {_short(source[key])}" for key in told) for source in (there, here)
    )
    return then, now


def _short(value: str | int | float) -> str:
    return str(value)[:16]
