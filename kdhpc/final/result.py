"""The result of one final training, as a file.

A training diverges when a loss, a logit or a weight becomes infinite or NaN. Then:

- It ends with that epoch. Its result has the epoch and the reason, but no accuracies; no weights are kept. The exit
  code of ``kdhpc train`` is 1, also when the same command is given again. If one node diverges, the whole training
  counts as diverged.
- Means and figures leave it out. ``kdhpc results`` gives the number of seeds that diverged, and a report that finds
  the run below a folder names it in a warning.
- A command that names the run itself (a report, ``--teacher``, ``objective.pretrained``) refuses it. Every file of
  weights with an infinite or NaN value is refused as well, whatever its result says.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import dacite

from kdhpc.config.compatibility import newer
from kdhpc.config.names import is_folder_name
from kdhpc.data.names import shown
from kdhpc.errors import DataError, DivergedError
from kdhpc.files.json_text import parse_json, strict_json
from kdhpc.files.reading import read_whole
from kdhpc.files.writing import write_whole
from kdhpc.final.scores import Scores
from kdhpc.graph.serial import Provenance
from kdhpc.methods.registry import method_of


class NewerResultError(DataError):
    """A newer version of kdhpc has written the result; nothing is wrong with it."""


_FORMAT = "kdhpc-result"
_VERSION = 1
_NAMED_FIELDS = 5
"""At most so many unknown fields are named in a message."""


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
        """The trial as a graph's file describes it. What the file does not have stays empty."""
        dataset, network, study = (str(provenance.get(key, "")) for key in ("dataset", "network", "study"))
        trial = provenance.get("trial")
        return cls(dataset=dataset, network=network, study=study, trial=trial if isinstance(trial, int) else None)


@dataclass(frozen=True, kw_only=True)
class FinalResult:
    """The result of one final training. Accuracies are those of the last epoch, never of the best one."""

    name: str
    """Data set, network, graph and number of nodes."""
    dataset: str
    """Packed data set."""
    network: str
    """Network of every node; of different ones their names with ``+`` between them."""
    graph: str
    """Preset or file name of the graph; or the name of another method, such as ``one``."""
    graph_key: str
    """Key of the graph; of another method its name, and what tells its settings apart, such as ``one3``."""
    num_nodes: int
    """M, B of ONE, or 1 of a student and of other single networks."""
    seed: int
    """Seed of the initial weights and the order of the images."""
    epochs: int
    """Length of the schedule."""
    training_images: int
    """Images that the networks learnt from."""
    scored_on: str
    """``test``: the test images. ``validation``: held out of the training images, as in a search."""
    settings: str
    """Digest of all settings but the seed: results of equal settings can be averaged."""
    node_accuracies: tuple[float, ...] | None
    """Top-1 of each node on the test images, in percent; None: it diverged."""
    ensemble_accuracy: float | None
    """Top-1 of the ensemble on the test images, in percent; None: it diverged."""
    num_parameters: int
    """Weights of all networks together; what only their training needs does not count."""
    seconds: float | None
    """Training and evaluation, interruptions left out; None: the log of its epochs has gaps."""
    device: str
    """Name of the processor or GPU."""
    versions: dict[str, str]
    """What it was made with: the names are those of :func:`kdhpc.training.made_with.made_with`."""
    threads: int | None = None
    """CPU threads, on whose number the last bits depend; None: from before this was written down, as what follows."""
    precision: str | None = None
    """``float32``, ``tf32``, ``bf16`` or ``fp16``: what the networks ran in."""
    searched: SearchedWith = SearchedWith()
    """What the graph was searched with."""
    teacher: str = ""
    """Of a student: name and seed of the run that taught it, and the node, if a single one did."""
    teacher_accuracy: float | None = None
    """Top-1 of that ensemble or node, in percent, on what it was scored on itself."""
    networks: tuple[str, ...] = ()
    """Network of each node, where they differ; else empty, and not written."""
    weights: tuple[str, ...] = ()
    """Digest of each file of weights; none of a training that diverged, or from before this was written down."""
    diverged_epoch: int | None = None
    """At which epoch it diverged; None: it did not."""
    diverged: str = ""
    """Why it counts as diverged."""
    scores: Scores | None = None
    """What its probabilities are worth; None, and not written: it diverged, or is from before this was written down."""

    def __post_init__(self) -> None:
        accuracies = (*(self.node_accuracies or (None,)), self.ensemble_accuracy)
        if any((accuracy is None) != (self.diverged_epoch is not None) for accuracy in accuracies):
            raise ValueError(f"accuracies {accuracies} do not go with diverged_epoch {self.diverged_epoch}")
        if not all(accuracy is None or math.isfinite(accuracy) for accuracy in accuracies):
            raise ValueError(f"accuracies {accuracies} are not finite")
        scored = None if self.scores is None else len(self.scores.nodes)
        if scored is not None and self.node_accuracies is not None and scored != len(self.node_accuracies):
            raise ValueError(f"scores of {scored} nodes do not go with accuracies {self.node_accuracies}")

    @property
    def method(self) -> str:
        """Name of the method in `kdhpc.methods.registry.METHODS`.

        Raises:
            ConfigError: this kdhpc has no such method.
        """
        return method_of(self.graph_key)

    @property
    def divergence(self) -> str | None:
        """When and why it diverged, in words; None: it did not."""
        return None if self.diverged_epoch is None else f"diverged at epoch {self.diverged_epoch}: {self.diverged}"


