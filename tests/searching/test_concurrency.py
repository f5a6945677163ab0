import pytest
import torch

from kdhpc.config.compose import compose_search
from kdhpc.errors import ConfigError
from kdhpc.searching.concurrency import Seating, seating_on

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def settled(speeds, *, rooms=(), seats="auto"):
    """The seats that a device with these speeds, in steps a second by number of seats, ends with."""
    now, room = 0.0, iter(rooms)
    seating = Seating(seats, CUDA, has_room=lambda: next(room, True), wait=lambda: None, clock=lambda: now)
    for _ in range(3000):
        now += seating.num_filled / speeds[seating.num_filled]
        seating.note_round(seating.num_filled, only_steps=True)
    return seating.num_filled


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
def test_seating_auto_doubles_while_it_pays(speeds, expected):
    assert settled(speeds) == expected


def test_seating_auto_ends_where_memory_does():
    assert settled({1: 1000, 2: 2000, 4: 4000, 8: 8000}, rooms=[True, False]) == 2


def test_seating_number_is_kept():
    assert settled({3: 1.0}, seats=3) == 3


def test_seating_auto_on_a_cpu_is_one():
    seating = Seating("auto", CPU, has_room=lambda: True, wait=lambda: None)
    assert (seating.most, seating.num_filled) == (1, 1)


def test_seating_does_not_count_rounds_in_which_a_seat_is_empty():
    now = 0.0
    seating = Seating("auto", CUDA, has_room=lambda: True, wait=lambda: None, clock=lambda: now)
    for number in range(3000):
        now += 1.0
        seating.note_round(number % 20 and 1, only_steps=True)
    assert seating.num_filled == 1


def settled_between_epochs(speeds, *, epoch_steps=312, epoch_end_s=5.0, rounds=20_000):
    """As `settled`, of seats that take turns with ends of epochs in between, each at its own time."""
    now = 0.0
    seating = Seating("auto", CUDA, has_room=lambda: True, wait=lambda: None, clock=lambda: now)
    steps = [seat * epoch_steps // 8 for seat in range(8)]
    for _ in range(rounds):
        filled = seating.num_filled
        now += filled / speeds[filled]
        only_steps = True
        for seat in range(filled):
            steps[seat] += 1
            if steps[seat] % epoch_steps == 0:
                now += epoch_end_s
                only_steps = False
        seating.note_round(filled, only_steps=only_steps)
    return seating.num_filled


@pytest.mark.parametrize(("speed_of_8", "expected"), [(8000, 8), (4100, 4)])
def test_seating_ends_of_epochs_are_not_timed(speed_of_8, expected):
    assert settled_between_epochs({1: 1000, 2: 2000, 4: 4000, 8: speed_of_8}) == expected


def doubled(num_filled):
    """One that explores and has come so far."""
    seating = Seating("auto", CUDA, has_room=lambda: True, wait=lambda: None, clock=iter(range(10**6)).__next__)
    while seating.num_filled < num_filled:
        seating._rate = None
        seating.note_round(seating.num_filled, only_steps=True)
    return seating


def test_seating_too_many_for_the_memory_are_taken_back_for_good():
    seating = doubled(2)
    seating.retreat(num_left=1)
    for _ in range(1000):
        seating.note_round(1, only_steps=True)
    assert seating.num_filled == 1


def test_seating_surplus_that_finds_no_memory_lowers_the_number_no_further():
    seating = doubled(4)
    for num_left, number in ((3, 2), (2, 2), (1, 1), (0, 1)):
        seating.retreat(num_left)
        assert seating.num_filled == number


@pytest.mark.parametrize(("seats", "num_busy", "expected"), [("auto", 2, True), ("auto", 1, False), (4, 4, False)])
def test_seating_may_be_too_many_only_where_it_chose_the_number(seats, num_busy, expected):
    seating = Seating(seats, CUDA, has_room=lambda: True, wait=lambda: None)
    assert seating.may_be_too_many(num_busy) is expected


def test_seating_streams_that_several_would_share_are_refused():
    config = compose_search(["study=cifar100_5", "worker.seats=6", "device.node_streams=true"])
    with pytest.raises(ConfigError, match=r"worker.seats=6 is not allowed: at most 4"):
        seating_on(config, CUDA)
