"""Pairs of networks: how the gain of their ensemble correlates with the difference of the two. Free of torch."""

import csv
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_COLUMNS = ("network_1", "network_2", "accuracy_1", "accuracy_2", "ensemble_accuracy", "gain", "mutual_kl")


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Measures of P pairs out of M networks. Accuracies are top-1, in percent."""

    networks: tuple[str, ...]
    """(M,) names of the networks."""
    accuracies: NDArray[np.float64]
    """(M,) accuracy of each network alone."""
    first: NDArray[np.int64]
    """(P,) index of one network of each pair, 0 to M - 1."""
    second: NDArray[np.int64]
    """(P,) index of the other network."""
    mutual_kl: NDArray[np.float64]
    """(P,) mutual KL divergence in nats, the mean over the images. Source: paper Eq. 1."""
    ensemble_accuracies: NDArray[np.float64]
    """(P,) accuracy of the ensemble of two: of the mean of both networks' logits."""
    num_images: int
    """Number of images that all of this was measured on."""

    @property
    def gains(self) -> NDArray[np.float64]:
        """(P,) gain of each ensemble over the mean of its two networks, in percentage points. Source: paper Eq. 2."""
        return self.ensemble_accuracies - (self.accuracies[self.first] + self.accuracies[self.second]) / 2


@dataclass(frozen=True, kw_only=True)
class Line:
    """The regression line of the gain on the mutual KL, with the correlation coefficient of the two."""

    slope: float
    """Percentage points per nat."""
    intercept: float
    """Percentage points."""
    r: float
    """Pearson's correlation coefficient."""


def fit_line(pairs: Pairs) -> Line | None:
    """Fit the line by least squares.

    Returns:
        None: all pairs have the same mutual KL or the same gain, so there is no correlation coefficient.

    Source: paper Table 1 and Fig. 2.
    """
    x, y = pairs.mutual_kl, pairs.gains
    if _is_constant(x) or _is_constant(y):
        return None
    slope, intercept = np.polyfit(x, y, deg=1)
    return Line(slope=float(slope), intercept=float(intercept), r=float(np.corrcoef(x, y)[0, 1]))


def pairs_table(pairs: Pairs) -> str:
    """A CSV text with a header and one row for each pair."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    names, ends = np.array(pairs.networks), (pairs.first, pairs.second)
    columns = [*(names[end] for end in ends), *(pairs.accuracies[end] for end in ends)]
    columns += [pairs.ensemble_accuracies, pairs.gains, pairs.mutual_kl]
    writer.writerows(zip(*(column.tolist() for column in columns), strict=True))
    return text.getvalue()


def _is_constant(values: NDArray[np.float64]) -> bool:
    """Whether all values are equal up to rounding errors."""
    return bool(np.ptp(values) < 1e-9)
