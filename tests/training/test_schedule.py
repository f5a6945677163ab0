import pytest

from kdhpc.config.schema import TrainingConfig
from kdhpc.training.schedule import is_rung, is_scored, learning_rate


@pytest.mark.parametrize(
    ("epoch", "expected"), [(1, 0.1), (149, 0.1), (150, 0.01), (224, 0.01), (225, 0.001), (300, 0.001)]
)
def test_learning_rate_falls_when_an_epoch_reaches_a_milestone(epoch, expected):
    assert learning_rate(TrainingConfig(), epoch) == pytest.approx(expected)


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
