import json
import multiprocessing
import threading
from collections.abc import Callable

import numpy as np
import optuna
import pytest
from sqlalchemy import text

from kdhpc.errors import DatabaseError, StudyError, StudyMismatchError, UnknownStudyError
from kdhpc.graph.space import SearchSpace, canonical, graph_key
from kdhpc.graph.spec import Design, Gate
from kdhpc.study.definition import StoredSplit
from kdhpc.study.status import study_names
from kdhpc.study.storage import Storage
from kdhpc.study.study import SharedStudy
from tests.databases import delete_order, drop_tables
from tests.study.made import EPOCHS, HERE, SPLIT, accuracy, definition, make, optuna_trials, scalar, take


def test_finished_trials_are_an_ordinary_optuna_study(storage: Storage, storage_url: str) -> None:
    study = make(storage, pruner="none", target=3)
    for _ in range(2):
        leased = take(study)
        for epoch in EPOCHS:
            assert leased.report(epoch, accuracy(leased.slot, epoch)) is False
        leased.complete(accuracy(leased.slot, 4))
    pruned = take(study)
    pruned.report(1, 31.0)
    pruned.report(2, 32.5)
    pruned.prune()
    assert study.progress().unfinished == 0

    opened = optuna.load_study(study_name="tiny", storage=storage_url)
    assert opened.direction is optuna.study.StudyDirection.MAXIMIZE
    assert [trial.number for trial in opened.trials] == [0, 1, 2]
    assert [trial.state.name for trial in opened.trials] == ["COMPLETE", "COMPLETE", "PRUNED"]
    assert opened.best_value == max(accuracy(0, 4), accuracy(1, 4))
    # As `study.optimize` leaves a pruned trial: its value is its last report.
    assert opened.trials[2].value == 32.5
    space = study.definition.space
    for trial in opened.trials:
        assert canonical(space.from_parameters(trial.params)) == space.graph(0, trial.number)
        assert trial.user_attrs["kdhpc"]["graph"] == graph_key(space.graph(0, trial.number))
        assert trial.user_attrs["kdhpc"]["slot"] == trial.number
        assert trial.user_attrs["kdhpc"]["owners"][0]["job"] == "17_3"
        assert trial.datetime_complete >= trial.datetime_start
    assert opened.trials[0].intermediate_values == {epoch: accuracy(0, epoch) for epoch in EPOCHS}
    for parameter in space.parameters():
        expected = optuna.distributions.CategoricalDistribution(parameter.choices)
        assert opened.trials[0].distributions[parameter.name] == expected
    frame = opened.trials_dataframe()
    assert frame["value"].tolist() == [accuracy(0, 4), accuracy(1, 4), 32.5]
    assert set(space.to_parameters(space.graph(0, 0))) == {
        column.removeprefix("params_") for column in frame.columns if column.startswith("params_")
    }
    opened.enqueue_trial({})
    # Optuna can go on with the study: what it asks for next fits what kdhpc wrote.
    asked = opened.ask()
    assert asked.suggest_categorical("label_1_gate", [gate.value for gate in Gate]) in list(Gate)


def test_finished_trials_have_parameters_whose_importance_optuna_can_tell(storage: Storage, storage_url: str) -> None:
    study = make(storage, pruner="none", target=12)
    while (leased := study.lease(HERE, lease_s=60, renew_s=20)) is not None:
        leased.complete(90.0 if leased.graph.label_gates[0] is Gate.LINEAR else 10.0)
    importances = optuna.importance.get_param_importances(optuna.load_study(study_name="tiny", storage=storage_url))
    assert max(importances, key=importances.__getitem__) == "label_1_gate"
    assert set(importances) == {parameter.name for parameter in study.definition.space.parameters()}


def test_leases_of_many_processes_meet_the_budget_exactly(
    storage: Storage, storage_url: str, start_worker: Callable[..., object]
) -> None:
    study = make(storage, target=60)
    told = [line for worker in [start_worker("tiny") for _ in range(8)] for line in worker.rest()]
    assert study.progress().unfinished == 0
    trials = optuna_trials(storage_url)
    assert sorted(trial.number for trial in trials) == list(range(60))
    assert {trial.state.name for trial in trials} == {"COMPLETE", "PRUNED"}
    assert sorted(line["slot"] for line in told if "slot" in line) == list(range(60))
    assert len({line["pid"] for line in told if "pid" in line}) > 1, "one worker did it all: nothing was contended for"
    keys = {trial.user_attrs["kdhpc"]["slot"]: trial.user_attrs["kdhpc"]["graph"] for trial in trials}
    space = study.definition.space
    assert keys == {slot: graph_key(space.graph(0, slot)) for slot in range(60)}


