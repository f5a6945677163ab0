import pytest

from kdhpc.graph.curves import Box, Curve

CURVE = Curve(start=0j, leave=30 + 40j, arrive=70 + 40j, end=100 + 0j)


def test_curve_outside_two_circles_begins_and_ends_on_their_rims() -> None:
    part = CURVE.outside(10, 20)
    assert abs(part.start - CURVE.start) == pytest.approx(10, abs=1e-6)
    assert abs(part.end - CURVE.end) == pytest.approx(20, abs=1e-6)


def test_curve_until_is_the_first_part_of_the_same_curve() -> None:
    part = CURVE.until(0.4)
    assert part.at(0.5) == pytest.approx(CURVE.at(0.2))
    assert part.at(1) == pytest.approx(CURVE.at(0.4))


def test_box_overlap_is_the_area_that_both_cover() -> None:
    box = Box(center=0j, width=10, height=4)
    assert box.overlap(Box(center=8 + 2j, width=10, height=4)) == 2 * 2
    assert box.overlap(Box(center=8 + 5j, width=10, height=4)) == 0


def test_box_distance_is_to_the_nearest_point() -> None:
    box = Box(center=0j, width=10, height=4)
    assert box.distance(1 + 1j) == 0
    assert box.distance(8 + 6j) == 5
