"""Where a running trial stands, and how fast it is: told with each renewal, at no further cost."""

from kdhpc.study.pace import Pace, PaceMeter
from kdhpc.study.status import WorkerStatus, read_status
from kdhpc.study.storage import Storage
from tests.study.made import HERE, make, scalar, take
from tests.study.test_statements import Statements
from tests.workspace import until


class Clock:
    """Goes on by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_pace_meter_counts_from_the_first_step_and_between_readings() -> None:
    clock = Clock()
    meter = PaceMeter(clock)
    assert meter.read() is None
    meter.step(1, 16)  # The first step, which may have compiled for minutes.
    clock.now += 1
    assert meter.read() == Pace(epoch=1, images_per_s=None)
    clock.now += 1
    meter.step(1, 116)
    assert meter.read() == Pace(epoch=1, images_per_s=50.0)
    for _ in range(10):
        clock.now += 1
        meter.step(2, 116 + 30)
    assert meter.read() == Pace(epoch=2, images_per_s=3.0)


def test_pace_meter_of_a_training_that_hangs_says_zero_after_a_while() -> None:
    clock = Clock()
    meter = PaceMeter(clock)
    meter.step(3, 16)
    meter.read()
    clock.now += 2
    meter.step(3, 32)
    assert meter.read() == Pace(epoch=3, images_per_s=8.0)
    clock.now += 5
    assert meter.read() == Pace(epoch=3, images_per_s=8.0), "asked again at once, as after a checkpoint"
    clock.now += 30
    assert meter.read() == Pace(epoch=3, images_per_s=0.0)
    clock.now += 5
    meter.step(3, 72)
    assert meter.read() == Pace(epoch=3, images_per_s=1.0)


def test_a_renewal_tells_the_pace_in_the_statement_that_it_makes_anyway(storage: Storage) -> None:
    study = make(storage)
    leased = study.lease(HERE, lease_s=60, renew_s=0.05)
    assert leased is not None
    first = _worker(storage)
    assert (first.epoch, first.images_per_s) == (None, None)
    leased.stepped(1, 16)
    leased.describe(mode="eager", data="disk")
    assert _worker(storage).epoch == 1
    renewed = "SELECT renewed FROM kdhpc_slots WHERE state = 'held'"
    before = scalar(storage, renewed)
    with Statements(of_all_threads=True) as statements:
        until(lambda: statements.count >= 3)
    assert scalar(storage, renewed) > before, "each was a renewal"
    leased.stepped(7, 1016)
    until(lambda: _worker(storage).epoch == 7)
    assert until(lambda: _worker(storage).images_per_s) > 0
    leased.release()
    again = take(study)
    assert again.number == leased.number
    assert (_worker(storage).epoch, _worker(storage).images_per_s) == (7, None), "another worker's speed is not known"
    again.release()


def _worker(storage: Storage) -> WorkerStatus:
    (worker,) = read_status(storage, "tiny").workers
    return worker
