"""A greedy ensemble of networks of finished runs, chosen on held-out images and scored on the test images.

Runs with ``run.split=search`` leave a part of the training images out, which the search split holds out. These choose
the members: first the network that is the most accurate on them, then again and again the one whose addition makes the
ensemble the most accurate. Of equal ones, the lower NLL decides, then the order of the runs. Each network counts at
most once. The ensemble is the mean of its members' logits, as that of a graph is. The test images choose nothing.

Source: Caruana et al., "Ensemble selection from libraries of models", ICML 2004, there with replacement and the mean of
probabilities. Dimension suffixes: M networks, N images, C classes.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kdhpc.data.progress import Progress
from kdhpc.errors import ConfigError, NetworkError
from kdhpc.final.finished import FinishedRun, find_finished
from kdhpc.final.scores import Scores
from kdhpc.final.scoring import add_up
from kdhpc.report.predictions import ChosenNetworks, Predictions, choose_networks, read_predictions
from kdhpc.training.evaluation import Prediction, mean_ensemble

_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class Member:
    """A network of the greedy ensemble."""

    network: str
    """Its name: training, seed and node."""
    held_out_accuracy: float
    """Top-1 of the network alone on the held-out images, in percent."""
    ensemble_held_out_accuracy: float
    """The same of the ensemble of the members up to this one."""


@dataclass(frozen=True, kw_only=True)
class ScoredEnsemble:
    """An ensemble, and what it is worth."""

    name: str
    """What it is an ensemble of."""
    num_networks: int
    """How many."""
    held_out_accuracy: float
    """Top-1 on the held-out images, in percent: these have chosen it."""
    test_accuracy: float
    """Top-1 on the test images, in percent."""
    scores: Scores
    """On the test images."""


@dataclass(frozen=True, kw_only=True)
class GreedyEnsemble:
    """A greedy ensemble beside what else there is."""

    dataset: str
    """Packed data set."""
    held_out_images: int
    """Number of images that have chosen."""
    test_images: int
    """Number of images of the scores."""
    members: tuple[Member, ...]
    """In the order in which they were chosen."""
    greedy: ScoredEnsemble
    """The ensemble of the members."""
    best_run: ScoredEnsemble
    """The ensemble of the run that is the most accurate on the held-out images."""
    all_networks: ScoredEnsemble
    """The ensemble of all networks."""


def choose_greedily(folders: Sequence[Path], num_members: int, progress: Progress) -> GreedyEnsemble:
    """Choose networks of finished runs, and score their ensemble. Every network is run once on all images.

    Args:
        folders: Folders of runs, or folders above them.
        num_members: How many networks to choose.
        progress: Counts images times networks.

    Raises:
        ConfigError: there is no finished run, one has no held-out images, they are divided in different ways, or there
            are fewer networks than members.
        DataError: the images are not here.
        NetworkError: weights are damaged, or give logits that are not finite.
    """
    runs = find_finished(folders)
    _refuse_without_held_out(runs)
    chosen = choose_networks(runs)
    num_networks = sum(len(choice.nodes) for choice in chosen)
    if num_members > num_networks:
        there = "is 1 network" if num_networks == 1 else f"are {num_networks} different networks"
        raise ConfigError(f"--members {num_members} is not possible: there {there}")
    held_out = read_predictions(chosen, progress)
    on_test = tuple(dataclasses.replace(choice, run=_on_test_images(choice.run)) for choice in chosen)
    test = read_predictions(on_test, progress, compares=False)
    members = select(held_out.logits_MNC, held_out.labels_N, num_members)
    of_runs = _networks_of_runs(runs, chosen)
    best = max(range(len(runs)), key=lambda run: _accuracy(held_out, of_runs[run]))
    best_name = f"{runs[best].result.name}/seed{runs[best].result.seed}"

    def scored(name: str, networks: Sequence[int]) -> ScoredEnsemble:
        return _scored(name, networks, held_out, test)

    return GreedyEnsemble(
        dataset=runs[0].result.dataset,
        held_out_images=len(held_out.labels_N),
        test_images=len(test.labels_N),
        members=tuple(
            Member(
                network=held_out.networks[network],
                held_out_accuracy=_accuracy(held_out, [network]),
                ensemble_held_out_accuracy=_accuracy(held_out, members[: place + 1]),
            )
            for place, network in enumerate(members)
        ),
        greedy=scored("greedy ensemble", members),
        best_run=scored(best_name, of_runs[best]),
        all_networks=scored("all networks", range(num_networks)),
    )


def select(logits_MNC: Tensor, labels_N: Tensor, num_members: int) -> list[int]:
    """The networks of a greedy ensemble, in the order in which they are chosen.

    Args:
        logits_MNC: Of M networks, on the images that choose.
        labels_N: int64 class indices.
        num_members: How many, 1 to M.
    """
    members: list[int] = []
    sum_NC = torch.zeros(logits_MNC.shape[1:], dtype=torch.float64)
    for _ in range(num_members):
        rest = [network for network in range(len(logits_MNC)) if network not in members]
        ranks = {network: _rank((sum_NC + logits_MNC[network]) / (len(members) + 1), labels_N) for network in rest}
        members.append(min(rest, key=lambda network: ranks[network]))
        sum_NC += logits_MNC[members[-1]]
    return members


def _rank(logits_NC: Tensor, labels_N: Tensor) -> tuple[int, float]:
    """Smaller is better: wrong predictions, then NLL."""
    wrong = int((logits_NC.argmax(dim=1) != labels_N).sum())
    return wrong, float(torch.nn.functional.cross_entropy(logits_NC, labels_N))


def _refuse_without_held_out(runs: Sequence[FinishedRun]) -> None:
    without = [run for run in runs if run.config.run.split != "search"]
    if without:
        more = f" and {len(without) - 1} more" if len(without) > 1 else ""
        raise ConfigError(
            f"{without[0].origin}{more} learnt from all training images, so that none is left to choose by: name "
            "folders of runs with run.split=search alone"
        )


def _on_test_images(run: FinishedRun) -> FinishedRun:
    """The run as if it were scored on the test images, which it has never seen."""
    config = run.config
    return dataclasses.replace(
        run, config=dataclasses.replace(config, run=dataclasses.replace(config.run, split="official"))
    )


def _networks_of_runs(runs: Sequence[FinishedRun], chosen: Sequence[ChosenNetworks]) -> list[list[int]]:
    """Where the networks of each run are among the chosen ones, of which equal ones are left out."""
    digests = [choice.run.weights_digest(node) for choice in chosen for node in choice.nodes]
    return [[digests.index(run.weights_digest(node)) for node in range(len(run.weights))] for run in runs]


def _accuracy(predictions: Predictions, networks: Sequence[int]) -> float:
    right = 0
    for prediction, labels_N in _batches(predictions, networks):
        right += int((prediction.ensemble_logits_NC.argmax(dim=1) == labels_N).sum())
    return 100 * right / len(predictions.labels_N)


def _scored(name: str, networks: Sequence[int], held_out: Predictions, test: Predictions) -> ScoredEnsemble:
    sums = add_up(_batches(test, networks))
    scores = sums.scores()
    if scores is None:
        raise NetworkError(f"the ensemble of {name} gives logits that are not finite: leave its largest networks out")
    return ScoredEnsemble(
        name=name,
        num_networks=len(networks),
        held_out_accuracy=_accuracy(held_out, networks),
        test_accuracy=sums.accuracies[-1],
        scores=scores,
    )


def _batches(predictions: Predictions, networks: Sequence[int]) -> Iterator[tuple[Prediction, Tensor]]:
    """What some networks and their ensemble predict, a part of the images at a time."""
    for start in range(0, len(predictions.labels_N), _AT_ONCE):
        logits_mNC = predictions.logits_MNC[list(networks), start : start + _AT_ONCE]
        yield mean_ensemble(logits_mNC), predictions.labels_N[start : start + _AT_ONCE]
