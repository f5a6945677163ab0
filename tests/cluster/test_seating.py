import pytest
import torch

from kdhpc.cluster.seating import Seating

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def settled(speeds, *, rooms=(), seats="auto"):
    """The seats that a device with these speeds, in steps a second by number of seats, ends with."""
    now, room = 0.0, iter(rooms)
    seating = Seating(seats, CUDA, has_room=lambda: next(room, True), wait=lambda: None, clock=lambda: now)
    for _ in range(3000):
        now += seating.num_filled / speeds[seating.num_filled]
        seating.note_round(seating.num_filled)
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
        seating.note_round(number % 100 and 1)
    assert seating.num_filled == 1