def _launch(target: int, together: "threading.Barrier", results: "multiprocessing.Queue[object]") -> None:
    try:
        storage = Storage.connect()
        together.wait()
        study = SharedStudy.create_or_open(storage, definition(), SPLIT, target=target)
        results.put(study.progress().target)
    except Exception as exc:
        results.put(f"{type(exc).__name__}: {exc}")


def test_create_by_launchers_at_once_makes_one_study(storage: Storage, storage_url: str) -> None:
    drop_tables(storage_url)
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    together = spawn.Barrier(2)
    launchers = [spawn.Process(target=_launch, args=(7, together, results)) for _ in range(2)]
    for launcher in launchers:
        launcher.start()
    outcomes = [results.get(timeout=60) for _ in launchers]
    for launcher in launchers:
        launcher.join()
    assert outcomes == [7] * 2
    assert scalar(storage, "SELECT count(*) FROM kdhpc_slots") == 7
    assert scalar(storage, "SELECT count(*) FROM studies") == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 1}, "seed was 0, is 1"),
        ({"space": SearchSpace(num_nodes=3)}, "space.num_nodes was 2, is 3"),
        (
            {"space": SearchSpace(num_nodes=2, designs=(Design.PROB_CLOSER,))},
            r'space.designs was \["prob\+", "prob-", .*"\], is \["prob\+"\]',
        ),
        ({"dataset_checksum": "ffff"}, 'dataset_checksum was "0123abcd", is "ffff"'),
        (
            {"settings": json.dumps({"training": {"epochs": 4, "batch_size": 32}})},
            "training.batch_size was 16, is 32",
        ),
    ],
)
def test_open_with_something_else_names_the_field_and_both_values(
    storage: Storage, changes: dict[str, object], said: str
) -> None:
    make(storage)
    with pytest.raises(StudyMismatchError, match=said) as caught:
        make(storage, target=9, **changes)
    assert "\n" not in str(caught.value)
    assert str(caught.value).count(" was ") == 1 + 1, "it names what differs and nothing else"
    assert scalar(storage, "SELECT count(*) FROM kdhpc_slots") == 4, "nothing was changed"


def test_open_with_another_split_names_the_half(storage: Storage) -> None:
    make(storage)
    other = StoredSplit(train=SPLIT.train, validation=np.arange(21, 41))
    with pytest.raises(StudyMismatchError, match=r"split.validation was 20 images \(\w+\), is 20 images"):
        SharedStudy.create_or_open(storage, definition(), other, target=4)


def test_open_gives_back_what_was_stored(storage: Storage) -> None:
    space = SearchSpace(num_nodes=3, gates=(Gate.LINEAR, Gate.CUTOFF), reject_unlearned=True)
    made = make(storage, space=space, seed=8)
    opened = SharedStudy.open(storage, "tiny")
    assert opened.definition == made.definition
    np.testing.assert_array_equal(opened.split.train, SPLIT.train)
    np.testing.assert_array_equal(opened.split.validation, SPLIT.validation)
    with pytest.raises(UnknownStudyError, match=r"'tinny': did you mean 'tiny'"):
        SharedStudy.open(storage, "tinny")


def test_open_in_a_new_database_says_that_there_is_none(storage: Storage, storage_url: str) -> None:
    drop_tables(storage_url)
    with pytest.raises(UnknownStudyError, match="unknown study 'tiny': there is none"):
        SharedStudy.open(storage, "tiny")


def test_open_in_a_database_of_another_version_says_so(storage: Storage, storage_url: str) -> None:
    make(storage)
    storage.write(lambda connection: connection.execute(text("COMMENT ON TABLE kdhpc_slots IS 'kdhpc tables 1'")))
    for use in (make, lambda storage: SharedStudy.open(storage, "tiny"), study_names):
        with pytest.raises(DatabaseError, match=r"another version .*\(kdhpc tables 1, this one needs"):
            use(storage)
    drop_tables(storage_url)


def test_target_raised_adds_slots_and_lowered_removes_only_unstarted_ones(storage: Storage) -> None:
    study = make(storage, target=3)
    take(study).complete(50.0)
    take(study).release()
    study.resize(6)
    assert study.progress().target == 6
    study.resize(2)
    assert study.progress().target == 2
    with pytest.raises(StudyError, match="cannot be lowered to 1 trial: 2 have started"):
        study.resize(1)
    counts = study.progress()
    assert (counts.target, counts.complete, counts.waiting) == (2, 1, 1)
    study.resize(4)
    assert [take(study).slot for _ in range(3)] == [1, 2, 3]


