"""Expected shares of choices against counting all graphs of small spaces."""

from collections import Counter
from itertools import product

import pytest

from kdhpc.graph.presets import independent
from kdhpc.graph.shares import choices_of, expected_shares
from kdhpc.graph.space import SearchSpace, canonical
from kdhpc.graph.spec import Design, Gate

_SMALL = {"gates": (Gate.CUTOFF, Gate.LINEAR), "designs": (Design.PROB_CLOSER, Design.ATTENTION_APART)}


@pytest.mark.parametrize(
    "space",
    [
        SearchSpace(num_nodes=2, **_SMALL),
        SearchSpace(num_nodes=2, reject_unlearned=True, **_SMALL),
        SearchSpace(num_nodes=2, node1_learns=True, **_SMALL),
        SearchSpace(num_nodes=2, node1_learns=True, label_gates=(Gate.CUTOFF,), **_SMALL),
        SearchSpace(num_nodes=2, label_gates=(Gate.THROUGH, Gate.CORRECT), **_SMALL),
        SearchSpace(num_nodes=2, networks=("a", "b"), node1_network="c", **_SMALL),
        SearchSpace(num_nodes=1),
    ],
    ids=["all", "reject", "node 1 learns", "node 1 learns from node 2", "labels through", "networks", "one node"],
)
def test_expected_shares_are_those_of_all_graphs(space: SearchSpace) -> None:
    parameters = space.parameters()
    counts: dict[str, Counter[str]] = {}
    for values in product(*(parameter.choices for parameter in parameters)):
        graph = space.from_parameters(dict(zip((parameter.name for parameter in parameters), values, strict=True)))
        if space.admits(graph):
            for name, choice in choices_of(space, canonical(graph)).items():
                counts.setdefault(name, Counter())[choice] += 1
    for name, shares in expected_shares(space).items():
        assert sum(shares.values()) == pytest.approx(1)
        counted = {choice: counts[name][choice] / counts[name].total() for choice in shares}
        assert shares == pytest.approx(counted), name


def test_choices_of_edges_that_are_cut_off_have_no_design() -> None:
    space = SearchSpace(num_nodes=2)
    assert choices_of(space, independent(2)) == {
        "label_1_gate": "through",
        "label_2_gate": "through",
        "edge_1_2_gate": "cutoff",
        "edge_2_1_gate": "cutoff",
    }
