"""The page in a browser: no errors, no requests, readable on a telephone, and the right numbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from repvgg_deploy.report.html.values import FORMATS

from .browser import CHROMIUM, Page, browser
from .report_models import make_model, run
from .report_numbers import expected_tables

pytest.importorskip("matplotlib", reason="needs the extra report")
pytest.importorskip("jinja2", reason="needs the extra report")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (apt install chromium)")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A report of everything, opened from disk."""
    folder = tmp_path_factory.mktemp("model")
    make_model(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shutil.copy("bench.json", "engines/ckpt/bench.json")
        run("report", "--output", folder / "r.html")
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        opened.open(folder / "r.html")
        opened.report = json.loads((folder / "r.json").read_text())
        yield opened


def test_no_errors_and_no_requests(page: Page) -> None:
    page.look(1600)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    complaints = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
    assert [event for event in page.events if event["method"] in complaints] == []
    asked = [e["params"]["request"]["url"] for e in page.events if _is_request(e)]
    assert [url.partition(":")[0] for url in asked] == ["file"]  # the page itself
    assert asked[0].endswith("r.html")


def _is_request(event: dict[str, Any]) -> bool:
    if event["method"] != "Network.requestWillBeSent":
        return False
    return not event["params"]["request"]["url"].startswith("data:")


@pytest.mark.parametrize("width", [400, 1600])
def test_the_page_is_as_wide_as_the_screen(page: Page, width: int) -> None:
    page.look(width)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    outside = """[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, svg'))
        .filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML)"""
    assert page.evaluate(outside) == []
    smallest = """Math.min(...[...document.querySelectorAll('svg text')].map(
        e => e.getBoundingClientRect().height))"""
    assert page.evaluate(smallest) >= 9
    assert page.evaluate("[...document.querySelectorAll('figure svg')].length") == 9


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_told_from_its_background(page: Page, dark: bool) -> None:
    """4.5 to 1 and more (WCAG 2.1, 1.4.3), in light and dark; plots too."""
    page.look(1600, dark=dark)
    found = page.evaluate(_CONTRASTS)
    assert len(found) > 100
    assert min(found) >= 4.5
    assert (
        page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
    ) is (dark)


_CONTRASTS = """(() => {
  const canvas = document.createElement('canvas').getContext('2d');
  const parts = color => { canvas.fillStyle = color; const c = canvas.fillStyle;
    return [1, 3, 5].map(i => parseInt(c.slice(i, i + 2), 16) / 255); };
  const light = color => { const [r, g, b] = parts(color).map(
    c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = e => { for (; e; e = e.parentElement) {
    const b = getComputedStyle(e).backgroundColor; if (b !== 'rgba(0, 0, 0, 0)') return b; }
    return 'rgb(255, 255, 255)'; };
  const written = [...document.querySelectorAll('body *')].filter(e => [...e.childNodes].some(
    n => n.nodeType === 3 && n.textContent.trim()));
  return written.map(e => { const style = getComputedStyle(e);
    const ink = light(e.closest('svg') ? style.fill : style.color), paper = light(behind(e));
    return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05); });
})()"""


def test_numbers_are_those_of_the_json(page: Page) -> None:
    """Every number of the tables of speed, as text and exactly."""
    tables = expected_tables(page.report)
    for name, rows in tables.items():
        script = f"""[...document.querySelectorAll('#{name} tbody tr')].map(
            row => [...row.querySelectorAll('data')].map(d => [d.textContent, d.value]))"""
        shown = page.evaluate(script)
        assert len(shown) == len(rows) > 0, name
        for found, known in zip(shown, rows, strict=True):
            assert [text for text, _ in found] == [FORMATS[form](value) for form, value in known]
            assert [float(value) for _, value in found] == [value for _, value in known]


def test_proofs_are_those_of_the_json(page: Page) -> None:
    script = """[...document.querySelectorAll('#part-table tbody tr')].map(
        row => row.querySelector('data').value)"""
    compared = [one for proof in page.report["proofs"] for one in proof["compared"]]
    assert [float(value) for value in page.evaluate(script)] == [one["ratio"] for one in compared]


def test_it_prints(page: Page) -> None:
    page.look(1600, dark=True)
    pdf = page.pdf()
    assert pdf.startswith(b"%PDF")
    page.call("Emulation.setEmulatedMedia", media="print", features=[])
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
