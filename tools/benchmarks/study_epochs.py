"""What both sides of ``tools/bench study`` search and report. Imports nothing that one side alone needs."""

import random

from kdhpc.graph.space import SearchSpace

EPOCHS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 300)
"""At which trials report: those of the paper."""
SPACE = SearchSpace(num_nodes=5)
"""45 parameters."""


def accuracy(seed: int, epoch: int) -> float:
    """Made up, in percent, the same in every process."""
    quality = random.Random(seed).random()
    noise = random.Random(f"{seed} {epoch}").random() - 0.5
    return 20 + 60 * quality + 20 * noise / epoch
