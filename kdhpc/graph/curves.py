"""Curves and boxes of a drawing. Points are complex numbers x + iy, y upwards, in typographic points (1/72 inch)."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A cubic Bezier curve."""

    start: complex
    """Where it begins."""
    leave: complex
    """Control point next to the start."""
    arrive: complex
    """Control point next to the end."""
    end: complex
    """Where it ends."""

    def at(self, t: float) -> complex:
        """The point at t, 0 (start) to 1 (end)."""
        s = 1 - t
        return s**3 * self.start + 3 * s**2 * t * self.leave + 3 * s * t**2 * self.arrive + t**3 * self.end

    def until(self, t: float) -> "Curve":
        """The part before t, by de Casteljau's construction."""
        a, b, c = (_mix(self.start, self.leave, t), _mix(self.leave, self.arrive, t), _mix(self.arrive, self.end, t))
        d, e = _mix(a, b, t), _mix(b, c, t)
        return Curve(start=self.start, leave=a, arrive=d, end=_mix(d, e, t))

    def reversed(self) -> "Curve":
        """The same curve from its end."""
        return Curve(start=self.end, leave=self.arrive, arrive=self.leave, end=self.start)

    def outside(self, start_radius: float, end_radius: float) -> "Curve":
        """The part that is outside of the circles around its two ends."""
        without_end = self._until_circle(end_radius)
        return without_end.reversed()._until_circle(start_radius, center=self.start).reversed()

    def _until_circle(self, radius: float, center: complex | None = None) -> "Curve":
        """The part before it enters the circle around its end for good, by bisection."""
        middle = self.end if center is None else center
        outside, inside = 0.5, 1.0
        for _ in range(40):
            t = (outside + inside) / 2
            outside, inside = (outside, t) if abs(self.at(t) - middle) < radius else (t, inside)
        return self.until(outside)


@dataclass(frozen=True, kw_only=True)
class Box:
    """An upright rectangle."""

    center: complex
    """Its middle."""
    width: float
    """Its size along x."""
    height: float
    """Its size along y."""

    @property
    def corners(self) -> tuple[complex, complex]:
        """Lower left and upper right."""
        half = complex(self.width, self.height) / 2
        return self.center - half, self.center + half

    def overlap(self, other: "Box") -> float:
        """Area that both cover."""
        apart = self.center - other.center
        x = (self.width + other.width) / 2 - abs(apart.real)
        y = (self.height + other.height) / 2 - abs(apart.imag)
        return max(x, 0.0) * max(y, 0.0)

    def distance(self, point: complex) -> float:
        """From a point to the nearest point of the box, 0 inside."""
        apart = point - self.center
        return abs(complex(max(abs(apart.real) - self.width / 2, 0), max(abs(apart.imag) - self.height / 2, 0)))


def _mix(a: complex, b: complex, t: float) -> complex:
    return a + (b - a) * t
