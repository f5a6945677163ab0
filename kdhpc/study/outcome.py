"""How a worker's time with a trial ended."""

from enum import Enum


class Outcome(str, Enum):
    """How a worker's time with a trial ended."""

    COMPLETE = "complete"
    """Trained to its last epoch."""
    PRUNED = "pruned"
    """Ended early by the pruning rule."""
    DIVERGED = "diverged"
    """Ended early because its numbers were not finite any more."""
    INTERRUPTED = "interrupted"
    """Checkpointed: another worker goes on with it."""
