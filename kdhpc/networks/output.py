"""The output of a node's network, as the losses take it."""

from typing import NamedTuple

from torch import Tensor


class NetworkOutput(NamedTuple):
    """The output of one network for one batch."""

    logits: Tensor
    """(N, C). Distillation, the ensemble and accuracies use these logits."""
    attention_map: Tensor
    """(N, H, W), float32, 0 or more."""
    extra_hard_logits: tuple[Tensor, ...] = ()
    """(N, C) each: logits of further classifiers, which are added to the label loss with weight 1."""
