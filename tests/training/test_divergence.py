"""Trainings whose numbers cease to be any: they end at that epoch, say why, and are never scored."""

import dataclasses
import math

import pytest
import torch

from kdhpc.graph.spec import Gate
from kdhpc.methods.graph import GraphMethod
from kdhpc.methods.one import OneMethod
from kdhpc.methods.student import TeacherWeights
from kdhpc.training.evaluation import NotFinite, Prediction, mean_ensemble, top1_accuracies
from kdhpc.training.loop import TrainingLoop
from tests.methods.test_student import Taught, builder_of
from tests.training.memory_source import (
    NETWORK,
    NUM_CLASSES,
    MemoryBatch,
    MemoryEval,
    graph_of,
    setting_of,
    training_config,
)
from tests.training.test_loop import StopAfter, never, training_of

WILD = {"learning_rate": 1e12, "momentum": 0.0}
APART = graph_of([[Gate.CUTOFF] * 2] * 2, labels=[Gate.THROUGH] * 2)
"""Two nodes that teach each other nothing."""


class MostlyOneClass(MemoryEval):
    """90 % of one class: an argmax of logits that are none is the first class, and would be right so often."""

    def __init__(self):
        super().__init__(num_images=10)
        self.labels = torch.tensor([0] * 9 + [1])


def wild_training(**changes):
    training = training_of(**{"epochs": 4, **WILD, **changes})
    training._evaluation = MostlyOneClass()
    return training


def assert_diverged(training, reports):
    """The last report is the one of the epoch in which it diverged, and has no accuracies."""
    assert training.diverged == reports[-1].diverged
    assert all(report.diverged is None for report in reports[:-1])
    assert (reports[-1].node_accuracies, reports[-1].ensemble_accuracy) == (None, None)
    assert list(training.epochs(never)) == [], "it does not go on"


@pytest.mark.parametrize("evaluate", ["rungs", "every_epoch"])
def test_learning_rate_far_too_high_diverges_and_is_not_scored(evaluate):
    training = wild_training(evaluate=evaluate)
    reports = list(training.epochs(never))
    assert_diverged(training, reports)
    assert reports[-1].epoch == 1
    assert training.diverged == "the loss of node 1 is not finite"
    assert not all(math.isfinite(loss) for loss in reports[-1].train_losses)


def test_training_that_diverges_takes_that_back_when_it_begins_anew_or_elsewhere():
    whole = training_of(APART, epochs=4)
    expected = [dataclasses.replace(report, seconds=0.0) for report in whole.epochs(never)]
    training = training_of(APART, epochs=4)
    healthy = training.state()
    for again in (lambda: training.restart(GraphMethod(graph=APART), 3), lambda: training.restore(healthy)):
        again()
        with torch.no_grad():
            training.networks[1].head.fc.weight.fill_(math.nan)
        assert_diverged(training, list(training.epochs(never)))
        again()
        assert training.diverged is None
        assert [dataclasses.replace(report, seconds=0.0) for report in training.epochs(never)] == expected


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda node: node.network.head.fc.weight.fill_(math.inf), "the loss of node 2 is not finite"),
        (lambda node: node._momentum()["head.fc.bias"].fill_(math.inf), "the weights of node 2 are not finite"),
    ],
)
def test_one_node_of_two_that_breaks_alone_makes_the_training_diverge(spoil, reason):
    training = training_of(APART, epochs=4)
    steps = training.steps()
    reports = []
    for report in steps:
        if report is not None:
            reports.append(report)
        elif training.step == 8:  # The last step of the second epoch is done, its loss is known.
            with torch.no_grad():
                spoil(training._learner._nodes[1])
            if reason.startswith("the loss"):
                training._loss_sums[1] = math.inf
    assert [report.epoch for report in reports] == [1, 2]
    assert reports[0].diverged is None
    assert math.isfinite(reports[1].train_losses[0])
    assert_diverged(training, reports)
    assert training.diverged == reason


