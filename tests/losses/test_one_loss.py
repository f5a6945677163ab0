import math

import numpy as np
import pytest
import torch

from kdhpc.losses.one import one_loss, ramp_up
from tests.losses import paper_reference


def random_logits(seed):
    rng = np.random.default_rng(seed)
    branches, ensemble = rng.normal(size=(3, 4, 5)) * 2, rng.normal(size=(4, 5)) * 2
    return branches, ensemble, rng.normal(size=(3, 4, 5)), rng.integers(5, size=4)


def reference(branches, ensemble, extra, labels, ramp):
    num_samples = len(labels)
    loss = 0.0
    for n, label in enumerate(labels):
        loss -= np.log(paper_reference.softmax(ensemble[n])[label])
        teacher = paper_reference.softmax(ensemble[n] / 3)
        for branch in range(3):
            loss -= np.log(paper_reference.softmax(branches[branch, n])[label])
            loss -= np.log(paper_reference.softmax(extra[branch, n])[label])
            loss += ramp * 9 * paper_reference.kl(teacher, paper_reference.softmax(branches[branch, n] / 3))
    return loss / num_samples


@pytest.mark.parametrize("seed", range(3))
def test_one_loss_random_logits_match_the_reference(seed):
    branches, ensemble, extra, labels = random_logits(seed)
    tensors = [torch.tensor(values) for values in (branches, ensemble, extra, labels)]
    loss = one_loss(tensors[0], tensors[1], (tensors[2],), tensors[3], torch.tensor(0.4, dtype=torch.float64))
    np.testing.assert_allclose(loss.item(), reference(branches, ensemble, extra, labels, 0.4), rtol=1e-10)


def test_one_loss_gradients_match_finite_differences_with_the_teacher_held():
    branches, ensemble, extra, labels = random_logits(7)
    ramp = torch.tensor(0.4, dtype=torch.float64)
    live_branches, live_ensemble = (
        torch.tensor(branches, requires_grad=True),
        torch.tensor(ensemble, requires_grad=True),
    )
    one_loss(live_branches, live_ensemble, (torch.tensor(extra),), torch.tensor(labels), ramp).backward()
    up, down = branches.copy(), branches.copy()
    up[1, 2, 3] += 1e-6
    down[1, 2, 3] -= 1e-6
    slope = (reference(up, ensemble, extra, labels, 0.4) - reference(down, ensemble, extra, labels, 0.4)) / 2e-6
    np.testing.assert_allclose(live_branches.grad[1, 2, 3].item(), slope, rtol=1e-6)
    # The ensemble learns from the labels alone: softmax minus one-hot.
    expected = [paper_reference.softmax(row) - np.eye(5)[label] for row, label in zip(ensemble, labels, strict=True)]
    np.testing.assert_allclose(live_ensemble.grad.numpy(), np.array(expected) / 4, rtol=1e-10, atol=1e-12)


def test_ramp_up_over_the_first_eighty_epochs_rises_to_one():
    assert ramp_up(1) == pytest.approx(math.exp(-5))
    assert ramp_up(41) == pytest.approx(math.exp(-1.25))
    assert ramp_up(81) == 1
    assert ramp_up(300) == 1
