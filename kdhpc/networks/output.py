"""What the network of a node gives to the losses."""

from typing import NamedTuple

from torch import Tensor


class NetworkOutput(NamedTuple):
    """One network's answer to one batch."""

    logits: Tensor
    """(N, C). Distillation, ensemble and accuracy use these."""
    attention_map: Tensor
    """(N, H, W), float32, not negative."""
    extra_hard_logits: tuple[Tensor, ...] = ()
    """(N, C) each: further classifiers that join the label loss with weight 1 (the attention branch's)."""
