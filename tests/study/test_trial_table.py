"""All trials of a study, with their states."""

import time
from collections import Counter

import pytest

from kdhpc.errors import UnknownStudyError
from kdhpc.study.status import read_status, top_trials
from kdhpc.study.storage import Storage
from kdhpc.study.trial_table import read_trials
from tests.study.made import HERE, make


def test_read_trials_are_all_that_were_begun_with_their_states(storage: Storage) -> None:
    study = make(storage, target=9, max_attempts=1, pruner="none")

    def lease(lease_s: float = 60.0):
        return study.lease(HERE, lease_s=lease_s, renew_s=60)

    for values in ((50.0, 70.0), (60.0, 90.0)):
        complete = lease()
        for epoch, value in zip((1, 4), values, strict=True):
            complete.report(epoch, value)
        complete.complete(values[-1])
    pruned = lease()
    pruned.report(2, 99.0)
    pruned.prune()
    lease().diverge(3, "a loss is not finite")
    lease().crash("out of memory")
    running = lease()
    running.report(1, 56.0)
    lease(0.05)
    time.sleep(0.2)

    rows = read_trials(storage, "tiny")
    assert [(row.number, row.state, row.value, row.last_epoch, row.last_value, row.reason) for row in rows] == [
        (0, "complete", 70.0, 4, 70.0, None),
        (1, "complete", 90.0, 4, 90.0, None),
        (2, "pruned", None, 2, 99.0, None),
        (3, "diverged", None, None, None, "a loss is not finite"),
        (4, "failed", None, None, None, "out of memory"),
        (5, "running", None, 1, 56.0, None),
        (6, "waiting", None, None, None, None),
    ]
    assert [row.graph for row in rows] == [study.definition.space.graph(0, slot) for slot in range(7)]
    assert rows[1].worked_s == top_trials(storage, "tiny", 1)[0].worked_s > 0
    # Of those that status counts, only slots that no worker has taken are left out.
    counts, states = read_status(storage, "tiny").trials, Counter(row.state for row in rows)
    assert {state: getattr(counts, state) for state in states} == states | {"waiting": 3}
    running.release()
    with pytest.raises(UnknownStudyError, match="did you mean 'tiny'"):
        read_trials(storage, "tinny")
