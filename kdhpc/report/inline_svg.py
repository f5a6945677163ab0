"""A drawing that Matplotlib has written as a file, as a part of a page: without anything that is looked for elsewhere.

Its identifiers become the figure's own, as several figures stand on one page; its colours become the theme's variables.
"""

import re
import xml.etree.ElementTree as ElementTree

from kdhpc.report.theme import THEME

_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_NEVER_SHOWN = frozenset({"metadata", "title", "desc"})


def inline_svg(drawing: str, name: str, *, alt: str, themed: bool) -> str:
    """The drawing as an ``<svg>`` element for HTML.

    Args:
        drawing: The file's text.
        name: Of the figure, unique on its page: letters, digits and hyphens.
        alt: What it shows, for those who cannot see it.
        themed: Replace the theme's colours by its variables, and leave the background out. Else it stays as it is.
    """
    root = ElementTree.fromstring(drawing)
    _clean(root, name, themed=themed)
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    root.set("role", "img")
    root.set("aria-label", alt)
    return ElementTree.tostring(root, encoding="unicode")


def _clean(element: ElementTree.Element, name: str, *, themed: bool) -> None:
    element.tag = element.tag.removeprefix(_SVG)
    for key, value in list(element.attrib.items()):
        del element.attrib[key]
        plain = key.removeprefix(_XLINK)
        if plain == "id":
            value = f"{name}-{value}"
        elif plain == "href" and value.startswith("#"):
            value = f"#{name}-{value[1:]}"
        else:
            value = _REFERENCE.sub(rf"url(#{name}-\1)", value)
        element.set(plain, value)
    if themed:
        _colour(element)
    for part in list(element):
        if part.tag.removeprefix(_SVG) in _NEVER_SHOWN:
            element.remove(part)
        else:
            _clean(part, name, themed=themed)


def _colour(element: ElementTree.Element) -> None:
    """Give it the theme's variables, which belong into its style."""
    declared = [f"{key}: {element.attrib.pop(key)}" for key in ("fill", "stroke") if key in element.attrib]
    style = "; ".join([*declared, *filter(None, [element.get("style")])])
    for name, colour in THEME.items():
        style = style.replace(colour.light, f"var(--{name})")
    if style:
        element.set("style", style)
