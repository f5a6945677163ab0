import pytest
import torch

from kdhpc.config.compose import compose_search
from kdhpc.errors import ConfigError
from kdhpc.searching.concurrency import Concurrency, concurrency_on

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def settled(speeds, *, rooms=(), number="auto"):
    """The trials at once that a device with these speeds, in steps a second by number of trials, ends with."""
    now, room = 0.0, iter(rooms)
    concurrency = Concurrency(number, CUDA, has_room=lambda: next(room, True), wait=lambda: None, clock=lambda: now)
    for _ in range(3000):
        now += concurrency.num_trials / speeds[concurrency.num_trials]
        concurrency.note_round(concurrency.num_trials, only_steps=True)
    return concurrency.num_trials


@pytest.mark.parametrize(
    ("speeds", "expected"),
    [
        ({1: 1000, 2: 1050}, 1),
        ({1: 1000, 2: 1900, 4: 2000}, 2),
        ({1: 1000, 2: 2000, 4: 4000, 8: 4100}, 4),
        ({1: 1000, 2: 2000, 4: 4000, 8: 8000}, 8),
        ({1: 1000, 2: 300}, 1),
    ],
)
def test_concurrency_auto_doubles_while_it_pays(speeds, expected):
    assert settled(speeds) == expected


def test_concurrency_auto_ends_where_memory_does():
    assert settled({1: 1000, 2: 2000, 4: 4000, 8: 8000}, rooms=[True, False]) == 2


def test_concurrency_number_is_kept():
    assert settled({3: 1.0}, number=3) == 3


def test_concurrency_auto_on_a_cpu_is_one():
    concurrency = Concurrency("auto", CPU, has_room=lambda: True, wait=lambda: None)
    assert (concurrency.most, concurrency.num_trials) == (1, 1)


def test_concurrency_does_not_count_rounds_in_which_a_runner_is_free():
    now = 0.0
    concurrency = Concurrency("auto", CUDA, has_room=lambda: True, wait=lambda: None, clock=lambda: now)
    for number in range(3000):
        now += 1.0
        concurrency.note_round(number % 20 and 1, only_steps=True)
    assert concurrency.num_trials == 1


def settled_between_epochs(speeds, *, epoch_steps=312, epoch_end_s=5.0, rounds=20_000):
    """As `settled`, of trials that take turns with ends of epochs in between, each at its own time."""
    now = 0.0
    concurrency = Concurrency("auto", CUDA, has_room=lambda: True, wait=lambda: None, clock=lambda: now)
    steps = [trial * epoch_steps // 8 for trial in range(8)]
    for _ in range(rounds):
        filled = concurrency.num_trials
        now += filled / speeds[filled]
        only_steps = True
        for trial in range(filled):
            steps[trial] += 1
            if steps[trial] % epoch_steps == 0:
                now += epoch_end_s
                only_steps = False
        concurrency.note_round(filled, only_steps=only_steps)
    return concurrency.num_trials


@pytest.mark.parametrize(("speed_of_8", "expected"), [(8000, 8), (4100, 4)])
def test_concurrency_ends_of_epochs_are_not_timed(speed_of_8, expected):
    assert settled_between_epochs({1: 1000, 2: 2000, 4: 4000, 8: speed_of_8}) == expected


def doubled(num_trials):
    """One that explores and has come so far."""
    concurrency = Concurrency("auto", CUDA, has_room=lambda: True, wait=lambda: None, clock=iter(range(10**6)).__next__)
    while concurrency.num_trials < num_trials:
        concurrency._rate = None
        concurrency.note_round(concurrency.num_trials, only_steps=True)
    return concurrency


def test_concurrency_too_many_for_the_memory_are_taken_back_for_good():
    concurrency = doubled(2)
    concurrency.retreat(num_left=1)
    for _ in range(1000):
        concurrency.note_round(1, only_steps=True)
    assert concurrency.num_trials == 1


def test_concurrency_surplus_that_finds_no_memory_lowers_the_number_no_further():
    concurrency = doubled(4)
    for num_left, number in ((3, 2), (2, 2), (1, 1), (0, 1)):
        concurrency.retreat(num_left)
        assert concurrency.num_trials == number


@pytest.mark.parametrize(("number", "num_busy", "expected"), [("auto", 2, True), ("auto", 1, False), (4, 4, False)])
def test_concurrency_may_be_too_many_only_where_it_chose_the_number(number, num_busy, expected):
    concurrency = Concurrency(number, CUDA, has_room=lambda: True, wait=lambda: None)
    assert concurrency.may_be_too_many(num_busy) is expected


def test_concurrency_streams_that_several_would_share_are_refused():
    config = compose_search(["study=cifar100_5", "worker.concurrent_trials=6", "device.node_streams=true"])
    with pytest.raises(ConfigError, match=r"worker.concurrent_trials=6 is not allowed: at most 4"):
        concurrency_on(config, CUDA)
