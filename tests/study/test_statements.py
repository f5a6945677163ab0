"""What a worker asks of the server: few statements, and no more of them in a large study."""

import threading

from sqlalchemy import event
from sqlalchemy.engine import Engine

from kdhpc.study.storage import Storage
from tests.study.made import EPOCHS, accuracy, make, take


class Statements:
    """Counts this thread's while entered, or those of all threads; pings and COMMIT are not among them."""

    def __init__(self, *, of_all_threads=False):
        self._of_all_threads = of_all_threads

    def __enter__(self):
        self.count, self._thread = 0, threading.get_ident()
        event.listen(Engine, "before_cursor_execute", self._one_more)
        return self

    def __exit__(self, *error):
        event.remove(Engine, "before_cursor_execute", self._one_more)

    def _one_more(self, *arguments):
        self.count += self._of_all_threads or threading.get_ident() == self._thread


def cost_of_a_trial(study):
    """Statements of allocation, description, each report with its decision, and end."""
    counts = []
    with Statements() as statements:
        leased = take(study)
        counts.append(statements.count)
        leased.describe(mode="eager", data="disk")
        counts.append(statements.count)
        for epoch in EPOCHS[:-1]:
            leased.report(epoch, 100.0)
            counts.append(statements.count)
        leased.complete(100.0)
        counts.append(statements.count)
    return [after - before for before, after in zip([0, *counts], counts, strict=False)]


def test_statements_of_a_trial_are_few_and_the_same_in_a_large_study(storage: Storage) -> None:
    study = make(storage, target=200)
    first = cost_of_a_trial(study)
    allocated, described, *reports, ended = first
    assert allocated <= 3
    assert max(reports) <= 1
    assert described + ended <= 4
    running = [take(study) for _ in range(30)]
    for _ in range(100):
        leased = take(study)
        for epoch in EPOCHS[:2]:
            leased.report(epoch, accuracy(leased.slot, epoch))
        leased.prune()
    assert cost_of_a_trial(study) == first
    for leased in running:
        leased.release()
