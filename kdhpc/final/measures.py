"""What results are compared by: accuracies and scores, by the names that commands take. Free of torch."""

import statistics
from collections.abc import Iterable, Sequence

from kdhpc.errors import UsageError, nearest
from kdhpc.final.result import FinalResult
from kdhpc.final.scores import Detection, Quality, Scores

ACCURACIES = ("ensemble", "node")
"""Top-1 in percent: of the ensemble, and the mean over the nodes."""
_OF_ALL = ("nll", "brier", "ece")
SCORES = (*_OF_ALL, "disagreement", "mutual_kl", *(f"node_{name}" for name in _OF_ALL))
"""Of the ensemble; of the pairs of nodes; and the mean over the nodes. What they are: `kdhpc.final.scores`."""
_DETECTIONS = ("auroc", "node_auroc")
"""Against a second data set, whose name follows after a colon."""
NAMES = (*ACCURACIES, *SCORES, *_DETECTIONS)
"""All names, those of AUROC without a data set."""


def parse_measures(text: str) -> tuple[str, ...]:
    """Names of measures from a list with commas.

    Raises:
        UsageError: there is none, one is unknown, or one is given twice.
    """
    names = tuple(name.strip() for name in text.split(","))
    if not any(names):
        raise UsageError(f"no measure is named: give some of {', '.join(NAMES)}")
    for name in names:
        known, colon, dataset = name.partition(":")
        if known not in NAMES or (colon and (known not in _DETECTIONS or not dataset)):
            raise UsageError(f"unknown measure {name!r}: {nearest(name, NAMES)}")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"the measure {twice} is given twice: give each once")
    return names


def settle(names: Iterable[str], results: Iterable[FinalResult]) -> tuple[str, ...]:
    """The same names, AUROCs with the data set that they are against.

    Raises:
        UsageError: an AUROC names no data set, and there are several; or one that no result has.
    """
    datasets = sorted({found.dataset for result in results for found in _detections(result)})

    def settled(name: str) -> str:
        kind, _, dataset = name.partition(":")
        if dataset and dataset not in datasets:
            known = f": {nearest(name, [f'{kind}:{one}' for one in datasets])}" if datasets else ""
            raise UsageError(f"no training was scored against {dataset!r}{known}; `kdhpc evaluate DIR --ood NAME` does")
        if name not in _DETECTIONS or not datasets:
            return name
        if len(datasets) > 1:
            choices = ", ".join(f"{name}:{dataset}" for dataset in datasets)
            raise UsageError(f"{name} is there against several data sets: give one of {choices}")
        return f"{name}:{datasets[0]}"

    return tuple(dict.fromkeys(map(settled, names)))


def measures_of(results: Iterable[FinalResult]) -> tuple[str, ...]:
    """All scores that some of the results have or could have: `SCORES`, and the AUROCs that there are."""
    datasets = sorted({found.dataset for result in results for found in _detections(result)})
    return (*SCORES, *(f"{name}:{dataset}" for dataset in datasets for name in _DETECTIONS))


def value_of(name: str, result: FinalResult) -> float | None:
    """A measure of one run; None: it diverged, was not scored so, or is a single node and has no pairs."""
    if result.node_accuracies is None:
        return None
    if name in ACCURACIES:
        return result.ensemble_accuracy if name == "ensemble" else statistics.fmean(result.node_accuracies)
    return None if result.scores is None else _score(name, result.scores)


def second_checksums(name: str, results: Sequence[FinalResult]) -> set[str]:
    """The contents that the second data set of an AUROC had; of other measures none."""
    dataset = name.partition(":")[2]
    return {found.checksum for result in results for found in _detections(result) if found.dataset == dataset}


def decimals(name: str) -> int:
    """How many of them say something."""
    return 2 if name in ACCURACIES else 4


def title(name: str) -> str:
    """What it is, for an axis."""
    kind, _, dataset = name.partition(":")
    if kind in ("disagreement", "mutual_kl"):
        return {"disagreement": "disagreement of nodes", "mutual_kl": "mutual KL of nodes"}[kind]
    whose = "node" if kind.startswith("node") else "ensemble"
    what = {"nll": "NLL", "brier": "Brier score", "ece": "calibration error", "auroc": "AUROC"}
    against = f" against {dataset}" if dataset else ""
    return f"{whose} {what.get(kind.removeprefix('node_'), 'accuracy')}{against}"


def unit(name: str) -> str:
    """Its unit in brackets, for an axis; empty: it has none."""
    if name in ACCURACIES:
        return " (%)"
    return " (nats)" if name in ("nll", "node_nll", "mutual_kl") else ""


def _score(name: str, scores: Scores) -> float | None:
    if name in ("disagreement", "mutual_kl"):
        return scores.disagreement if name == "disagreement" else scores.mutual_kl
    kind, _, dataset = name.partition(":")
    is_of_nodes, kind = kind.startswith("node_"), kind.removeprefix("node_")
    if kind == "auroc":
        found = next((found for found in scores.ood if found.dataset == dataset), None)
        if found is None:
            return None
        return statistics.fmean(found.nodes) if is_of_nodes else found.ensemble
    return statistics.fmean(_of(kind, node) for node in scores.nodes) if is_of_nodes else _of(kind, scores.ensemble)


def _of(kind: str, quality: Quality) -> float:
    return {"nll": quality.nll, "brier": quality.brier, "ece": quality.ece}[kind]


def _detections(result: FinalResult) -> tuple[Detection, ...]:
    return () if result.scores is None else result.scores.ood
