"""Random numbers that networks draw while they learn, as for dropout: they follow from seed and step.

So a training that goes on draws what it would have drawn, whatever ran in between, and trials that take turns in a
process do not disturb each other: a checkpoint needs no random state. kdhpc's own networks draw nothing.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import nn

from kdhpc.networks.own import OwnNetwork


def may_draw(networks: Sequence[nn.Module]) -> bool:
    """Whether some of the networks may draw random numbers."""
    return any(isinstance(network, OwnNetwork) for network in networks)


def seed_draws(seed: int, *, step: int, variant: int = 0) -> None:
    """Seed torch's global generators, of all devices, for one step. Nothing waits for a device.

    Args:
        seed: The training's.
        step: Optimiser steps done.
        variant: Not 0: other numbers for the same step, for a trial of what was recorded.
    """
    digest = hashlib.sha256(f"draws of step {step} under seed {seed}, variant {variant}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
