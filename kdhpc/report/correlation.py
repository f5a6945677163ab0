"""Pairs of networks, and how their difference and what they gain together go with each other. Free of torch."""

import csv
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_COLUMNS = (
    *("network_1", "network_2", "accuracy_1", "accuracy_2", "ensemble_accuracy"),
    *("gain", "mutual_kl"),
)


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
    x, y = pairs.mutual_kl - pairs.mutual_kl.mean(), pairs.gains - pairs.gains.mean()
    xx, yy, xy = float(x @ x), float(y @ y), float(x @ y)
    # Rounding errors are no variance.
    if xx <= _rounding(pairs.mutual_kl) or yy <= _rounding(pairs.gains):
        return None
    slope = xy / xx
    return Line(
        slope=slope,
        intercept=float(pairs.gains.mean()) - slope * float(pairs.mutual_kl.mean()),
        r=xy / float(np.sqrt(xx * yy)),
    )


def pairs_table(pairs: Pairs) -> str:
    """A CSV with a row for each pair."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    measures = zip(
        *(values.tolist() for values in (pairs.first, pairs.second, pairs.ensemble_accuracies)),
        *(values.tolist() for values in (pairs.gains, pairs.mutual_kl)),
        strict=True,
    )
    accuracies = pairs.accuracies.tolist()
    for first, second, ensemble, gain, mutual_kl in measures:
        names = (pairs.networks[first], pairs.networks[second])
        writer.writerow([*names, accuracies[first], accuracies[second], ensemble, gain, mutual_kl])
    return text.getvalue()


def _rounding(values: NDArray[np.float64]) -> float:
    return len(values) * (1e-12 * float(np.abs(values).max())) ** 2
