import numpy as np
import pytest
import torch

from kdhpc.losses.sla import sla_loss
from tests.losses import paper_reference

NUM_IMAGES, NUM_CLASSES = 3, 5


def random_logits(seed):
    rng = np.random.default_rng(seed)
    joint = rng.normal(size=(4 * NUM_IMAGES, 4 * NUM_CLASSES)) * 2
    return joint, rng.normal(size=(NUM_IMAGES, NUM_CLASSES)) * 2, rng.integers(NUM_CLASSES, size=NUM_IMAGES)


def aggregated(joint):
    """For each image and class, the mean of what the row of each rotation says about that class and rotation."""
    return np.array(
        [
            [np.mean([joint[4 * image + turn, 4 * label + turn] for turn in range(4)]) for label in range(NUM_CLASSES)]
            for image in range(NUM_IMAGES)
        ]
    )


def reference(joint, single, labels, temperature, weight, held):
    loss = 0.0
    for image, label in enumerate(labels):
        for turn in range(4):
            row = paper_reference.softmax(joint[4 * image + turn])
            loss -= weight * np.log(row[4 * label + turn]) / (4 * NUM_IMAGES)
        loss -= np.log(paper_reference.softmax(single[image])[label]) / NUM_IMAGES
        soft = [paper_reference.softmax(logits[image] / temperature) for logits in (held, single)]
        loss += temperature**2 * paper_reference.kl(*soft) / NUM_IMAGES
    return loss


@pytest.mark.parametrize(("temperature", "weight"), [(1.0, 1.0), (3.0, 4.0)])
def test_sla_loss_and_its_gradients_match_the_reference_with_the_aggregate_held(temperature, weight):
    *logits, labels = random_logits(0)
    held = aggregated(logits[0])
    live = [torch.tensor(values, requires_grad=True) for values in logits]
    loss = sla_loss(*live, torch.tensor(labels), temperature, weight)
    np.testing.assert_allclose(loss.item(), reference(*logits, labels, temperature, weight, held), rtol=1e-10)
    loss.backward()
    for which, tensor in enumerate(live):
        slopes = np.zeros_like(logits[which])
        for index in np.ndindex(slopes.shape):
            ends = []
            for step in (1e-6, -1e-6):
                moved = [values.copy() for values in logits]
                moved[which][index] += step
                ends.append(reference(*moved, labels, temperature, weight, held))
            slopes[index] = (ends[0] - ends[1]) / 2e-6
        np.testing.assert_allclose(tensor.grad.numpy(), slopes, rtol=1e-5, atol=1e-8)


def test_sla_loss_half_precision_is_computed_in_float32():
    joint, single, labels = random_logits(1)
    halves = [torch.tensor(values).bfloat16() for values in (joint, single)]
    loss = sla_loss(*halves, torch.tensor(labels), 1.0, 1.0)
    joint, single = (half.double().numpy() for half in halves)
    assert loss.dtype == torch.float32
    np.testing.assert_allclose(loss.item(), reference(joint, single, labels, 1.0, 1.0, aggregated(joint)), rtol=1e-5)
