"""The page of a search's report in a real browser: at two widths, by day and by night, without a network."""

from pathlib import Path

from kdhpc.report.search_report import report_search
from kdhpc.study.given import load_given
from kdhpc.study.storage import Storage
from tests.browser import browser, found_browser
from tests.report.made_search import make_search

_WIDER_THAN_THE_WINDOW = """
    Array.from(document.querySelectorAll("body *"))
        .filter(one => one.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
        .map(one => one.outerHTML.slice(0, 100))
"""
# The contrast of each text with what is behind it, after the Web Content Accessibility Guidelines.
_FAINT_TEXTS = """
    (() => {
        const part = value => (value /= 255) <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
        const light = colour => { const [r, g, b] = colour.match(/[0-9.]+/g).map(Number);
            return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b); };
        const page = getComputedStyle(document.body).backgroundColor;
        const contrast = colour => { const [a, b] = [light(colour), light(page)].sort((x, y) => y - x);
            return (a + 0.05) / (b + 0.05); };
        const texts = [...document.querySelectorAll("p, h1, h2, td, th, summary, figcaption")]
            .map(one => [one.textContent, getComputedStyle(one).color]);
        const drawn = [...document.querySelectorAll(".plot text")]
            .map(one => [one.textContent, getComputedStyle(one).fill]);
        // Numbers on cells have those behind them.
        return [...texts, ...drawn].filter(([text, colour]) => colour != "rgb(32, 36, 42)" && contrast(colour) < 4.5)
            .map(([text, colour]) => `${text.slice(0, 40)} ${colour}`);
    })()
"""


def test_page_fits_its_window_by_day_and_night_and_asks_for_nothing(storage: Storage, tmp_path: Path) -> None:
    found_browser()
    study = make_search(storage, "a-study-with-a-name-that-does-not-fit-into-any-column-of-a-phone", trials=150)
    study.give(load_given(("independent", "dml"), study.definition.space))
    files = report_search(storage, study.definition.name, tmp_path / "report", top=1)
    seen = {}
    with browser(tmp_path / "profile") as page:
        for width in (1280, 400):
            for scheme in ("light", "dark"):
                page.show(width, scheme)
                page.open(files.page)
                page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
                where = f"{width} {scheme}"
                assert page.evaluate("document.documentElement.scrollWidth") <= width, where
                assert page.evaluate(_WIDER_THAN_THE_WINDOW) == [], where
                assert page.evaluate(_FAINT_TEXTS) == [], where
                assert page.evaluate("document.querySelectorAll('figure svg[role=img][aria-label]').length") >= 8
                seen[where] = page.evaluate("getComputedStyle(document.body).backgroundColor")
                picture = tmp_path / f"{width}-{scheme}.png"
                page.screenshot(picture)
                assert picture.stat().st_size > 50_000
                assert page.requests() == [files.page.as_uri()], where
                assert page.complaints() == [], where
    assert seen["400 light"] == seen["1280 light"] == "rgb(255, 255, 255)"
    assert seen["400 dark"] == seen["1280 dark"] == "rgb(21, 25, 30)"
