"""A plug-in: a design and two gates of one's own.

Put this file, under a name of your own, into a folder of PYTHONPATH, and name it: `plugins=[own_designs]`. The
functions use tensors' methods only, so that nothing here imports torch, which every command would wait for.
"""

from typing import TYPE_CHECKING

import kdhpc

if TYPE_CHECKING:
    from torch import Tensor

TEMPERATURE = 4.0


def soft_divergence(source: "Tensor", target: "Tensor") -> "Tensor":
    """T^2 KL(softmax(source / T) || softmax(target / T)) of each ordered pair, (N, S, T).

    Args:
        source: Logits of all nodes as teachers, (N, S, C), detached.
        target: Logits of all nodes as learners, (N, T, C).

    Source: Hinton et al., "Distilling the knowledge in a neural network".
    """
    source_log = (source / TEMPERATURE).log_softmax(dim=2)
    target_log = (target / TEMPERATURE).log_softmax(dim=2)
    entropy = (source_log.exp() * source_log).sum(dim=2, keepdim=True)
    return TEMPERATURE**2 * (entropy - source_log.exp() @ target_log.mT)


def decaying(ramp: "Tensor", right: "Tensor") -> "Tensor":
    """1 - k / k_end: the edge teaches less and less."""
    return 1 - ramp


def wrong(ramp: "Tensor", right: "Tensor") -> "Tensor":
    """1 for the samples that the source gets wrong, else 0."""
    return 1 - right


SOFT = kdhpc.LossEntry(name="soft_divergence", compares="probability", function=soft_divergence)
DESIGNS = [kdhpc.DesignEntry(name="soft+", losses=(SOFT,), colour="#2a7f62", meaning="brings softly closer")]
GATES = [
    kdhpc.GateEntry(name="decaying", weight=decaying, line="dashed"),
    kdhpc.GateEntry(name="wrong", weight=wrong, line="dotted"),
]