def result_line(result: FinalResult) -> str:
    """A line for people: the accuracies of a training, or when and why it diverged."""
    what = f"{result.name} seed {result.seed}"
    if result.node_accuracies is None or result.ensemble_accuracy is None:
        return f"{what}: {result.divergence}"
    nodes = " ".join(f"{accuracy:.2f}" for accuracy in result.node_accuracies)
    return f"{what}: ensemble {result.ensemble_accuracy:.2f} %, nodes {nodes} % ({result.scored_on} images)"


def refuse_diverged(result: FinalResult) -> None:
    """Raise an error if a training has diverged, now or when it was trained earlier.

    Raises:
        DivergedError: it has.
    """
    if result.divergence is not None:
        raise DivergedError(f"{result_line(result)}; no weights are kept: train with other settings")


def write_result(result: FinalResult, path: Path) -> None:
    """Write it whole or not at all.

    Raises:
        StorageError: the file system refuses.
    """
    document = {"format": _FORMAT, "version": _VERSION, **dataclasses.asdict(result)}
    if not result.networks:  # As versions before there were different ones read it.
        del document["networks"]
    if result.scores is None:
        del document["scores"]
    write_whole(path, strict_json(document, indent=2), "\n")


def read_result(path: Path) -> FinalResult:
    """Read a result that this version or an earlier one has written.

    A field that an earlier version did not have gets its default. A field that this version does not have may change
    what the others mean, so that the result is refused.

    Raises:
        NewerResultError: a newer version wrote it.
        DataError: there is no such file, or it is damaged.
        StorageError: the file system refuses.
    """
    try:
        document = parse_json(read_whole(path))
        if not isinstance(document, dict):
            raise ValueError("it is no JSON object")
        found = (document.pop("format"), document.pop("version"))
        if found != (_FORMAT, _VERSION):
            kind = NewerResultError if found[0] == _FORMAT and _is_newer(found[1]) else DataError
            raise kind(f"{path} is {found[0]} version {found[1]}, this kdhpc reads {_FORMAT} version {_VERSION}")
        if unknown := _unknown_fields(document):
            raise NewerResultError(newer(str(path), unknown))
        result = dacite.from_dict(FinalResult, document, dacite.Config(strict=True, cast=[tuple]))
        if not is_folder_name(result.name):
            raise ValueError(f"the name {result.name[:80]!r} can be no folder's")
        return result
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, dacite.DaciteError) as exc:
        raise DataError(f"{path} is not a result of a final training: {exc}") from exc


def _is_newer(version: object) -> bool:
    return isinstance(version, int) and version > _VERSION


def _unknown_fields(document: dict[str, object]) -> list[str]:
    """The fields that this version does not know; those of ``searched`` as ``searched.<field>``, ``scores`` alike."""
    unknown = document.keys() - {field.name for field in dataclasses.fields(FinalResult)}
    for group, kind in (("searched", SearchedWith), ("scores", Scores)):
        inner = document.get(group)
        if isinstance(inner, dict):
            known = {field.name for field in dataclasses.fields(kind)}
            unknown |= {f"{group}.{name}" for name in inner.keys() - known}
    return [shown(name) for name in sorted(unknown)[:_NAMED_FIELDS]]
