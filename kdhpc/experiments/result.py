"""The result of one final training, as a file."""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dacite

from kdhpc.errors import DataError
from kdhpc.graph.serial import Provenance

_FORMAT = "kdhpc-result"
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class SearchedWith:
    """The trial that a graph comes from; empty where its file does not say, as for a preset."""

    dataset: str = ""
    """Packed data set."""
    network: str = ""
    """Network of every node."""
    study: str = ""
    """Name of the study."""
    trial: int | None = None
    """Number in the study."""

    @classmethod
    def of(cls, provenance: Provenance) -> "SearchedWith":
        """As far as a graph's file says."""
        dataset, network, study = (str(provenance.get(key, "")) for key in ("dataset", "network", "study"))
        trial = provenance.get("trial")
        return cls(dataset=dataset, network=network, study=study, trial=trial if isinstance(trial, int) else None)


@dataclass(frozen=True, kw_only=True)
class FinalResult:
    """What one final training came to: the last epoch's accuracies, never the best epoch's."""

    name: str
    """Data set, network, graph and number of nodes."""
    dataset: str
    """Packed data set."""
    network: str
    """Network of every node."""
    graph: str
    """Preset or file name of the graph; ``one``, ``student``."""
    graph_key: str
    """Key of the graph; ``one`` and B for the branched baseline; ``student``."""
    num_nodes: int
    """M, B of ONE, or 1 of a student."""
    seed: int
    """Of weights and data order."""
    epochs: int
    """Length of the schedule."""
    training_images: int
    """Images that the networks learnt from."""
    scored_on: str
    """``test``: the test images. ``validation``: held out of the training images, as in a search."""
    settings: str
    """Digest of all settings but the seed: results of equal settings can be averaged."""
    node_accuracies: tuple[float, ...]
    """Top-1 of each node on the test images, in percent."""
    ensemble_accuracy: float
    """Top-1 of the ensemble on the test images, in percent."""
    num_parameters: int
    """Weights of all networks together."""
    seconds: float
    """Training and evaluation, interruptions left out."""
    device: str
    """Name of the processor or GPU."""
    versions: dict[str, str]
    """Of kdhpc and torch."""
    threads: int | None = None
    """CPU threads, on whose number the last bits depend; none: from before this was written down, as what follows."""
    precision: str | None = None
    """``float32``, ``bf16`` or ``fp16``: what the networks ran in."""
    searched: SearchedWith = SearchedWith()
    """What the graph was searched with."""
    teacher: str = ""
    """Of a student: name and seed of the run that taught it."""
    teacher_accuracy: float | None = None
    """Top-1 of that run's ensemble, in percent, on what it was scored on itself."""


def write_result(result: FinalResult, path: Path) -> None:
    """Write it whole or not at all."""
    partial = path.with_suffix(".partial")
    document = {"format": _FORMAT, "version": _VERSION, **dataclasses.asdict(result)}
    partial.write_text(json.dumps(document, indent=2) + "\n")
    partial.replace(path)


def read_result(path: Path) -> FinalResult:
    """The result in a file.

    Raises:
        DataError: it cannot be read, or is none of this version.
    """
    try:
        document = json.loads(path.read_text())
        found = (document.pop("format"), document.pop("version"))
        if found != (_FORMAT, _VERSION):
            raise DataError(f"{path} is {found[0]} version {found[1]}, this kdhpc reads {_FORMAT} version {_VERSION}")
        return dacite.from_dict(FinalResult, document, dacite.Config(strict=True, cast=[tuple]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, dacite.DaciteError) as exc:
        raise DataError(f"{path} is not a result of a final training: {exc}") from exc


def read_results(folder: Path) -> Iterator[FinalResult]:
    """Every result below a folder, by path."""
    for path in sorted(folder.rglob("result.json")):
        yield read_result(path)
