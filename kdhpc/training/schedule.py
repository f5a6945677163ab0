"""Where a step stands in the schedule, its learning rate, and the epochs at which ensembles are scored.

Epochs are 1-based.
"""

import math
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


def learning_rate(config: TrainingConfig, step: ScheduleStep) -> float:
    """The learning rate of a step.

    ``steps``: the initial rate times ``gamma`` for each milestone that the epoch has reached. ``cosine``: with w steps
    of warm-up, low + (initial - low) (1 + cos(pi (k - 1 - w) / (k_end - w))) / 2 for k > w, where low is
    ``min_learning_rate``; the rate would be low at the step after the last one. In the warm-up, the rate that the
    schedule begins with, or that of the milestones, is multiplied by k / w, so that it is whole at its last step.

    Args:
        config: The schedule.
        step: Of the full schedule, whose steps are as many in every epoch.

    Source: Loshchilov and Hutter, "SGDR" (https://arxiv.org/abs/1608.03983), Eq. 5, without restarts; the warm-up of
    Goyal et al., "Accurate, large minibatch SGD" (https://arxiv.org/abs/1706.02677), section 2.2. The values are those
    of torch's ``LinearLR`` and ``CosineAnnealingLR``, advanced at every step.
    """
    warmup = config.warmup_epochs * (step.num_steps // config.epochs)
    if config.schedule == "cosine":
        progress = max(0, step.step - 1 - warmup) / (step.num_steps - warmup)
        low = config.min_learning_rate
        rate = low + (config.learning_rate - low) * (1 + math.cos(math.pi * progress)) / 2
    else:
        reached = sum(milestone <= step.epoch for milestone in config.milestones)
        rate = config.learning_rate * config.gamma**reached
    return rate * step.step / warmup if step.step < warmup else rate


def is_scored(config: TrainingConfig, epoch: int) -> bool:
    """Whether accuracy is measured after an epoch."""
    if config.evaluate == "last":
        return epoch == config.epochs
    return config.evaluate == "every_epoch" or is_rung(epoch, config.epochs)


def is_rung(epoch: int, last_epoch: int) -> bool:
    """Whether it is one of 1, 2, 4, 8, ..., or the last. Source: paper section 4.2."""
    return epoch & (epoch - 1) == 0 or epoch == last_epoch
