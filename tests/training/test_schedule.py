import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from kdhpc.config.schema import TrainingConfig
from kdhpc.training.schedule import ScheduleStep, is_rung, is_scored, learning_rate


def rate_in(config, epoch):
    return learning_rate(config, ScheduleStep(epoch=epoch, step=2 * epoch, num_steps=2 * config.epochs))


def rates(config, steps_per_epoch):
    """Of every step."""
    num_steps = config.epochs * steps_per_epoch
    steps = (
        ScheduleStep(epoch=step // steps_per_epoch + 1, step=step + 1, num_steps=num_steps) for step in range(num_steps)
    )
    return [learning_rate(config, step) for step in steps]


@pytest.mark.parametrize(
    ("epoch", "expected"), [(1, 0.1), (149, 0.1), (150, 0.01), (224, 0.01), (225, 0.001), (300, 0.001)]
)
def test_learning_rate_falls_when_an_epoch_reaches_a_milestone(epoch, expected):
    assert rate_in(TrainingConfig(), epoch) == pytest.approx(expected)


@pytest.mark.parametrize(("warmup", "lowest"), [(0, 0.0), (1, 0.01), (3, 0.0)])
def test_learning_rate_of_a_cosine_with_warm_up_is_torchs(warmup, lowest):
    config = TrainingConfig(epochs=7, schedule="cosine", warmup_epochs=warmup, min_learning_rate=lowest)
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=config.learning_rate)
    num_warm, num_steps = 5 * warmup, 35
    cosine = CosineAnnealingLR(optimizer, T_max=num_steps - num_warm, eta_min=lowest)
    if warmup:
        rise = LinearLR(optimizer, start_factor=1 / num_warm, total_iters=num_warm - 1)
        cosine = SequentialLR(optimizer, [rise, cosine], milestones=[num_warm])
    expected = []
    for _ in range(num_steps):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cosine.step()
    assert rates(config, 5) == pytest.approx(expected, rel=1e-9)


def test_learning_rate_of_steps_with_warm_up_rises_to_what_it_is_without():
    config = TrainingConfig(epochs=4, warmup_epochs=2, milestones=(2, 4))
    assert rates(config, 2) == pytest.approx([0.025, 0.05, 0.0075, 0.01, 0.01, 0.01, 0.001, 0.001])


def test_is_rung_of_a_full_schedule_is_a_power_of_two_or_the_end():
    assert [epoch for epoch in range(1, 301) if is_rung(epoch, 300)] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]


def test_is_rung_last_epoch_that_is_a_power_of_two_counts_once():
    assert [epoch for epoch in range(1, 5) if is_rung(epoch, 4)] == [1, 2, 4]


@pytest.mark.parametrize(
    ("evaluate", "expected"), [("rungs", [1, 2, 4, 5]), ("every_epoch", [1, 2, 3, 4, 5]), ("last", [5])]
)
def test_is_scored_follows_the_config(evaluate, expected):
    config = TrainingConfig(epochs=5, evaluate=evaluate)
    assert [epoch for epoch in range(1, 6) if is_scored(config, epoch)] == expected
