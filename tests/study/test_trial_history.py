"""What became of a trial: its curve beside the others', why it ended, who worked on it."""

import time

import pytest

from kdhpc.errors import StudyError, UnknownStudyError
from kdhpc.graph.presets import load_graph
from kdhpc.study.attempts import read_workers
from kdhpc.study.given import GivenGraph
from kdhpc.study.owner import Owner
from kdhpc.study.storage import Storage
from kdhpc.study.trial_history import Place, read_course, read_history
from tests.study.made import make, scalar, take


def history(storage: Storage, number: int):
    return read_history(storage, "tiny", number).history


def test_curve_stands_beside_the_medians_of_the_others(storage: Storage) -> None:
    study = make(storage, target=5, max_attempts=1)
    for values in ((50.0, 60.0, 70.0), (52.0, 62.0, 90.0)):
        trial = take(study)
        for epoch, value in zip((1, 2, 4), values, strict=True):
            trial.report_rung(epoch, value)
    pruned = take(study)
    assert pruned.report_rung(1, 51.0) is None
    assert pruned.report_rung(2, 31.0) is not None
    failed = take(study)
    failed.report(1, 99.0)
    failed.crash("RuntimeError: broken")
    known = history(storage, 2)
    assert (known.state, known.pruned_at, known.pruner, known.value) == ("pruned", 2, "median", None)
    assert [(p.epoch, p.value, p.median, p.others) for p in known.curve] == [(1, 51.0, 51.0, 2), (2, 31.0, 61.0, 2)]
    assert known.graph == study.definition.space.graph(0, 2)
    assert [attempt.how for attempt in known.attempts] == ["pruned"]
    first = history(storage, 0)
    assert (first.state, first.value, first.place) == ("complete", 70.0, Place(place=2, of=2))
    assert history(storage, 1).place == Place(place=1, of=2)


def test_attempts_tell_who_worked_when_and_how_it_ended(storage: Storage) -> None:
    study = make(storage, target=1, max_attempts=9)
    owners = [Owner.current(job=job) for job in ("17_0", "17_1", "17_2", "17_3", "17_4")]
    take(study, owners[0]).release()
    crashed = take(study, owners[1])
    crashed.crash("RuntimeError: out of luck (on node7)")
    take(study, owners[2])
    assert study.expire([owners[2]]) == 1
    study.lease(owners[3], lease_s=0.05, renew_s=60)
    time.sleep(0.2)
    taken_over = take(study, owners[4])
    found = history(storage, 0)
    assert [(attempt.job, attempt.how, attempt.reason) for attempt in found.attempts] == [
        ("17_0", "given back", None),
        ("17_1", "crashed", "RuntimeError: out of luck (on node7)"),
        ("17_2", "vanished", None),
        ("17_3", "vanished", None),
        ("17_4", "running", None),
    ]
    assert (found.state, found.epoch, found.reason) == ("running", None, "RuntimeError: out of luck (on node7)")
    began = [attempt.began for attempt in found.attempts]
    assert began == sorted(began)
    assert float(scalar(storage, "SELECT extract(epoch FROM claimed) FROM kdhpc_slots")) == began[-1]
    ended = [attempt.ended for attempt in found.attempts]
    assert [moment is None for moment in ended] == [False, False, False, True, True]
    taken_over.report_rung(4, 50.0)
    assert history(storage, 0).attempts[-1].how == "complete"
    course = read_course(storage, "tiny", 0)
    assert (course.has_ended, course.attempts) == (True, history(storage, 0).attempts)
    assert [(worker.job, worker.trials) for worker in read_workers(storage, "tiny")] == [
        (owner.job, (0,)) for owner in owners
    ]


def test_attempts_before_a_retry_keep_their_reason(storage: Storage) -> None:
    study = make(storage, target=1, max_attempts=1)
    take(study).crash("RuntimeError: first")
    assert history(storage, 0).attempts[-1].how == "failed"
    study.retry()
    assert (history(storage, 0).state, history(storage, 0).reason) == ("waiting", None)
    take(study).release()
    ends = [(attempt.how, attempt.reason) for attempt in history(storage, 0).attempts]
    assert ends == [("failed", "RuntimeError: first"), ("given back", None)]


def test_attempts_that_an_earlier_version_wrote_are_told_as_far_as_they_are_known(storage: Storage) -> None:
    study = make(storage, target=1)
    take(study, Owner.current(job="17_0")).release()
    running = take(study, Owner.current(job="17_1"))
    storage.write(
        lambda connection: connection.exec_driver_sql("""
            UPDATE trial_user_attributes SET value_json = CAST(jsonb_set(
                CAST(value_json AS jsonb) #- '{owners,0,token}' #- '{owners,0,began}'
                    #- '{owners,1,token}' #- '{owners,1,began}' #- '{leases,0,3}' #- '{leases,0,3}',
                '{slot}', '0') AS text)
        """)
    )
    attempts = history(storage, 0).attempts
    assert [(attempt.job, attempt.how, attempt.began is None) for attempt in attempts] == [
        ("17_0", None, True),
        ("17_1", "running", False),
    ]
    running.release()


def test_given_trial_is_compared_with_the_trials_of_the_budget(storage: Storage) -> None:
    study = make(storage, target=2)
    study.give([GivenGraph(graph=load_graph("dml", 2), name="dml")])
    given = take(study)
    assert given.number == -1
    take(study).report(1, 40.0)
    given.report(1, 50.0)
    found = history(storage, -1)
    assert (found.name, found.repetition, found.pruner, found.graph) == ("dml", 1, "none", given.graph)
    assert [(point.value, point.median, point.others) for point in found.curve] == [(50.0, 40.0, 1)]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (1, "trial 1 is not begun yet, so there is nothing to tell: study 'tiny' has trials 0 to 3, and 1 begun"),
        (9, "trial 9 is not there: study 'tiny' has trials 0 to 3, and 1 begun"),
        (-1, "given trial 1 is not there: study 'tiny' was given no graphs"),
    ],
)
def test_trial_that_is_not_there_is_refused_with_what_is(storage: Storage, number: int, said: str) -> None:
    take(make(storage, target=4)).release()
    with pytest.raises(StudyError) as error:
        read_history(storage, "tiny", number)
    assert str(error.value) == said
    with pytest.raises(UnknownStudyError, match="did you mean 'tiny'"):
        read_history(storage, "tinny", 0)
