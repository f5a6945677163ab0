"""Samplers that learn from the study: what they try, and that nothing breaks their bookkeeping."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from sqlalchemy import event

from kdhpc.graph.neighbours import neighbours, presets_in
from kdhpc.graph.space import SearchSpace, graph_key
from kdhpc.graph.spec import Design, Gate, GraphSpec
from kdhpc.study.storage import Storage
from kdhpc.study.study import SharedStudy
from tests.study.made import HERE, make, optuna_trials, take

SAMPLERS = ("evolve", "refine")


def worth(graph: GraphSpec) -> float:
    """More with each edge that brings probabilities closer."""
    return 50.0 + sum(edge.design is Design.PROB_CLOSER and edge.gate is not Gate.CUTOFF for edge in graph.edges)


def run_all(study: SharedStudy) -> list[GraphSpec]:
    graphs = []
    while (trial := study.lease(HERE, lease_s=60, renew_s=20)) is not None:
        graphs.append(trial.graph)
        trial.report_rung(4, worth(trial.graph))
    return graphs


def is_near(graph: GraphSpec, others: list[GraphSpec], space: SearchSpace) -> bool:
    return any(graph_key(graph) in map(graph_key, neighbours(space, other)) for other in others)


def test_evolve_begins_with_presets_and_changes_an_edge_of_its_last_graphs(storage: Storage) -> None:
    study = make(storage, sampler="evolve", pruner="none", target=30, population=10, sample=4)
    graphs = run_all(study)
    assert tuple(graphs[:7]) == presets_in(study.definition.space)
    assert len({graph_key(graph) for graph in graphs}) == 30
    for number, graph in enumerate(graphs[10:], start=10):
        assert is_near(graph, graphs[number - 10 : number], study.definition.space), number
    assert max(map(worth, graphs[10:])) >= max(map(worth, graphs[:10]))


def test_refine_tries_the_neighbours_of_the_best_after_random_graphs(storage: Storage) -> None:
    study = make(storage, sampler="refine", pruner="none", target=20, population=8, refine_best=2)
    graphs = run_all(study)
    space = study.definition.space
    assert graphs[:8] == [space.graph(0, slot) for slot in range(8)]
    for number in range(8, 20):
        best = sorted(graphs[:number], key=worth, reverse=True)[:1]
        assert is_near(graphs[number], best, space), number


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_small_space_is_exhausted_before_a_graph_is_tried_again(storage: Storage, sampler: str) -> None:
    space = SearchSpace(num_nodes=2, gates=(Gate.CUTOFF, Gate.THROUGH), designs=(Design.PROB_CLOSER,))
    num = space.num_canonical
    study = make(storage, sampler=sampler, space=space, pruner="none", target=num + 3)
    graphs = run_all(study)
    assert len(graphs) == num + 3
    if sampler == "refine":
        assert len({graph_key(graph) for graph in graphs[:num]}) == num
    assert study.progress().complete == num + 3


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_worker_tries_the_same_graphs_again(storage: Storage, sampler: str) -> None:
    first, again, other = (
        run_all(make(storage, name=name, sampler=sampler, pruner="none", target=24, seed=seed))
        for name, seed in (("one", 5), ("two", 5), ("three", 6))
    )
    assert first == again != other


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_slot_that_is_leased_again_keeps_its_graph(storage: Storage, storage_url: str, sampler: str) -> None:
    study = make(storage, sampler=sampler, pruner="none", target=12, population=2)
    for _ in range(4):
        take(study).report_rung(4, 50.0)
    left = take(study)
    graph = left.graph
    better = take(study)
    better.report_rung(4, 99.0)
    left.release()
    crashed = take(study)
    assert (crashed.slot, crashed.graph) == (left.slot, graph)
    crashed.crash("a broken machine")
    again = take(study)
    while again.slot != left.slot:  # What crashed here comes last.
        again.report_rung(4, 60.0)
        again = take(study)
    assert again.graph == graph
    stored = next(trial for trial in optuna_trials(storage_url) if trial.number == left.slot)
    assert stored.user_attrs["kdhpc"]["graph"] == graph_key(graph)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_without_a_complete_trial_graphs_are_random(storage: Storage, sampler: str) -> None:
    study = make(storage, sampler=sampler, target=12, population=3)
    graphs = []
    for number in range(12):
        trial = take(study)
        graphs.append(trial.graph)
        if number % 3 == 0:
            trial.diverge(1, "not a number")
        elif number % 3 == 1:
            trial.report(1, 12.0)
            trial.prune()
    assert len({graph_key(graph) for graph in graphs}) == 12


def test_many_workers_at_once_try_no_graph_twice(storage: Storage) -> None:
    study = make(storage, sampler="refine", pruner="none", target=40, population=4)

    def work(_: int) -> list[GraphSpec]:
        return run_all(SharedStudy.open(storage, "tiny"))

    with ThreadPoolExecutor(6) as threads:
        graphs = [graph for own in threads.map(work, range(6)) for graph in own]
    assert len(graphs) == len({graph_key(graph) for graph in graphs}) == 40
    assert study.progress().complete == 40


@contextmanager
def counted(storage: Storage) -> Iterator[list[str]]:
    said: list[str] = []

    def listen(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        said.append(statement)

    event.listen(storage._engine, "before_cursor_execute", listen)
    try:
        yield said
    finally:
        event.remove(storage._engine, "before_cursor_execute", listen)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_lease_takes_as_many_statements_however_many_trials_there_are(storage: Storage, sampler: str) -> None:
    study = make(storage, sampler=sampler, pruner="none", target=60, population=8)
    numbers = []
    for _ in range(40):
        with counted(storage) as said:
            trial = take(study)
        numbers.append(len(said))
        trial.report_rung(4, worth(trial.graph))
    assert max(numbers[8:]) <= 12
    assert max(numbers[30:]) <= max(numbers[8:20])
