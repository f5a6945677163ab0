import pytest
import torch

from kdhpc.training.evaluation import mean_ensemble, top1_accuracies
from tests.training.memory_source import MemoryBatch


class Source:
    """Five images in batches of 2, 2 and 1; the image's first pixel is its number."""

    labels = torch.tensor([0, 1, 2, 0, 1])

    def __iter__(self):
        images = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 3, 2, 2)
        for part, labels in zip(images.split(2), self.labels.split(2), strict=True):
            yield MemoryBatch(part, labels)


def logits(classes, strength):
    return strength * torch.nn.functional.one_hot(torch.tensor(classes), 3).float()


NODES = torch.stack([logits([0, 1, 2, 1, 2], 1.0), logits([0, 2, 0, 0, 2], 3.0)])


def test_top1_accuracies_known_answers_are_counted():
    def predict(images):
        return mean_ensemble(NODES[:, images[:, 0, 0, 0].long()])

    accuracies = top1_accuracies(predict, Source())
    assert accuracies.nodes == (60.0, 40.0)
    assert accuracies.ensemble == 40.0  # The second node is louder.


def test_top1_accuracies_smaller_last_batch_arrives_filled_up():
    shapes = []

    def predict(images):
        shapes.append(tuple(images.shape))
        return mean_ensemble(NODES[:, images[:, 0, 0, 0].long()])

    top1_accuracies(predict, Source())
    assert shapes == [(2, 3, 2, 2)] * 3


def test_mean_ensemble_averages_logits_in_float32():
    node_logits = torch.tensor([[[1.0, 2.0]], [[3.0, -2.0]]], dtype=torch.bfloat16)
    prediction = mean_ensemble(node_logits)
    assert prediction.ensemble_logits_NC.tolist() == [[2.0, 0.0]]
    assert prediction.ensemble_logits_NC.dtype == torch.float32


def test_mean_ensemble_is_not_the_mean_of_probabilities():
    node_logits = torch.tensor([[[9.0, 0.0, 0.0]], [[0.0, 5.0, 0.0]], [[0.0, 5.0, 0.0]]])
    assert mean_ensemble(node_logits).ensemble_logits_NC.argmax() == 1
    node_logits[0, 0, 0] = 11.0
    assert mean_ensemble(node_logits).ensemble_logits_NC.argmax() == 0
    assert pytest.approx(node_logits.softmax(dim=2).mean(dim=0)[0, 1].item(), abs=0.01) == 0.66


def test_nll_is_that_of_the_mean_logits_whatever_the_batches():
    def predict(images):
        return mean_ensemble(NODES[:, images[:, 0, 0, 0].long()])

    expected = torch.nn.functional.cross_entropy(NODES.double().mean(dim=0), Source.labels)
    assert top1_accuracies(predict, Source()).ensemble_nll == pytest.approx(float(expected), rel=1e-12)
