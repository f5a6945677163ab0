"""Where a step stands in the schedule, its learning rate, and the epochs at which ensembles are scored.

Epochs are 1-based.
"""

from dataclasses import dataclass

from kdhpc.config.schema import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class ScheduleStep:
    """Where a step stands in the full schedule."""

    epoch: int
    """1-based."""
    step: int
    """k, 1-based over all epochs."""
    num_steps: int
    """k_end: steps of the full schedule, also for a trial that will be pruned."""


def learning_rate(config: TrainingConfig, epoch: int) -> float:
    """The initial rate times ``gamma`` for each milestone that the epoch has reached."""
    reached = sum(milestone <= epoch for milestone in config.milestones)
    return config.learning_rate * config.gamma**reached


def is_scored(config: TrainingConfig, epoch: int) -> bool:
    """Whether accuracy is measured after an epoch."""
    if config.evaluate == "last":
        return epoch == config.epochs
    return config.evaluate == "every_epoch" or is_rung(epoch, config.epochs)


def is_rung(epoch: int, last_epoch: int) -> bool:
    """Whether it is one of 1, 2, 4, 8, ..., or the last. Source: paper section 4.2."""
    return epoch & (epoch - 1) == 0 or epoch == last_epoch
