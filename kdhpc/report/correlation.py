"""Pairs of networks, and how their difference and what they gain together go with each other. Free of torch."""

import csv
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_COLUMNS = ("network_1", "network_2", "accuracy_1", "accuracy_2", "ensemble_accuracy", "gain", "mutual_kl")


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Measures of P pairs of M networks. Accuracies are top-1, in percent."""

    networks: tuple[str, ...]
    """(M,) names."""
    accuracies: NDArray[np.float64]
    """(M,) of each network alone."""
    first: NDArray[np.int64]
    """(P,) a network of each pair, 0 to M - 1."""
    second: NDArray[np.int64]
    """(P,) the other one."""
    mutual_kl: NDArray[np.float64]
    """(P,) Eq. 1, in nats: mean over the images."""
    ensemble_accuracies: NDArray[np.float64]
    """(P,) of the mean of both networks' logits."""
    num_images: int
    """That all of it was measured on."""

    @property
    def gains(self) -> NDArray[np.float64]:
        """(P,) percentage points over the mean of the two alone. Source: paper Eq. 2."""
        return self.ensemble_accuracies - (self.accuracies[self.first] + self.accuracies[self.second]) / 2


@dataclass(frozen=True, kw_only=True)
class Line:
    """The regression line of the gain on the mutual KL, with the correlation coefficient of the two."""

    slope: float
    """Percentage points a nat."""
    intercept: float
    """Percentage points."""
    r: float
    """Pearson's correlation coefficient."""


def fit_line(pairs: Pairs) -> Line | None:
    """By least squares; none where all pairs differ by the same, or gain the same. Source: paper Table 1, Fig. 2."""
    x, y = pairs.mutual_kl, pairs.gains
    if _is_constant(x) or _is_constant(y):
        return None
    slope, intercept = np.polyfit(x, y, deg=1)
    return Line(slope=float(slope), intercept=float(intercept), r=float(np.corrcoef(x, y)[0, 1]))


def pairs_table(pairs: Pairs) -> str:
    """A CSV with a row for each pair."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    names, ends = np.array(pairs.networks), (pairs.first, pairs.second)
    columns = [*(names[end] for end in ends), *(pairs.accuracies[end] for end in ends)]
    columns += [pairs.ensemble_accuracies, pairs.gains, pairs.mutual_kl]
    writer.writerows(zip(*(column.tolist() for column in columns), strict=True))
    return text.getvalue()


def _is_constant(values: NDArray[np.float64]) -> bool:
    """But for rounding errors, of accuracies in percent and of mean KLs in nats."""
    return bool(np.ptp(values) < 1e-9)
