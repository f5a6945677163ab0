"""Given trials: outside the budget, never pruned, not in the way of the search or Optuna; under the same leases."""

import dataclasses
import threading
import time
from pathlib import Path

import optuna
import pytest
from sqlalchemy import text

from kdhpc.config.goals import GOALS
from kdhpc.errors import GraphError, LeaseLostError, StudyError
from kdhpc.graph.presets import dml, independent, uniform
from kdhpc.graph.serial import write_graph
from kdhpc.graph.space import SearchSpace, graph_key
from kdhpc.graph.spec import Design, Gate
from kdhpc.study.given import GivenGraph, load_given
from kdhpc.study.leased_trial import LeasedTrial
from kdhpc.study.ranking import Estimate, lead_line
from kdhpc.study.status import StudyStatus, read_status, top_trials
from kdhpc.study.storage import Storage
from kdhpc.study.study import SharedStudy
from tests.study.made import HERE, SPLIT, definition, optuna_trials, scalar, take

SPACE = SearchSpace(num_nodes=2)
BASELINES = load_given(("independent", "dml"), SPACE)


def make(storage: Storage, target: int = 4, baselines: tuple[GivenGraph, ...] = BASELINES, **changes: object):
    return SharedStudy.create_or_open(storage, definition(**changes), SPLIT, target=target, baselines=baselines)


def end(trial: LeasedTrial, *values: float) -> None:
    """Report at 1, 2 and 4, and end as the study says."""
    for epoch, value in zip((1, 2, 4), values, strict=False):
        if trial.report_rung(epoch, value) is not None:
            return


def status(storage: Storage) -> StudyStatus:
    return read_status(storage, "tiny")


def given_of(storage: Storage) -> list[tuple[str, Estimate | None, int]]:
    return [(given.name, given.result, given.open) for given in status(storage).given]


def test_baselines_of_a_new_study_come_first_and_are_outside_of_the_budget(storage: Storage) -> None:
    study = make(storage)
    first, second, third = (take(study) for _ in range(3))
    assert (first.number, second.number, third.number) == (-1, -2, 0)
    assert (first.graph, second.graph) == (independent(2), dml(2))
    counts = status(storage)
    assert (counts.trials.running, counts.trials.waiting, counts.target) == (1, 3, 4)
    assert (counts.given_trials.running, counts.waiting, counts.running) == (2, 3, 3)
    assert [worker.trial for worker in counts.workers] == [-1, -2, 0]
    end(first, 50.0, 60.0, 70.0)
    assert given_of(storage) == [
        ("independent", Estimate(mean=70.0, error=None, seeds=1), 0),
        ("dml", None, 1),
    ]
    assert status(storage).trials.finished == 0
    assert study.num_begun() == 1


def test_a_study_that_exists_keeps_its_baselines_and_one_without_gets_none(storage: Storage) -> None:
    make(storage, baselines=())
    assert take(make(storage)).number == 0
    assert status(storage).given == ()
    assert scalar(storage, "SELECT count(*) FROM studies") == 1, "no companion"


def test_given_trials_do_not_decide_about_others_and_are_never_pruned(storage: Storage) -> None:
    study = make(storage)
    baseline, other = take(study), take(study)
    end(other, 90.0, 90.0, 90.0)
    first, second = take(study), take(study)
    assert not first.report(1, 50.0), "nobody else has reported: given trials do not count"
    assert not second.report(1, 60.0)
    assert not baseline.report(1, 1.0)
    assert take(study).report(1, 54.0), "below the median of 50 and 60; with the given ones it would not be"
    assert scalar(storage, "SELECT count(*) FROM kdhpc_reports") == 3
    end(baseline, 1.0, 2.0, 3.0)
    assert given_of(storage)[0][1] == Estimate(mean=3.0, error=None, seeds=1)
    assert [rung.reached for rung in status(storage).rungs] == [3]


