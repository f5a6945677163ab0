"""All studies of a database at a glance."""

import dataclasses
import time

from kdhpc.study.status import read_status
from kdhpc.study.storage import Storage
from kdhpc.study.study import SharedStudy
from kdhpc.study.study_list import is_at_rest, read_studies
from tests.study.made import make, scalar, take
from tests.study.test_statements import Statements


def train(study: SharedStudy, *values: float) -> None:
    for value in values:
        take(study).report_rung(4, value)


def test_studies_of_an_empty_database_are_none(storage: Storage) -> None:
    assert read_studies(storage) == ()


def test_studies_tell_how_far_each_is(storage: Storage) -> None:
    train(make(storage, name="done", target=2), 50.0, 60.0)
    nll = make(storage, name="nll", target=4, goal="nll", network="resnet8+resnet20", max_attempts=1)
    train(nll, 0.9, 0.7)
    take(nll).crash("RuntimeError: broken")
    running = take(make(storage, name="running", target=3))
    stopped = make(storage, name="stopped", target=1)
    stopped.drain()
    make(storage, name="waiting", target=5)
    spent = make(storage, name="without hours", target=2)
    train(spent, 50.0)
    spent.allow_hours(1e-9)
    found = {study.study: study for study in read_studies(storage)}
    assert list(found) == sorted(found)
    assert {name: (study.state, study.finished, study.target) for name, study in found.items()} == {
        "done": ("done", 2, 2),
        "nll": ("waiting", 3, 4),
        "running": ("running", 0, 3),
        "stopped": ("stopped", 0, 1),
        "waiting": ("waiting", 0, 5),
        "without hours": ("out of hours", 1, 2),
    }
    assert {name: study.best for name, study in found.items()} == {
        name: read_status(storage, name).best for name in found
    }
    assert dataclasses.asdict(found["nll"])["best"] == {"number": 1, "value": 0.7, "confirmed": None}
    assert (found["nll"].goal, found["nll"].network, found["nll"].failed) == ("nll", "resnet8+resnet20", 1)
    assert (found["done"].dataset, found["done"].num_nodes) == ("fashion_mnist", 2)
    assert found["done"].created <= found["done"].last_activity <= time.time() + 60
    assert {name: is_at_rest(storage, name) for name in found} == {
        "done": True,
        "nll": False,
        "running": False,
        "stopped": True,
        "waiting": False,
        "without hours": True,
    }
    running.release()


def test_best_trial_is_the_confirmed_one_as_status_has_it(storage: Storage) -> None:
    for name, confirmed in (("first", 61.0), ("second", 71.0)):
        study = make(storage, name=name, target=3)
        train(study, 50.0, 90.0, 60.0)
        study.confirm(top=1, num_seeds=2)
        train(study, confirmed, confirmed + 2)
        (entry,) = (entry for entry in read_studies(storage) if entry.study == name)
        assert entry.best == read_status(storage, name).best
        assert entry.best.confirmed.mean == confirmed + 1
        assert (entry.state, entry.given_finished, entry.given) == ("done", 2, 2)


def test_studies_take_as_many_statements_however_many_there_are(storage: Storage) -> None:
    def cost() -> int:
        with Statements() as statements:
            read_studies(storage)
        return statements.count

    train(make(storage, name="one"), 50.0)
    alone = cost()
    for index in range(5):
        train(make(storage, name=f"other{index}"), 50.0, 60.0)
    assert cost() == alone <= 6


def test_study_of_a_newer_kdhpc_is_listed(storage: Storage) -> None:
    make(storage, name="newer", target=1)
    assert scalar(storage, "SELECT count(*) FROM kdhpc_studies") == 1
    storage.write(
        lambda connection: connection.exec_driver_sql("""
            UPDATE kdhpc_studies SET definition = CAST(
                CAST(definition AS jsonb) || '{"version": 9, "goal": "speed", "plugins": {"no_such_module": "0"}}'
                AS text)
        """)
    )
    (entry,) = read_studies(storage)
    assert (entry.goal, entry.best, entry.state) == ("speed", None, "waiting")
