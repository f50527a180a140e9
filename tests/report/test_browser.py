"""The report in a real browser, at the widths of a phone and of a desk."""

from __future__ import annotations

import re

import pytest
from browser import Browser, find_chromium

CHROMIUM = find_chromium()
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium found; on Debian: apt-get install chromium"
)

# Of every figure the size of its drawing, and of the ink in it, which is empty if nothing was drawn.
SIZES = """[...document.querySelectorAll("figure")].map(figure => {
    const svg = figure.querySelector("svg"), frame = figure.getBoundingClientRect();
    const box = svg.getBoundingClientRect(), ink = svg.getBBox();
    return {
        width: box.width, height: box.height, left: box.left - frame.left, right: frame.right - box.right,
        ink: ink.width * ink.height, marks: svg.querySelectorAll("path, use, image").length,
        caption: figure.querySelector("figcaption").innerText.replaceAll("\\u00a0", " "),
    };
})"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(CHROMIUM, tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_report_in_a_browser(browser, page, tmp_path, width, dark):
    browser.open(page, width, 800, dark=dark)
    assert browser.complaints() == []
    # The only file that is asked for is the page itself; pictures are in it.
    assert [url for url in browser.requests() if not url.startswith("data:")] == [page.resolve().as_uri()]
    figures = browser.evaluate(SIZES)
    assert len(figures) == 21
    for one in figures:
        assert one["width"] > 250 < one["height"] + 100, one
        assert one["left"] >= 0 <= one["right"], one
        assert one["ink"] > 1000, one
        assert one["marks"] > 10, one
        assert re.search(r"\d ± \d", one["caption"]), one["caption"]
        assert re.search(r"\n(train_600K|openmm-bg )", one["caption"]), one["caption"]
    # Nothing is wider than the window; wide tables scroll by themselves.
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    ink = browser.evaluate('getComputedStyle(document.querySelector("figure svg")).color')
    brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (background, ink)]
    assert (brightness[0] < brightness[1]) == dark
    browser.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")


def test_every_link_leads_to_a_section(browser, page):
    browser.open(page, 1280, 800)
    missing = """[...document.querySelectorAll("nav a")].filter(
        link => !document.getElementById(link.getAttribute("href").slice(1))).length"""
    assert browser.evaluate('document.querySelectorAll("nav a").length') == 8
    assert browser.evaluate(missing) == 0


def test_the_browser_sees_what_it_is_there_to_see(browser, tmp_path):
    """The negative control: a page with an error, a missing picture and a request."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<!DOCTYPE html><title>bad</title><img src='http://127.0.0.1:9/none.png'>"
        "<div style='width: 3000px'>wide</div><script>console.error('oops'); nothing.here</script>"
    )
    browser.open(bad, 390, 800)
    complaints = " ".join(browser.complaints())
    assert "oops" in complaints
    assert "nothing is not defined" in complaints
    assert "http://127.0.0.1:9/none.png" in browser.requests()
    assert browser.evaluate("document.documentElement.scrollWidth") > 390
