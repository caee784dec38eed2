"""The report's page in a real browser without a network: pictures, sorting, and a phone's width."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

from mde.errors import InputError
from mde.layout import Layout
from mde.protocols import PROTOCOLS
from mde.report.page import write_report
from tests.e2e.browser import CHROMIUM, needs_browser
from tests.evaluation.report_tree import Planned, write_tree

pytestmark = pytest.mark.e2e


PLAN = [
    Planned("first-indoors", "rooms", "nyu_labeled", "supervised"),
    Planned("second-indoors-with-a-rather-long-name", "rooms", "nyu_labeled", "supervised"),
    Planned("third-indoors", "rooms", "nyu_labeled", "ms"),
    Planned("outdoors", "streets", "kitti_eigen_mono", "m"),
]
# Each has one spread, one best and one worst image.
NUM_PICTURES = 3 * len(PLAN)
NARROW, WIDE = (375, 812), (1280, 900)


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    layout = write_tree(tmp_path_factory.mktemp("root"), PLAN)
    write_report(layout)
    return layout


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_playwright() as driver:
        # The sandbox needs rights that containers do not give; the page is our own.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=[WIDE, NARROW], ids=["desktop", "phone"])
def page(request: pytest.FixtureRequest, browser: Any, layout: Layout) -> Iterator[Any]:
    """The page, opened; whatever the browser complains of fails the test."""
    width, height = request.param
    context = browser.new_context(viewport={"width": width, "height": height}, offline=True)
    page, complaints = context.new_page(), []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda call: complaints.append(call.url[:100]))
    page.goto(layout.report.resolve().as_uri())
    yield page
    assert complaints == []
    context.close()


@needs_browser
def test_every_picture_loads_and_nothing_is_asked_of_a_network(page: Any) -> None:
    requested: list[str] = []
    page.on("request", lambda call: requested.append(call.url[:60]))
    page.evaluate("document.querySelectorAll('details').forEach(found => found.open = true)")
    for picture in page.query_selector_all("img"):
        picture.scroll_into_view_if_needed()
    page.wait_for_function("[...document.images].every(found => found.complete)")
    widths = page.evaluate("[...document.images].map(found => found.naturalWidth)")
    assert len(widths) == NUM_PICTURES
    assert min(widths) > 0
    assert all(url.startswith("data:") for url in requested), requested
    # Per table: size, images, two of ranges, two of errors; then one loss curve per variant.
    drawn = page.evaluate("[...document.querySelectorAll('figure svg')].map(s => s.clientWidth)")
    assert len(drawn) == 2 * 6 + len(PLAN)
    assert min(drawn) > 200


@needs_browser
def test_the_page_is_never_wider_than_its_screen(page: Any) -> None:
    def overflow() -> int:
        return page.evaluate("document.documentElement.scrollWidth - window.innerWidth")

    assert overflow() <= 0
    page.evaluate("document.querySelectorAll('details').forEach(found => found.open = true)")
    assert overflow() <= 0
    # What is too wide is pushed inside its own frame, where the first column stays in sight.
    frame = page.query_selector(".scroll:has(table)")
    frame.evaluate("frame => frame.scrollLeft = 200")
    cell = frame.query_selector("tbody td").bounding_box()
    assert cell["x"] == pytest.approx(frame.bounding_box()["x"], abs=1)


def column(page: Any, name: str) -> list[str]:
    """Texts of a column of the first table that has it, models only."""
    return page.evaluate(
        """name => {
            const heading = [...document.querySelectorAll("th")].find(
                found => found.textContent.trim().startsWith(name));
            const body = heading.closest("table").tBodies[0];
            return [...body.rows].map(row => row.cells[heading.cellIndex].textContent);
        }""",
        name,
    )


@needs_browser
def test_a_click_on_a_heading_sorts_numbers_as_numbers(page: Any) -> None:
    table = page.locator("table").filter(has_text="first-indoors").first
    heading = table.get_by_role("columnheader", name="silog")
    before = column(page, "silog")
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    found = column(page, "silog")
    assert found == sorted(before, key=float)
    heading.get_by_role("button").press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    assert column(page, "silog") == found[::-1]
    names = table.get_by_role("columnheader", name="variant")
    names.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "none"
    assert column(page, "variant") == sorted(planned.name for planned in PLAN[:3])
    # Baselines stay below.
    last = table.locator("tbody").last.locator("tr td:first-child").all_text_contents()
    assert last == ["constant", "random"]


@needs_browser
def test_ten_is_more_than_nine_and_empty_cells_are_last_whichever_way(page: Any) -> None:
    page.evaluate(
        """() => {
            const table = document.querySelector("table");
            const index = [...table.tHead.rows[0].cells].findIndex(
                found => found.textContent.trim().startsWith("silog"));
            ["10.5", "", "9.25"].forEach((value, i) => {
                const cell = table.tBodies[0].rows[i].cells[index];
                [cell.dataset.value, cell.textContent] = [value, value || "–"];
            });
        }"""
    )
    button = page.get_by_role("columnheader", name="silog").first.get_by_role("button")
    button.click()
    assert column(page, "silog") == ["9.25", "10.5", "–"]
    button.click()
    assert column(page, "silog") == ["10.5", "9.25", "–"]


def test_a_page_holds_what_a_reader_asks_for(layout: Layout) -> None:
    text = layout.report.read_text()
    for words in (
        "models:/mde-outdoors@champion", "the first version", "f" * 40, "no ground truth (1)",
        "&lt;b&gt;odd&lt;/b&gt; &amp; name", "2 epochs", "scale<small>spread</small>",
        PROTOCOLS["nyu_labeled"].id, PROTOCOLS["nyu_labeled"].ground_truth,
        PROTOCOLS["kitti_eigen_mono"].ground_truth,
    ):  # fmt: skip
        assert words in text, words
    for planned in PLAN:
        summary = json.loads((layout.result(planned.name) / "metrics.json").read_text())
        assert f"{summary['metrics']['abs_rel']:.3f}" in text
    assert "://" not in text
    names = re.findall(r'\bid="([^"]*)"', text)
    assert len(names) == len(set(names))
    assert set(re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', text)) <= {
        *((name, "") for name in names), *(("", name) for name in names),
    }  # fmt: skip


def test_the_same_results_give_the_same_page(layout: Layout) -> None:
    before = layout.report.read_bytes()
    write_report(layout)
    assert layout.report.read_bytes() == before


def test_pictures_stand_beside_the_numbers_of_their_image(layout: Layout) -> None:
    from mde.report.results import read_result

    result = read_result(layout, "outdoors")
    ranked = sorted(row["abs_rel"] for row in result.images)
    values = {shown.choice: shown.values["abs_rel"] for shown in result.shown}
    assert values["worst"] == ranked[-1]
    assert values["best"] == ranked[0]
    assert values["spread"] == result.images[0]["abs_rel"]


def test_what_is_amiss_is_named_and_the_former_page_stays(layout: Layout, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"results: nothing is evaluated yet; run dvc repro"):
        write_report(Layout(tmp_path))
    panel = layout.result("outdoors") / "panels/worst-00.png"
    whole, page = panel.read_bytes(), layout.report.read_bytes()
    panel.write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"worst-00.png: not a picture.*dvc repro"):
        write_report(layout)
    panel.write_bytes(whole)
    assert layout.report.read_bytes() == page
