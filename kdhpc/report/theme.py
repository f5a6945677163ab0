"""Colours of a report's page and of the figures in it, by day and by night. Free of Matplotlib.

Figures are drawn in the colours of the day. On the page, each of these stands for a variable of the style sheet.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Colour:
    """A colour of the theme."""

    light: str
    """On a light page, and in files: ``#rrggbb``, of this colour alone."""
    dark: str
    """On a dark page."""


THEME: Mapping[str, Colour] = {
    "paper": Colour(light="#ffffff", dark="#15191e"),
    "ink": Colour(light="#1f2328", dark="#e8ecf0"),
    "muted": Colour(light="#57606a", dark="#a9b4bf"),
    "grid": Colour(light="#dde1e6", dark="#343c45"),
    "blue": Colour(light="#0072b2", dark="#56b4e9"),
    "orange": Colour(light="#d55e00", dark="#ff8f45"),
    "green": Colour(light="#009e73", dark="#2fcf9f"),
    "pink": Colour(light="#b5548b", dark="#e39cc4"),
    "amber": Colour(light="#b07a00", dark="#f0b840"),
    "sky": Colour(light="#5aaed9", dark="#8ecbee"),
    "grey": Colour(light="#8a929b", dark="#939da8"),
}
"""By name. The bright ones are after Okabe and Ito's, which colour-blind people tell apart; marks and lines that mean
different things also have different shapes, so that no colour has to be told from another."""


def light(name: str) -> str:
    """What figures are drawn in."""
    return THEME[name].light
