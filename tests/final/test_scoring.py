"""Scores against independent NumPy in float64, and against torchmetrics where it has them."""

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error
from torchmetrics.functional.regression import kl_divergence

from kdhpc.final.scoring import add_up, auroc, confidences, score
from kdhpc.training.evaluation import Prediction, mean_ensemble


def log_softmax(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def reference(logits, labels):
    """NLL, Brier and ECE of one network, image by image."""
    log_p = log_softmax(np.asarray(logits, dtype=np.float64))
    p = np.exp(log_p)
    nll = -np.mean([row[label] for row, label in zip(log_p, labels, strict=True)])
    brier = np.mean([((row - np.eye(len(row))[label]) ** 2).sum() for row, label in zip(p, labels, strict=True)])
    bins = {}
    for row, label in zip(p, labels, strict=True):
        number = min(max(math.ceil(row.max() * 15), 1), 15)
        bins.setdefault(number, []).append((row.argmax() == label, row.max()))
    ece = sum(abs(sum(float(right) - sure for right, sure in inside)) for inside in bins.values()) / len(labels)
    return nll, brier, ece


def pair_reference(logits):
    """Disagreement and mutual KL over all ordered pairs."""
    log_p = log_softmax(np.asarray(logits, dtype=np.float64))
    pairs = [(s, t) for s in range(len(logits)) for t in range(len(logits)) if s != t]
    differ = np.mean([(log_p[s].argmax(1) != log_p[t].argmax(1)).mean() for s, t in pairs])
    kl = np.mean([(np.exp(log_p[s]) * (log_p[s] - log_p[t])).sum(1).mean() for s, t in pairs])
    return differ, kl


def auroc_reference(first, second):
    """The chance that one of the first is larger, equal ones counted half."""
    first, second = np.asarray(first)[:, None], np.asarray(second)[None]
    return float(((first > second) + 0.5 * (first == second)).mean())


def batches(logits, labels, *sizes):
    logits, labels, start = torch.as_tensor(logits), torch.as_tensor(labels), 0
    for size in sizes or (len(labels),):
        yield mean_ensemble(logits[:, start : start + size]), labels[start : start + size]
        start += size


def expect(logits, labels, *sizes):
    found = score(batches(logits, labels, *sizes))
    ensemble = np.asarray(torch.as_tensor(logits).mean(dim=0), dtype=np.float64)
    for quality, own in zip((*found.nodes, found.ensemble), (*np.asarray(logits), ensemble), strict=True):
        assert (quality.nll, quality.brier, quality.ece) == pytest.approx(reference(own, labels), rel=1e-9, abs=1e-12)
    if len(logits) > 1:
        expected = pair_reference(logits)
        assert (found.disagreement, found.mutual_kl) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    else:
        assert found.disagreement is found.mutual_kl is None
    return found


def drawn(num_nodes, num_images, num_classes, scale=2.0, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, scale, (num_nodes, num_images, num_classes)).astype(np.float32)
    return logits, rng.integers(num_classes, size=num_images)


@pytest.mark.parametrize(
    ("shape", "sizes"), [((3, 200, 7), (64, 64, 64, 8)), ((2, 50, 2), ()), ((1, 40, 5), (33, 7)), ((2, 1, 3), ())]
)
def test_scores_agree_with_numpy(shape, sizes):
    expect(*drawn(*shape), *sizes)


def test_scores_of_a_single_predicted_class():
    logits, labels = drawn(2, 60, 4)
    logits[:, :, 1] += 20
    found = expect(logits, labels)
    assert found.disagreement == 0


def test_scores_of_probabilities_of_exactly_0_and_1():
    """Certain and right, certain and wrong; float32's own largest numbers among them."""
    logits = np.zeros((2, 4, 3), dtype=np.float32)
    logits[0, [0, 1, 2, 3], [0, 1, 2, 0]] = 1e4
    logits[1, [0, 1, 2, 3], [1, 1, 2, 2]] = 1e38
    found = expect(logits, np.array([0, 1, 2, 2]))
    assert (found.nodes[0].ece, found.nodes[0].brier, found.nodes[0].nll) == pytest.approx((0.25, 0.5, 2500.0))
    assert found.disagreement == 0.5


def test_scores_of_equal_nodes_do_not_differ():
    logits, labels = drawn(1, 30, 6)
    found = expect(np.repeat(logits, 3, axis=0), labels)
    assert (found.disagreement, found.mutual_kl) == (0, 0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_scores_of_logits_that_are_not_finite_are_none(value):
    logits, labels = drawn(2, 10, 3)
    logits[1, 4, 2] = value
    assert score(batches(logits, labels, 5, 5)) is None


def test_scores_agree_with_torchmetrics():
    logits, labels = drawn(2, 300, 6)
    found = score(batches(logits, labels))
    log_p = torch.as_tensor(logits).double().log_softmax(dim=2)
    for node in range(2):
        ece = multiclass_calibration_error(log_p[node].exp(), torch.as_tensor(labels), num_classes=6, n_bins=15)
        assert found.nodes[node].ece == pytest.approx(float(ece), abs=1e-6)  # torchmetrics: float32
    kl = [float(kl_divergence(log_p[s], log_p[1 - s], log_prob=True)) for s in range(2)]
    assert found.mutual_kl == pytest.approx(np.mean(kl), rel=1e-9)


def test_accuracies_count_right_predictions():
    logits, labels = drawn(2, 50, 3)
    expected = [100 * np.mean(own.argmax(1) == labels) for own in (*logits, logits.mean(axis=0))]
    assert add_up(batches(logits, labels, 20, 30)).accuracies == pytest.approx(expected)


def test_confidences_are_the_largest_probabilities():
    logits, _ = drawn(2, 9, 4)
    found = confidences(Prediction(torch.as_tensor(logits), torch.as_tensor(logits).mean(dim=0)))
    assert found.dtype is torch.float64
    np.testing.assert_allclose(found[:2], np.exp(log_softmax(logits.astype(np.float64))).max(axis=2), rtol=1e-12)


def test_auroc_agrees_with_counting_pairs():
    rng = np.random.default_rng(1)
    first, second = rng.beta(5, 2, 700).round(2), rng.beta(3, 2, 900).round(2)  # Many are equal.
    expected = auroc_reference(first, second)
    assert auroc(torch.as_tensor(first), torch.as_tensor(second)) == pytest.approx(expected, abs=1e-6)


def test_auroc_edge_cases():
    same = torch.rand(500, dtype=torch.float64)
    assert auroc(same, same) == pytest.approx(0.5, abs=1e-6)
    certain, unsure = torch.ones(1, dtype=torch.float64), torch.full((3,), 0.5, dtype=torch.float64)
    assert (auroc(certain, unsure), auroc(unsure, certain), auroc(certain, certain)) == (1, 0, 0.5)
    # Apart by less than float32 tells.
    assert auroc(torch.tensor([1 - 1e-12], dtype=torch.float64), torch.tensor([1 - 2e-12], dtype=torch.float64)) == 1