def test_statistic_of_a_batch_norm_that_is_not_finite_is_seen_at_an_epoch_without_an_evaluation():
    """It is no part of a loss in training: only evaluation would feel it, and that comes at the next rung."""
    training = training_of(APART, epochs=4)
    reports = []
    for report in training.steps():
        if report is not None:
            reports.append(report)
        elif training.step == 12:
            statistics = dict(training.networks[0].named_buffers())
            next(buffer for name, buffer in statistics.items() if name.endswith("running_var")).fill_(math.nan)
    assert [report.epoch for report in reports] == [1, 2, 3]
    assert_diverged(training, reports)
    assert training.diverged == "the weights of node 1 are not finite"


def test_finite_weights_whose_logits_overflow_give_no_answer():
    training = training_of(APART, epochs=1)
    for _ in training.steps():
        if training.step == 4:
            with torch.no_grad():
                training.networks[1].head.fc.weight.fill_(3e38)
    assert training.diverged == "node 2 gives logits that are not finite"


def test_diverged_epoch_that_was_not_told_diverges_again_from_its_checkpoint():
    training = training_of(APART, epochs=4)
    list(training.epochs(StopAfter(4)))
    with torch.no_grad():
        training.networks[0].head.fc.weight.fill_(math.nan)
    assert next(training.steps()).diverged is not None
    training.reopen_epoch()
    assert training.diverged is None
    second = training_of(APART, epochs=4)
    second.restore(training.state())
    (report,) = second.epochs(never)
    assert (report.epoch, report.diverged) == (1, "the weights of node 1 are not finite")


def test_weights_count_and_losses_do_not_where_the_loss_is_scaled():
    """fp16: a step that overflows is left out, and its loss is not finite."""
    training = training_of(APART, epochs=2)
    type(training._learner).scales_loss, plain = property(lambda learner: True), type(training._learner).scales_loss
    try:
        reports = []
        for report in training.steps():
            if report is not None:
                reports.append(report)
            elif training.step == 2:
                training._loss_sums[0] = math.inf
            elif training.step == 6:
                with torch.no_grad():
                    training.networks[0].head.fc.bias.fill_(math.nan)
    finally:
        type(training._learner).scales_loss = plain
    assert (reports[0].diverged, reports[0].train_losses[0]) == (None, math.inf)
    assert reports[0].ensemble_accuracy is not None
    assert reports[1].diverged == "the weights of node 1 are not finite"


def wild():
    return setting_of(training=training_config(epochs=4, **WILD), evaluation=MostlyOneClass())


def test_one_training_diverges_too():
    training = TrainingLoop(OneMethod(num_branches=2), wild(), seed=1)
    reports = list(training.epochs(never))
    assert_diverged(training, reports)
    assert training.diverged == "the loss is not finite"


def test_student_training_diverges_too():
    teacher = TeacherWeights(
        build=builder_of(NETWORK),
        weights=(training_of(APART).networks[0].state_dict(),),
        origin="a teacher",
    )
    training = TrainingLoop(Taught(teacher, 1.0), wild(), seed=1)
    reports = list(training.epochs(never))
    assert_diverged(training, reports)
    assert training.diverged == "the loss is not finite"


def test_logits_of_what_fills_a_batch_up_are_no_answer_either_way():
    """Only the logits of images count: the last batch is filled up with zeros."""

    class Source:
        def __iter__(self):
            for part in torch.arange(1.0, 4.0).view(3, 1, 1, 1).expand(3, 3, 2, 2).split(2):
                yield MemoryBatch(part, torch.zeros(len(part), dtype=torch.long))

    def predict(images):
        return mean_ensemble((1 / images[:, 0, 0, :1]).expand(-1, 2).unsqueeze(0))

    assert top1_accuracies(predict, Source()).ensemble == 100.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_any_logit_that_is_not_finite_is_no_answer(bad):
    source = MemoryEval(num_images=5, batch_size=2)
    seen = []

    def predict(images):
        logits = torch.zeros(2, len(images), NUM_CLASSES)
        seen.append(len(images))
        if len(seen) == 2:
            logits[1, 1, 3] = bad
        return mean_ensemble(logits)

    assert top1_accuracies(predict, source) == NotFinite(nodes=(1,))


def test_ensemble_of_finite_nodes_that_is_not_finite_is_no_answer():
    logits = torch.full((2, 4, NUM_CLASSES), 3e38)

    def predict(images):
        return Prediction(logits[:, : len(images)], logits.sum(dim=0)[: len(images)])

    assert top1_accuracies(predict, MemoryEval()) == NotFinite(nodes=())
