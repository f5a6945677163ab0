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


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_student_loss_with_a_weight_divides_it_between_labels_and_teacher(weight):
    *logits, labels = random_logits(2)
    student, extra, teacher = map(torch.tensor, logits)
    student.requires_grad_()
    loss = student_loss(student, (extra,), teacher, torch.tensor(labels), 4.0, weight)
    both = reference(*logits, labels, 4.0)
    hard = sum(
        -np.log(paper_reference.softmax(rows[n])[label]) / len(labels)
        for rows in logits[:2]
        for n, label in enumerate(labels)
    )
    np.testing.assert_allclose(loss.item(), (1 - weight) * hard + weight * (both - hard), rtol=1e-10)
    loss.backward()
    rows = zip(*(logits[index] for index in (0, 2)), labels, strict=True)
    expected = [
        (1 - weight) * (paper_reference.softmax(ours) - np.eye(len(ours))[label])
        + weight * 4 * (paper_reference.softmax(ours / 4) - paper_reference.softmax(theirs / 4))
        for ours, theirs, label in rows
    ]
    np.testing.assert_allclose(student.grad.numpy(), np.array(expected) / len(labels), rtol=1e-9, atol=1e-12)
