"""What samplers do at the edges: other goals, networks, small spaces, lost databases, trials that diverge."""

from dataclasses import replace

import optuna
import pytest

from kdhpc.graph.neighbours import mutations
from kdhpc.graph.space import SearchSpace, graph_key
from kdhpc.graph.spec import Design, Gate
from kdhpc.study import allocation
from kdhpc.study.optuna_view import OptunaView
from kdhpc.study.status import top_trials
from kdhpc.study.storage import Storage
from tests.study.made import HERE, make, scalar, take
from tests.study.test_samplers import SAMPLERS, is_near, run_all, worth

SMALL = SearchSpace(num_nodes=2, gates=(Gate.CUTOFF, Gate.THROUGH), designs=(Design.PROB_CLOSER,))
MIXED = SearchSpace(num_nodes=2, designs=(Design.PROB_CLOSER,), networks=("resnet20", "resnet32", "wrn16_2"))


def test_refine_under_nll_goes_on_from_the_lowest(storage: Storage) -> None:
    study = make(storage, sampler="refine", goal="nll", pruner="none", target=10, population=6, refine_best=1)
    graphs = []
    for _ in range(10):
        trial = take(study)
        if len(graphs) >= 6:
            best = min(graphs, key=lambda graph: 100 - worth(graph))
            assert is_near(trial.graph, [best], study.definition.space)
        graphs.append(trial.graph)
        trial.report_rung(4, 100 - worth(trial.graph))


def test_evolve_under_nll_changes_the_lowest_of_its_sample(storage: Storage) -> None:
    study = make(storage, sampler="evolve", goal="nll", pruner="none", target=12, population=8, sample=8)
    graphs, values = [], [3.0, 2.0, 0.5, 4.0, 5.0, 6.0, 7.0, 8.0]
    for value in values:
        trial = take(study)
        graphs.append(trial.graph)
        trial.report_rung(4, value)
    changed = [graph_key(graph) for group in mutations(study.definition.space, graphs[2]) for graph in group]
    assert graph_key(take(study).graph) in changed


@pytest.mark.parametrize("goal", ["nll", "ensemble"])
def test_confirmed_graphs_rank_by_the_goal(storage: Storage, goal: str) -> None:
    study = make(storage, goal=goal, pruner="none", target=3)
    for value in (1.0, 2.0, 3.0):
        take(study).report_rung(4, value)
    study.confirm(top=9, num_seeds=2)
    while (trial := study.lease(HERE, lease_s=60, renew_s=20)) is not None:
        trial.report_rung(
            4, {graph_key(study.definition.space.graph(0, n)): 9.0 - n for n in range(3)}[graph_key(trial.graph)]
        )
    best, *others = top_trials(storage, "tiny", 9)
    assert (best.number, best.confirmed.mean) == ((2, 7.0) if goal == "nll" else (0, 9.0))
    assert len(others) == 2, "more were asked for than there are"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_change_networks_too_and_begin_with_those_of_the_baselines(storage: Storage, sampler: str) -> None:
    study = make(storage, sampler=sampler, space=MIXED, pruner="none", target=30, population=6)
    graphs = []
    while (trial := study.lease(HERE, lease_s=60, renew_s=20)) is not None:
        if len(graphs) >= 6:
            assert is_near(trial.graph, graphs, MIXED)
        graphs.append(trial.graph)
        trial.report_rung(4, worth(trial.graph) + 5 * trial.graph.networks.count("wrn16_2"))
    assert len({graph_key(graph) for graph in graphs}) == 30
    if sampler == "evolve":  # What `network=` is.
        assert [graph.networks for graph in graphs[:2]] == [("resnet20", "resnet20")] * 2
    assert max(graph.networks.count("wrn16_2") for graph in graphs[6:]) == 2


def test_presets_have_networks_that_the_space_draws(storage: Storage) -> None:
    space = replace(MIXED, networks=("resnet32", "wrn16_2"), node1_network="resnet32")
    study = make(storage, sampler="evolve", space=space, pruner="none", target=4)
    for _ in range(3):
        first, second = take(study).graph.networks
        assert (first, second in space.networks) == ("resnet32", True)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_small_space_with_networks_is_exhausted_before_a_graph_is_tried_again(storage: Storage, sampler: str) -> None:
    space = replace(SMALL, label_gates=(Gate.THROUGH,), networks=("resnet20", "resnet32"), node1_network="resnet20")
    num = space.num_canonical * space.num_mixtures
    assert (space.num_canonical, space.num_mixtures) == (4, 2)
    graphs = run_all(make(storage, sampler=sampler, space=space, pruner="none", target=num + 4, population=2))
    assert len({graph_key(graph) for graph in graphs[:num]}) == num
    assert len(graphs) == num + 4


def test_evolve_tries_another_graph_where_all_changes_of_its_parent_were_tried(storage: Storage) -> None:
    study = make(storage, sampler="evolve", space=SMALL, pruner="none", target=SMALL.num_canonical + 5, population=4)
    graphs = run_all(study)
    assert len({graph_key(graph) for graph in graphs[: SMALL.num_canonical]}) == SMALL.num_canonical


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_worker_that_dies_while_it_chooses_leaves_the_slot_to_others(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    study = make(storage, sampler=sampler, pruner="none", target=12, population=4)
    for _ in range(6):
        take(study).report_rung(4, 50.0)

    def dies(*_: object, **__: object) -> int:
        raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(allocation.trial_rows, "register", dies)  # Chosen, and not stored.
        with pytest.raises(RuntimeError):
            take(study)
    assert scalar(storage, "SELECT count(*) FROM kdhpc_slots WHERE state = 'held'") == 0
    assert scalar(storage, "SELECT count(*) FROM trials") == 6
    run_all(study)
    assert scalar(storage, "SELECT count(*) FROM trials") == 12
    assert study.progress().complete == 12


def test_worker_that_dies_while_tpe_chooses_leaves_its_trial_to_the_next(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make(storage, sampler="tpe", pruner="none", target=2)

    def dies(*_: object, **__: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(OptunaView, "tpe_graph", dies)
        with pytest.raises(RuntimeError):
            take(study)
    assert study.expire([HERE]) == 1
    run_all(study)
    assert (scalar(storage, "SELECT count(*) FROM trials"), study.progress().complete) == (2, 2)


def test_tpe_takes_a_diverged_trial_for_a_bad_one_however_far_it_came(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make(storage, sampler="tpe", target=3)
    diverging, pruned = take(study), take(study)
    diverging.report(1, 60.0)
    diverging.report(2, 90.0)
    diverging.diverge(3, "not a number")
    pruned.report(1, 50.0)
    pruned.prune()
    seen: list[optuna.trial.FrozenTrial] = []
    add = optuna.Study.add_trials

    def look(self: optuna.Study, trials: object) -> None:
        seen.extend(trials)
        add(self, seen)

    monkeypatch.setattr(optuna.Study, "add_trials", look)
    take(study)
    assert [trial.intermediate_values for trial in seen] == [{}, {1: 50.0}]