def test_target_is_not_lowered_below_a_slot_that_began_before_its_turn(storage: Storage) -> None:
    study = make(storage, target=4)
    locked = "SELECT 1 FROM kdhpc_slots WHERE slot < 2 FOR UPDATE"
    passed = storage.write(lambda c: (c.execute(text(locked)), take(study))[1])
    assert passed.number == 2
    for target in (1, 2):
        with pytest.raises(StudyError, match=f"cannot be lowered to {target} trial"):
            study.resize(target)
    study.resize(3)
    assert [take(study).number for _ in range(2)] == [0, 1]
    study.resize(4)
    assert take(study).number == 3


def test_target_of_a_study_that_exists_is_kept(storage: Storage) -> None:
    make(storage, target=3)
    for other in (1, 9):
        assert make(storage, target=other).progress().target == 3


def test_delete_leaves_nothing_of_the_study_and_all_of_the_others(storage: Storage, storage_url: str) -> None:
    kept, study = make(storage, name="kept"), make(storage)
    for each in (kept, study):
        leased = take(each)
        leased.report(1, 50.0)
        leased.complete(50.0)
        take(each).crash("broken")
    before = {table: scalar(storage, f"SELECT count(*) FROM {table}") for table in delete_order(storage_url)}
    assert study.num_begun() == 2
    study.delete()
    assert study_names(storage) == ("kept",)
    after = {table: scalar(storage, f"SELECT count(*) FROM {table}") for table in before}
    assert {table: 2 * count for table, count in after.items()} == before
    assert (kept.progress().complete, kept.progress().target) == (1, 4)
    # The name is free.
    assert make(storage, seed=1).num_begun() == 0


def test_delete_of_a_study_that_is_worked_on_is_refused(storage: Storage) -> None:
    study = make(storage)
    leased = take(study)
    with pytest.raises(StudyError, match=r"workers hold 1 of its trials; stop them \(kdhpc stop --study tiny"):
        study.delete()
    leased.release()
    study.delete()
    assert study_names(storage) == ()


def test_worker_of_a_study_that_was_deleted_gets_no_trial_and_is_told(storage: Storage) -> None:
    study = make(storage)
    make(storage, name="other").delete()
    study.delete()
    make(storage, seed=1)
    assert study.lease(HERE, lease_s=60, renew_s=20) is None
    assert study.progress().unfinished == 0
    with pytest.raises(UnknownStudyError, match="the study was deleted meanwhile"):
        study.is_draining()


def test_create_name_of_another_programs_study_is_refused(storage: Storage, storage_url: str) -> None:
    foreign = optuna.create_study(study_name="tiny", storage=storage_url, direction="maximize")
    foreign.ask()
    with pytest.raises(StudyError, match="'tiny' exists in this database and is not kdhpc's"):
        make(storage)
    optuna.create_study(study_name="minimised", storage=storage_url, direction="minimize")
    with pytest.raises(StudyError, match="'minimised' exists, and Optuna does not maximise"):
        make(storage, name="minimised")


def test_tpe_learns_from_finished_trials_and_survives_a_crash_before_its_choice(
    storage: Storage, storage_url: str
) -> None:
    study = make(
        storage, sampler="tpe", pruner="none", target=30, space=SearchSpace(num_nodes=2, reject_unlearned=True)
    )
    hits = []
    while (leased := study.lease(HERE, lease_s=60, renew_s=20)) is not None:
        good = leased.graph.label_gates[0] is Gate.LINEAR
        hits.append(good)
        assert not leased.graph.unlearned_nodes
        leased.complete(90.0 if good else 10.0)
    assert sum(hits) >= 15, "a quarter of 30 would be chance"
    # A worker killed between its lease and TPE's choice leaves a trial without parameters.
    storage.write(
        lambda c: c.execute(
            text("DELETE FROM trial_params WHERE trial_id = (SELECT trial_id FROM kdhpc_slots WHERE slot = 7)")
        )
    )
    storage.write(lambda c: c.execute(text("UPDATE kdhpc_slots SET state = 'free' WHERE slot = 7")))
    again = take(study)
    assert again.slot == 7
    assert optuna_trials(storage_url)[7].params == study.definition.space.to_parameters(again.graph)
