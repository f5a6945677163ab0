import numpy as np
import pytest
import torch

from kdhpc.losses.student import student_loss
from tests.losses import paper_reference


def random_logits(seed):
    rng = np.random.default_rng(seed)
    student, extra, teacher = rng.normal(size=(3, 6, 5)) * 2
    return student, extra, teacher, rng.integers(5, size=6)


def reference(student, extra, teacher, labels, temperature):
    loss = 0.0
    for n, label in enumerate(labels):
        loss -= np.log(paper_reference.softmax(student[n])[label])
        loss -= np.log(paper_reference.softmax(extra[n])[label])
        soft = [paper_reference.softmax(logits[n] / temperature) for logits in (teacher, student)]
        loss += temperature**2 * paper_reference.kl(*soft)
    return loss / len(labels)


def loss_of(student, extra, teacher, labels, temperature):
    return student_loss(student, (extra,), teacher, torch.tensor(labels), temperature)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 4.0])
@pytest.mark.parametrize("seed", range(3))
def test_student_loss_random_logits_match_the_reference(seed, temperature):
    *logits, labels = random_logits(seed)
    loss = loss_of(*map(torch.tensor, logits), labels, temperature)
    assert loss.dtype == torch.float64
    np.testing.assert_allclose(loss.item(), reference(*logits, labels, temperature), rtol=1e-10)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("which", [0, 1])
def test_student_loss_gradients_match_finite_differences(which, temperature):
    *logits, labels = random_logits(7)
    live = [torch.tensor(values, requires_grad=True) for values in logits]
    loss_of(*live, labels, temperature).backward()
    slopes = np.zeros_like(logits[which])
    for index in np.ndindex(slopes.shape):
        ends = []
        for step in (1e-6, -1e-6):
            moved = [values.copy() for values in logits]
            moved[which][index] += step
            ends.append(reference(*moved, labels, temperature))
        slopes[index] = (ends[0] - ends[1]) / 2e-6
    np.testing.assert_allclose(live[which].grad.numpy(), slopes, rtol=1e-5, atol=1e-9)


def test_student_loss_teacher_gets_no_gradient():
    *logits, labels = random_logits(3)
    live = [torch.tensor(values, requires_grad=True) for values in logits]
    loss_of(*live, labels, 2.0).backward()
    assert live[2].grad is None


def test_student_loss_of_a_student_that_answers_like_its_teacher_is_the_label_loss():
    student, _, _, labels = random_logits(5)
    logits = torch.tensor(student)
    expected = -np.mean(
        [np.log(paper_reference.softmax(row)[label]) for row, label in zip(student, labels, strict=True)]
    )
    np.testing.assert_allclose(student_loss(logits, (), logits, torch.tensor(labels), 3.0).item(), expected, rtol=1e-12)


def test_student_loss_half_precision_is_computed_in_float32():
    student, extra, teacher, labels = random_logits(1)
    halves = [torch.tensor(values).bfloat16() for values in (student, extra, teacher)]
    loss = loss_of(*halves, labels, 2.0)
    assert loss.dtype == torch.float32
    expected = reference(*(half.double().numpy() for half in halves), labels, 2.0)
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-5)


def test_student_loss_teacher_that_is_certain_stays_finite():
    teacher = torch.tensor([[1e4, 0.0, -1e4]])
    assert student_loss(torch.zeros(1, 3), (), teacher, torch.tensor([0]), 1.0).item() == pytest.approx(2 * np.log(3))
