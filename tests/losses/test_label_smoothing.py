"""Label smoothing: what it adds to each loss is what it adds to torch's own cross-entropy, in float64."""

import pytest
import torch
import torch.nn.functional as F

from kdhpc.graph.spec import Gate
from kdhpc.losses.frskd import frskd_loss
from kdhpc.losses.objective import node_losses
from kdhpc.losses.one import one_loss
from kdhpc.losses.sla import sla_loss
from kdhpc.losses.student import student_loss
from tests.losses.test_objective import ALL_TERMS, RAMP, losses, random_case

SMOOTHING = 0.1
WEIGHTS = {Gate.THROUGH: 1.0, Gate.CORRECT: 1.0, Gate.LINEAR: RAMP, Gate.CUTOFF: 0.0}


def added(logits, labels):
    """To the cross-entropy, for each sample."""
    smooth, plain = (F.cross_entropy(logits, labels, label_smoothing=s, reduction="none") for s in (SMOOTHING, 0))
    return smooth - plain


def assert_same_gradients(tensors, *values):
    ours, theirs = (torch.autograd.grad(value.sum(), tensors) for value in values)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("num_extra", [0, 2])
def test_node_losses_smoothing_is_torchs_in_the_label_losses_alone(seed, num_extra):
    case = random_case(seed, num_nodes=3, num_extra=num_extra)
    classifiers = [logits.requires_grad_() for logits in (case.logits, *case.extra)]
    smooth, plain = (losses(case, label_smoothing=smoothing) for smoothing in (SMOOTHING, 0.0))
    weights = torch.tensor([WEIGHTS[gate] for gate in case.graph.label_gates], dtype=torch.float64)
    labels = case.labels.repeat(3)
    expected = sum(weights * added(logits.flatten(0, 1), labels).view(3, -1).mean(dim=1) for logits in classifiers)
    torch.testing.assert_close(smooth - plain, expected, rtol=1e-9, atol=1e-12)
    assert_same_gradients(classifiers, smooth - plain, expected)
    assert torch.equal(plain, losses(case))


def test_node_losses_smoothed_are_one_program_for_every_graph(monkeypatch):
    found = []

    def compare(*inputs, **options):
        compiled = torch.compile(node_losses, backend="eager", fullgraph=True, dynamic=False)
        found.append(compiled(*inputs, **options))
        return node_losses(*inputs, **options)

    monkeypatch.setattr("tests.losses.test_objective.node_losses", compare)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for seed in range(3):
            expected = losses(random_case(seed, num_nodes=2), terms=ALL_TERMS, label_smoothing=SMOOTHING)
            torch.testing.assert_close(found[-1], expected)


def test_one_and_student_losses_smooth_every_classifier():
    generator = torch.Generator().manual_seed(0)
    branches, extra, ensemble = (
        torch.randn(*shape, 5, dtype=torch.float64, generator=generator, requires_grad=True)
        for shape in ((3, 6), (3, 6), (6,))
    )
    labels = torch.arange(6) % 5
    of_one = (branches, ensemble, (extra,), labels, torch.tensor(0.3, dtype=torch.float64))
    found = one_loss(*of_one, SMOOTHING) - one_loss(*of_one)
    expected = added(ensemble, labels).mean() + sum(
        added(logits[branch], labels).mean() for logits in (branches, extra) for branch in range(3)
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert_same_gradients([branches, extra, ensemble], found, expected)

    student, extra, teacher = branches[0], branches[1], branches[2]
    of_student = (student, (extra,), teacher, labels, 2.0)
    found = student_loss(*of_student, label_smoothing=SMOOTHING) - student_loss(*of_student)
    expected = added(student, labels).mean() + added(extra, labels).mean()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_self_taught_losses_smooth_every_classifier():
    generator = torch.Generator().manual_seed(0)
    joint, single, teacher = (
        torch.randn(*shape, dtype=torch.float64, generator=generator, requires_grad=True)
        for shape in ((24, 20), (6, 5), (6, 5))
    )
    labels = torch.arange(6) % 5
    joint_labels = (4 * labels.unsqueeze(1) + torch.arange(4)).flatten()
    found = sla_loss(joint, single, labels, 1.0, 1.0, SMOOTHING) - sla_loss(joint, single, labels, 1.0, 1.0)
    expected = added(joint, joint_labels).mean() + added(single, labels).mean()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert_same_gradients([joint, single], found, expected)
    of_frskd = (single, teacher, (), (), labels, 2.0, 100.0)
    found = frskd_loss(*of_frskd, SMOOTHING) - frskd_loss(*of_frskd)
    expected = added(single, labels).mean() + added(teacher, labels).mean()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert_same_gradients([single, teacher], found, expected)
