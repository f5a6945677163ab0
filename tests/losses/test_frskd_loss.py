import numpy as np
import pytest
import torch

from kdhpc.losses.frskd import frskd_loss
from tests.losses import paper_reference

SHAPES = ((4, 3, 3), (4, 2, 2))


def random_values(seed):
    rng = np.random.default_rng(seed)
    logits = [rng.normal(size=(4, 5)) * 3 for _ in range(2)]
    maps = [[rng.uniform(0.1, 2, size=shape) for shape in SHAPES] for _ in range(2)]
    return [*logits, *maps[0], *maps[1]], rng.integers(5, size=4)


def direction(one):
    return one.reshape(-1) / np.sqrt((one**2).sum())


def reference(values, labels, alpha, beta, held):
    """``held``: what the distilling terms see of the self-teacher."""
    student, teacher, *maps = values
    loss = 0.0
    for n, label in enumerate(labels):
        loss -= np.log(paper_reference.softmax(student[n])[label]) / 4
        loss -= np.log(paper_reference.softmax(teacher[n])[label]) / 4
        soft = [paper_reference.softmax(logits[n] / 4) for logits in (held[1], student)]
        loss += alpha * 16 * paper_reference.kl(*soft) / 4
        for ours, theirs in zip(maps[:2], held[4:], strict=True):
            difference = direction(ours[n]) - direction(theirs[n])
            loss += beta * (difference**2).mean() / 4
    return loss


def loss_of(tensors, labels, alpha, beta):
    return frskd_loss(tensors[0], tensors[1], tuple(tensors[2:4]), tuple(tensors[4:]), labels, alpha, beta)


@pytest.mark.parametrize(("alpha", "beta"), [(2.0, 100.0), (0.5, 0.0)])
def test_frskd_loss_and_its_gradients_match_the_reference_with_the_self_teacher_held(alpha, beta):
    values, labels = random_values(0)
    live = [torch.tensor(one, requires_grad=True) for one in values]
    loss = loss_of(live, torch.tensor(labels), alpha, beta)
    np.testing.assert_allclose(loss.item(), reference(values, labels, alpha, beta, values), rtol=1e-10)
    loss.backward()
    for which, tensor in enumerate(live):
        slopes = np.zeros_like(values[which])
        for index in np.ndindex(slopes.shape):
            ends = []
            for step in (1e-6, -1e-6):
                moved = [one.copy() for one in values]
                moved[which][index] += step
                ends.append(reference(moved, labels, alpha, beta, values))
            slopes[index] = (ends[0] - ends[1]) / 2e-6
        found = np.zeros_like(slopes) if tensor.grad is None else tensor.grad.numpy()
        np.testing.assert_allclose(found, slopes, rtol=1e-5, atol=1e-7)


def test_frskd_loss_teaches_the_self_teacher_the_labels_alone():
    values, labels = random_values(1)
    live = [torch.tensor(one, requires_grad=True) for one in values]
    loss_of(live, torch.tensor(labels), 2.0, 100.0).backward()
    expected = [paper_reference.softmax(row) - np.eye(5)[label] for row, label in zip(values[1], labels, strict=True)]
    np.testing.assert_allclose(live[1].grad.numpy(), np.array(expected) / 4, rtol=1e-10, atol=1e-12)
    assert all(tensor.grad is None for tensor in live[4:])
