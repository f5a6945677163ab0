"""Quantiles of Student's t, for intervals around means of a few seeds. SciPy has them; kdhpc does without SciPy."""

import math

_HALVINGS = 100


def two_sided_t(probability: float, degrees: int) -> float:
    """The t that a variable with Student's distribution stays below in absolute value, with some probability.

    Args:
        probability: Between 0 and 1, such as 0.95.
        degrees: Degrees of freedom, 1 or more.

    Source: Abramowitz and Stegun, *Handbook of Mathematical Functions*, 26.7.3 and 26.7.4: finite sums.
    """
    low, high = 0.0, math.pi / 2  # t = sqrt(degrees) tan(angle), and the probability rises with the angle.
    for _ in range(_HALVINGS):
        angle = (low + high) / 2
        if _probability(angle, degrees) < probability:
            low = angle
        else:
            high = angle
    return math.sqrt(degrees) * math.tan((low + high) / 2)


def _probability(angle: float, degrees: int) -> float:
    """That the absolute value stays below sqrt(degrees) tan(angle)."""
    odd = degrees % 2
    cosine, term, total = math.cos(angle), 1.0, 0.0
    if odd:
        term = cosine
    for k in range(1 + odd, degrees, 2):
        total += term
        term *= cosine * cosine * k / (k + 1)
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total
