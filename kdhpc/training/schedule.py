"""The learning rate of an epoch, and the epochs at which ensembles are scored. Epochs are 1-based."""

from kdhpc.config.schema import TrainingConfig


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
