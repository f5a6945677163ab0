"""When a training has diverged: its numbers are not finite any more, and its accuracy would mean nothing.

The rule, in one place. At the end of each epoch a training has diverged

- if the loss of a node, as the mean over the epoch's steps, is not finite. This does not count in fp16 with a loss
  scale, where steps that overflow are normal and are skipped: there the other two rules decide;
- if a weight, a batch-norm statistic or a momentum of a node is not finite;
- or if, where accuracy is measured, a node or the ensemble gives a logit that is not finite, for any image: such logits
  are no prediction, though an argmax could be taken of them.

One node of several suffices: the others learn from it, and the ensemble needs its logits. None of these checks
synchronises the host and the device within a step.
"""

import math
from collections.abc import Sequence

from kdhpc.training.evaluation import NotFinite
from kdhpc.training.learner import Learner


def broken_numbers(learner: Learner, mean_losses: Sequence[float]) -> str | None:
    """Which of a training's own numbers is not finite, in words; None: all are.

    Args:
        learner: The learner at the end of an epoch. The host waits for the device once.
        mean_losses: The mean loss of each node in that epoch.
    """
    if not learner.scales_loss:
        for index, loss in enumerate(mean_losses):
            if not math.isfinite(loss):
                return f"the loss{_of_node(index, len(mean_losses))} is not finite"
    are_finite = learner.are_finite().tolist()
    for index, is_finite in enumerate(are_finite):
        if not is_finite:
            return f"the weights{_of_node(index, len(are_finite))} are not finite"
    return None


def broken_predictions(found: NotFinite) -> str:
    """Whose logits are not finite, in words."""
    whose = "the ensemble" if not found.nodes else f"node {found.nodes[0] + 1}"
    return f"{whose} gives logits that are not finite"


def _of_node(index: int, num_nodes: int) -> str:
    return f" of node {index + 1}" if num_nodes > 1 else ""