def test_seeds_are_those_of_the_graph_and_the_repetition(storage: Storage) -> None:
    study = make(storage, baselines=())
    study.give(load_given(("dml",), SPACE), num_seeds=2)
    study.give(load_given(("independent", "uniform:prob+"), SPACE), num_seeds=3)
    seeds = [(graph_key(trial.graph), trial.seed) for trial in (take(study) for _ in range(6))]
    assert [key for key, _ in seeds] == [
        graph_key(graph) for graph in (dml(2),) * 2 + (independent(2),) * 3 + (dml(2),)
    ]
    assert len({seed for _, seed in seeds}) == 6
    searched = {take(study).seed for _ in range(4)}
    assert not searched & {seed for _, seed in seeds}
    study.expire([HERE])
    study.delete()
    again = make(storage, baselines=())
    again.give(load_given(("independent",), SPACE), num_seeds=3)
    assert [take(again).seed for _ in range(3)] == [seed for _, seed in seeds[2:5]]


def test_a_given_trial_is_resumed_after_it_was_released_killed_or_left_and_given_up_like_others(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make(storage, baselines=BASELINES[:1], max_attempts=2)
    first = take(study)
    first.report(1, 50.0)
    first.release()
    second = take(study)
    assert (second.number, second.reported, second.attempt, second.seed) == (-1, (1,), 1, first.seed)
    with pytest.raises(LeaseLostError, match=r"\(given trial 1 of study 'tiny'\) is lost"):
        first.report(2, 50.0)
    second._stop_renewing()
    expire = "UPDATE kdhpc_slots SET renewed = now() - interval '1 day', expires = now() - interval '1 day'"
    storage.write(lambda connection: connection.execute(text(f"{expire} WHERE graph_key IS NOT NULL")))
    third = take(study)
    assert (third.number, third.attempt) == (-1, 2)
    third.crash("RuntimeError: twice")
    assert [(crash.number, crash.state) for crash in status(storage).crashes] == [(-1, "failed")]
    assert (status(storage).given_trials.failed, status(storage).trials.failed) == (1, 0)
    assert take(study).number == 0
    assert study.retry() == (-1,)
    fourth = take(study)
    assert (fourth.number, fourth.attempt, fourth.reported) == (-1, 1, (1,))
    end(fourth, 50.0, 60.0, 70.0)
    assert status(storage).given_trials.complete == 1
    assert scalar(storage, "SELECT count(*) FROM kdhpc_reports") == 0


def test_workers_that_are_gone_lose_given_trials_and_a_drained_study_gives_none(storage: Storage) -> None:
    study = make(storage, target=1)
    gone = dataclasses.replace(HERE, token="gone", process_start=1)
    take(study, gone)
    assert study.expire_dead() == 1
    assert take(study).attempt == 2
    study.drain()
    assert study.lease(HERE, lease_s=60, renew_s=20) is None
    with pytest.raises(StudyError, match="workers hold 1 of its trials"):
        study.delete()
    study.resume()
    assert take(study).number == -2


def test_one_that_crashed_here_comes_last_and_is_left_to_others_for_a_while(storage: Storage) -> None:
    study = make(storage, target=2, baselines=BASELINES[:1])
    elsewhere = dataclasses.replace(HERE, host="elsewhere", token="other")
    take(study).crash("RuntimeError: a broken machine")
    assert take(study).number == 0
    busy = take(study, elsewhere)
    assert busy.number == -1, "another machine may have it at once"
    busy.crash("RuntimeError: that one, too")
    assert take(study, elsewhere).number == 1
    assert study.lease(elsewhere, lease_s=60, renew_s=20) is None, "it is left to the other machine"


def test_optuna_and_its_sampler_see_the_search_alone(storage: Storage, storage_url: str) -> None:
    study = make(storage, target=2, sampler="tpe")
    for _ in range(2):
        end(take(study), 99.0, 99.0, 99.0)
    end(take(study), 50.0, 60.0, 70.0)
    end(take(study), 55.0, 65.0, 75.0)
    assert [(trial.number, trial.value) for trial in optuna_trials(storage_url)] == [(0, 70.0), (1, 75.0)]
    assert optuna.load_study(study_name="tiny", storage=storage_url).best_trial.number == 1
    assert status(storage).foreign_trials == 0
    companion = optuna.load_study(study_name="tiny:given", storage=storage_url)
    assert [trial.value for trial in companion.trials] == [99.0, 99.0]
    assert SharedStudy.open(storage, "tiny").progress().target == 2


def test_give_adds_only_what_is_missing_also_when_the_budget_is_spent(storage: Storage) -> None:
    study = make(storage, target=1)
    for values in ((50.0, 60.0, 70.0), (51.0, 61.0, 71.0), (52.0, 62.0, 72.5)):
        end(take(study), *values)
    assert study.lease(HERE, lease_s=60, renew_s=20) is None
    assert status(storage).unfinished == 0
    study.give(BASELINES[:1], num_seeds=3)
    study.give(BASELINES[:1], num_seeds=2)
    assert (status(storage).trials.unfinished, status(storage).unfinished) == (0, 2)
    end(take(study), 50.0, 60.0, 76.0)
    end(take(study), 50.0, 60.0, 73.0)
    (independent_result, _) = status(storage).given
    assert independent_result.result == Estimate(mean=73.0, error=pytest.approx(3**0.5), seeds=3)
    assert study.lease(HERE, lease_s=60, renew_s=20) is None


def test_give_at_the_same_time_gives_each_training_once(storage: Storage) -> None:
    study = make(storage, baselines=())
    threads = [threading.Thread(target=lambda: study.give(BASELINES, num_seeds=3)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert scalar(storage, "SELECT count(*) FROM kdhpc_slots WHERE graph_key IS NOT NULL") == 6


def test_given_graphs_are_those_of_the_study_and_may_have_designs_that_its_space_has_not(
    storage: Storage, tmp_path: Path
) -> None:
    space = SearchSpace(num_nodes=2, designs=(Design.PROB_CLOSER,), gates=(Gate.THROUGH,), reject_unlearned=True)
    write_graph(tmp_path / "mine.json", uniform(2, Design.ATTENTION_CLOSER))
    (tmp_path / "three.json").write_text((tmp_path / "mine.json").read_text())
    write_graph(tmp_path / "three.json", dml(3))
    cut = dataclasses.replace(independent(2), label_gates=(Gate.THROUGH, Gate.CUTOFF))
    write_graph(tmp_path / "cut.json", cut)
    study = make(storage, baselines=(), space=space)
    (mine,) = load_given((str(tmp_path / "mine.json"),), space)
    assert mine.name == "mine"
    study.give((mine,))
    assert take(study).graph == uniform(2, Design.ATTENTION_CLOSER)
    with pytest.raises(GraphError, match="three has 3 nodes, the study's graphs have 2: give another"):
        load_given((str(tmp_path / "three.json"),), space)
    with pytest.raises(GraphError, match="no edge teaches node 2, and the study rejects such graphs"):
        load_given((str(tmp_path / "cut.json"),), space)
    with pytest.raises(GraphError, match="has 3 nodes, the study's graphs have 2"):
        study.give((GivenGraph(graph=dml(3), name="three"),))
    assert [given.name for given in load_given(("independent", "dml"), SearchSpace(num_nodes=1))] == ["independent"]


def test_two_graphs_of_one_name_are_told_apart_and_one_of_two_names_keeps_the_first(storage: Storage) -> None:
    study = make(storage, baselines=(GivenGraph(graph=independent(2), name="mine"),))
    study.give((GivenGraph(graph=dml(2), name="mine"), GivenGraph(graph=independent(2), name="other")))
    assert [name for name, _, _ in given_of(storage)] == ["mine", f"mine ({graph_key(dml(2))})"]


def test_a_study_deleted_by_optuna_leaves_nothing_to_the_next_of_its_name(storage: Storage, storage_url: str) -> None:
    end(take(make(storage)), 50.0, 60.0, 70.0)
    optuna.delete_study(study_name="tiny", storage=storage_url)
    study = make(storage)
    assert [name for name, result, _ in given_of(storage) if result is None] == ["independent", "dml"]
    assert take(study).number == -1
    study.active_leases()
    assert scalar(storage, "SELECT count(*) FROM trials") == 1


def searched(storage: Storage, *values: float, baselines: tuple[GivenGraph, ...] = BASELINES) -> SharedStudy:
    """A study that does not prune, whose trials have come to these values; its baselines to 70 and 71."""
    study = make(storage, target=len(values), baselines=baselines, pruner="none")
    for value in (*(70.0, 71.0)[: len(baselines)], *values):
        end(take(study), 50.0, 60.0, value)
    return study


def test_lead_is_that_over_each_baseline_and_says_so_when_there_is_none(storage: Storage) -> None:
    searched(storage, 60.0, 70.5, 65.0)
    lead = status(storage).lead
    assert [(one.over, one.points, one.error, one.is_confirmed) for one in lead] == [
        ("independent", 0.5, None, False),
        ("dml", -0.5, None, False),
    ]
    assert lead_line(lead, "tiny", GOALS["ensemble"]) == (
        "the best graph is 0.50 points above independent and 0.50 points below dml: nothing is gained over dml; its "
        "value is the best of many, `kdhpc confirm --study tiny` trains it again"
    )
    assert lead_line((), "tiny", GOALS["ensemble"]) is None
    tie = [dataclasses.replace(lead[0], points=0.0, is_confirmed=True)]
    assert lead_line(tie, "tiny", GOALS["ensemble"]) == (
        "the best graph is as good as independent: nothing is gained over independent"
    )


def test_baseline_that_diverges_is_said_to_tell_nothing(storage: Storage) -> None:
    study = make(storage, target=1, pruner="none")
    first, second = take(study), take(study)
    first.diverge(2, "the loss of node 1 is nan")
    end(take(study), 50.0, 60.0, 71.0)
    assert status(storage).diverged_given == ("independent",)
    said = "independent diverged, so nothing is known of a lead over it"
    assert lead_line(status(storage).lead, "tiny", GOALS["ensemble"], diverged=("independent",)) == said
    end(second, 50.0, 60.0, 70.0)
    line = lead_line(status(storage).lead, "tiny", GOALS["ensemble"], diverged=status(storage).diverged_given)
    assert line.startswith("the best graph is 1.00 points above dml; ")
    assert line.endswith(f"; {said}")
    study.give(BASELINES[:1], num_seeds=2)
    assert status(storage).diverged_given == (), "another training of it is open"


def test_confirm_trains_the_best_again_and_ranks_by_the_mean(
    storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    study = searched(storage, 72.0, 74.0, 60.0, 73.0)
    study.confirm(top=2, num_seeds=2)
    assert not caplog.messages
    study.confirm(top=2, num_seeds=2)
    assert (status(storage).given_trials.waiting, status(storage).trials.unfinished) == (6, 0)
    assert [trial.number for trial in top_trials(storage, "tiny", 9)] == [1, 3, 0, 2], "nothing is confirmed yet"
    by_key = {graph_key(trial.graph): trial.number for trial in top_trials(storage, "tiny", 9)}
    values = {1: [69.0, 70.0], 3: [71.0, 73.0], None: [71.0, 72.0]}
    while (trial := study.lease(HERE, lease_s=60, renew_s=20)) is not None:
        assert trial.number < -2
        end(trial, 50.0, 60.0, values[by_key.get(graph_key(trial.graph))].pop(0))
    best, worse, *others = top_trials(storage, "tiny", 9)
    assert (best.number, best.value, best.confirmed) == (3, 73.0, Estimate(mean=72.0, error=1.0, seeds=2))
    assert (worse.number, worse.confirmed.mean) == (1, 69.5), "confirmed, so before those that only the search knows"
    assert [(trial.number, trial.confirmed) for trial in others] == [(0, None), (2, None)]
    told = status(storage)
    assert (told.best.number, told.best.value, told.best.confirmed.mean) == (3, 73.0, 72.0)
    assert told.lead[0].is_confirmed
    assert told.lead[0].error == pytest.approx((1.0 + 0.25) ** 0.5)
    assert told.unconfirmed is None
    study.confirm(top=2, num_seeds=3)
    assert status(storage).given_trials.waiting == 4, "the missing ones only"


def test_a_trial_that_is_better_in_the_search_than_what_was_confirmed_is_named(storage: Storage) -> None:
    study = searched(storage, 72.0, 71.0, baselines=())
    study.confirm(top=1, num_seeds=1)
    end(take(study), 50.0, 60.0, 70.0)
    assert status(storage).unconfirmed is None
    study.resize(3)
    end(take(study), 50.0, 60.0, 73.0)
    told = status(storage)
    assert (told.best.number, told.unconfirmed.number, told.unconfirmed.value) == (0, 2, 73.0)


def test_confirm_ranks_a_graph_that_diverges_last_and_waits_for_what_is_open(storage: Storage) -> None:
    study = searched(storage, 72.0, 74.0, baselines=())
    study.confirm(top=2, num_seeds=1)
    first, second = take(study), take(study)
    end(second, 50.0, 60.0, 40.0)
    assert [trial.number for trial in top_trials(storage, "tiny", 9)] == [0, 1]
    first.report(1, 50.0)
    first.diverge(2, "the loss of node 1 is nan")
    assert [(trial.number, trial.confirmed is None) for trial in top_trials(storage, "tiny", 9)] == [
        (0, False),
        (1, True),
    ]
    assert [(one.number, one.epoch) for one in status(storage).diverged] == [(first.number, 2)]


def test_a_baseline_that_the_search_has_drawn_is_trained_once_and_ranks_by_its_confirmation_alone(
    storage: Storage,
) -> None:
    drawn = SPACE.graph(0, 0)
    study = searched(storage, 80.0, 60.0, baselines=(GivenGraph(graph=drawn, name="drawn"),))
    assert top_trials(storage, "tiny", 1)[0].confirmed is None, "given to compare with, and not to be confirmed"
    study.confirm(top=1, num_seeds=2)
    assert status(storage).given_trials.waiting == 1
    end(take(study), 50.0, 60.0, 72.0)
    assert top_trials(storage, "tiny", 1)[0].confirmed == Estimate(mean=71.0, error=1.0, seeds=2)


def test_confirm_says_how_many_graphs_there_are_where_more_are_asked_for(
    storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    searched(storage, 72.0, 74.0, baselines=()).confirm(top=100, num_seeds=1)
    assert caplog.messages == ["only 2 graphs of study 'tiny' were trained to the end: all are confirmed"]
    assert status(storage).given_trials.waiting == 2


def test_confirm_without_a_complete_trial_is_an_error(storage: Storage) -> None:
    study = make(storage)
    with pytest.raises(StudyError, match="study 'tiny' has no complete trial yet: there is none to confirm"):
        study.confirm(top=3, num_seeds=3)
    assert status(storage).given_trials.waiting == 2


def test_worker_processes_share_given_trials_and_meet_the_budget(storage: Storage, start_worker) -> None:
    study = make(storage, target=6)
    study.give(BASELINES, num_seeds=3)
    workers = [start_worker("tiny", epoch_s=0.02) for _ in range(2)]
    time.sleep(1.0)
    workers[0].kill()
    study.expire(lease.owner for lease in study.active_leases() if lease.owner.pid == workers[0].process.pid)
    workers[1].rest()
    counts = status(storage)
    assert (counts.trials.finished, counts.given_trials.complete) == (6, 6)
