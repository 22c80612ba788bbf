"""The page in Chromium: no console errors, no requests, sorting, legend, search, phone width, dark."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fabricate import many, ope_scores, vot_scores

from keepsight.evaluation.html import html_page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
pytest.importorskip("plotly", reason="the page needs plotly: pip install 'keepsight[report]'")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scores = [*many(4, 30), ope_scores(EVIL, sequences=30, skill=0.2)]
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html_page([*scores, vot_scores("a"), vot_scores("b", skill=0.5)]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as engine:
        chromium = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def visit(browser: Any, file: Path, **options: Any) -> tuple[Any, list[str]]:
    """The page after everything was scrolled into view, and what went wrong."""
    page = browser.new_context(**options).new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: (wrong.append("dialog"), dialog.dismiss()))
    page.on("request", lambda r: wrong.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else None)
    page.goto(file.as_uri())
    for chart in page.query_selector_all(".chart"):
        chart.scroll_into_view_if_needed()
    page.wait_for_function("[...document.querySelectorAll('.chart')].every(c => c.querySelector('.main-svg'))")
    return page, wrong


WIDE = {"viewport": {"width": 1440, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


@pytest.mark.parametrize("options", [WIDE, PHONE, {**WIDE, "color_scheme": "dark"}], ids=["wide", "phone", "dark"])
def test_opens_without_errors_and_fits_the_width(browser: Any, page_file: Path, options: dict[str, Any]) -> None:
    page, wrong = visit(browser, page_file, **options)
    assert wrong == []
    assert page.evaluate("document.documentElement.scrollWidth") <= options["viewport"]["width"]
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    dark = sum(int(v) for v in ground[4:-1].split(",")[:3]) < 200
    assert dark == (options.get("color_scheme") == "dark")


def first_column(page: Any, table: str) -> list[str]:
    return [cell.inner_text().strip() for cell in page.query_selector_all(f"{table} tbody tr:not([hidden]) th")]


def test_sorts_by_click_and_by_keyboard(browser: Any, page_file: Path) -> None:
    page, wrong = visit(browser, page_file, **WIDE)
    page.uncheck("#g0 .show-published")
    table = "#g0 table.overview"
    visible = [t.inner_text().strip() for t in page.query_selector_all(f"{table} tbody tr.ours th")]
    auc = page.query_selector(f"{table} thead th:nth-child(2) button")
    auc.click()
    head = page.query_selector(f"{table} thead th:nth-child(2)")
    assert head.get_attribute("aria-sort") == "descending"
    auc.focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert [t.inner_text().strip() for t in page.query_selector_all(f"{table} tbody tr.ours th")] == visible[::-1]
    page.click(f"{table} thead th:nth-child(1) button")
    assert head.get_attribute("aria-sort") == "none"
    assert wrong == []


def test_published_numbers_can_be_hidden(browser: Any, page_file: Path) -> None:
    page, _ = visit(browser, page_file, **WIDE)
    row = page.query_selector("#g0 tr.published")
    assert row.is_visible()
    page.uncheck("#g0 .show-published")
    assert not row.is_visible()


def test_legend_hides_and_isolates_trackers_in_all_charts(browser: Any, page_file: Path) -> None:
    page, wrong = visit(browser, page_file, **WIDE)
    shown = "[...document.querySelectorAll('#g0 .chart')].map(c => c.data.filter(t => t.visible).length)"
    assert set(page.evaluate(shown)) == {5}
    button = page.query_selector("#g0 .legend button")
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert set(page.evaluate(shown)) == {4}
    button.click()
    page.wait_for_timeout(600)
    button.dblclick()
    assert set(page.evaluate(shown)) == {1}
    page.wait_for_timeout(600)
    button.dblclick()
    assert set(page.evaluate(shown)) == {5}
    names = [b.inner_text() for b in page.query_selector_all("#g0 .legend:first-of-type button")]
    assert any(EVIL in name for name in names)
    assert wrong == []


def test_hover_reads_the_curve(browser: Any, page_file: Path) -> None:
    page, wrong = visit(browser, page_file, **WIDE)
    chart = page.query_selector("#g0 .chart")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector("#g0 .chart .hoverlayer .legendtext")
    texts = " ".join(t.text_content() for t in page.query_selector_all("#g0 .chart .hoverlayer .legendtext"))
    assert "KeepTrack" in texts
    assert wrong == []


def test_search_and_choice_of_the_number(browser: Any, page_file: Path) -> None:
    page, wrong = visit(browser, page_file, **WIDE)
    table = "#g0 table.sequence-table"
    assert len(first_column(page, table)) == 30
    page.fill("#g0 .search", "CLASS1-")
    assert first_column(page, table) == [f"class1-{i}" for i in range(1, 5)]
    assert page.inner_text("#g0 .count") == "4 of 30"
    before = page.inner_text(f"{table} tbody tr:not([hidden]) td:nth-child(3)")
    page.select_option("#g0 .metric", "1")
    assert page.inner_text(f"{table} tbody tr:not([hidden]) td:nth-child(3)") != before
    assert wrong == []
