from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest

from kdhpc.data.split import apportion, search_split
from kdhpc.errors import ConfigError


def _labels(*counts: int) -> np.ndarray:
    labels = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng(0).permutation(labels)


def _counts(labels: np.ndarray, indices: np.ndarray) -> list[int]:
    return np.bincount(labels[indices], minlength=int(labels.max()) + 1).tolist()


def test_search_split_of_equal_classes_is_half_and_half_in_each() -> None:
    labels = _labels(*[100] * 12)

    split = search_split(labels, validation_fraction=0.5, subset=None, seed=0)

    assert _counts(labels, split.train) == _counts(labels, split.validation) == [50] * 12
    assert sorted([*split.train, *split.validation]) == list(range(1200))


def test_search_split_indices_rise_and_are_int64() -> None:
    split = search_split(_labels(5, 9), validation_fraction=0.3, subset=None, seed=3)

    for side in (split.train, split.validation):
        assert side.dtype == np.int64
        assert (np.diff(side) > 0).all()


def test_search_split_of_a_given_seed_never_changes() -> None:
    labels = np.tile(np.arange(3), 5)

    split = search_split(labels, validation_fraction=0.4, subset=12, seed=7)

    # Worked out with sha256sum and sort: printf 'kdhpc/7/%d' INDEX | sha256sum.
    assert split.validation.tolist() == [0, 1, 12, 13, 14]
    assert split.train.tolist() == [2, 4, 6, 8, 9, 10, 11]


def test_search_split_seeds_differ() -> None:
    labels = _labels(50, 50)
    splits = [
        search_split(labels, validation_fraction=0.5, subset=None, seed=seed).train.tolist() for seed in (0, 1, 2)
    ]

    assert splits[0] != splits[1] != splits[2] != splits[0]


def test_search_split_subset_is_proportional_and_then_divided() -> None:
    labels = _labels(600, 300, 100)

    split = search_split(labels, validation_fraction=0.2, subset=100, seed=1)

    assert _counts(labels, split.validation) == [12, 6, 2]
    assert _counts(labels, split.train) == [48, 24, 8]


def test_search_split_rare_class_is_on_both_sides() -> None:
    labels = _labels(1000, 2, 1)

    split = search_split(labels, validation_fraction=0.05, subset=100, seed=0)

    assert _counts(labels, split.validation) == [4, 1, 0]
    assert _counts(labels, split.train) == [93, 1, 1]


@pytest.mark.parametrize("subset", [5, 25])
def test_search_split_subset_that_cannot_be_is_an_error(subset: int) -> None:
    with pytest.raises(ConfigError, match=rf"dataset\.subset={subset} is not possible: 3 classes .* allow 6 to 24"):
        search_split(_labels(8, 8, 8), validation_fraction=0.5, subset=subset, seed=0)


@pytest.mark.parametrize("fraction", [0.05, 0.95])
def test_search_split_fraction_that_empties_a_side_is_an_error(fraction: float) -> None:
    with pytest.raises(ConfigError, match=rf"dataset\.validation_fraction={fraction} of 24 images .* allow 3 to 21"):
        search_split(_labels(8, 8, 8), validation_fraction=fraction, subset=None, seed=0)


def test_search_split_of_single_images_is_an_error() -> None:
    with pytest.raises(ConfigError, match="allow 0 to 0"):
        search_split(_labels(1, 1), validation_fraction=0.5, subset=None, seed=0)


def _largest_remainder(total: int, weights: Sequence[int]) -> list[int]:
    """The textbook rule, in exact fractions."""
    quotas = [Fraction(total * weight, sum(weights)) for weight in weights]
    shares = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(weights)), key=lambda index: (shares[index] - quotas[index], index))
    for index in by_remainder[: total - sum(shares)]:
        shares[index] += 1
    return shares


def test_apportion_without_bounds_is_the_largest_remainder_rule() -> None:
    random = np.random.default_rng(0)
    for _ in range(300):
        weights = random.integers(1, 50, random.integers(1, 8)).tolist()
        total = int(random.integers(0, sum(weights) + 1))

        shares = apportion(total, weights, [0] * len(weights), weights)

        assert shares == _largest_remainder(total, weights)


def test_apportion_keeps_its_bounds_and_its_total() -> None:
    random = np.random.default_rng(1)
    for _ in range(300):
        weights = random.integers(1, 50, random.integers(1, 8)).tolist()
        low = [int(random.integers(0, weight + 1)) for weight in weights]
        high = [int(random.integers(least, weight + 1)) for least, weight in zip(low, weights, strict=True)]
        total = int(random.integers(sum(low), sum(high) + 1))

        shares = apportion(total, weights, low, high)

        assert sum(shares) == total
        assert all(least <= share <= most for least, share, most in zip(low, shares, high, strict=True))
