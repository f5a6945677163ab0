import itertools
from collections import Counter

import pytest
from scipy import stats

from kdhpc.graph.hash_random import uniform, weighted_order


def test_uniform_of_a_key_never_changes() -> None:
    assert uniform(10**30, "x") == 661295590867756173179282508512
    assert weighted_order([1, 2, 3, 4], "x") == (3, 2, 0, 1)


@pytest.mark.parametrize("bound", [1, 2, 7, 24**5])
def test_uniform_over_keys_covers_its_range_evenly(bound: int) -> None:
    draws = [uniform(bound, f"key {n}") for n in range(4000)]
    assert all(0 <= draw < bound for draw in draws)
    bins = Counter(draw * min(bound, 8) // bound for draw in draws)
    assert len(bins) == min(bound, 8)
    if bound == 7:
        assert stats.chisquare(list(bins.values())).pvalue > 1e-3


@pytest.mark.parametrize("number", [1, 2, 3, 64, 100])
def test_weighted_order_draws_each_index_once(number: int) -> None:
    order = weighted_order([1 + n % 3 for n in range(number)], "any")
    assert sorted(order) == list(range(number))


def test_weighted_order_over_keys_has_the_probabilities_of_drawing_without_replacement() -> None:
    weights = [1, 2, 6]
    found = Counter(weighted_order(weights, f"key {n}") for n in range(6000))
    orders = list(itertools.permutations(range(3)))
    expected = [
        6000 * weights[a] / 9 * weights[b] / (weights[b] + weights[c]) for a, b, c in orders
    ]  # the last one is certain
    assert stats.chisquare([found[order] for order in orders], expected).pvalue > 1e-3


def test_weighted_order_of_huge_weights_is_exact() -> None:
    assert weighted_order([1, 10**200], "any") == (1, 0)
