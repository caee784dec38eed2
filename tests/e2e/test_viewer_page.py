"""The page that shows points in a real browser without a network, by mouse and on a phone."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import sync_playwright

from mde.pointcloud import to_points, write_viewer
from tests.e2e.browser import CHROMIUM, needs_browser

pytestmark = pytest.mark.e2e

# Without a graphics card.
SOFTWARE = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
LEFT, RIGHT = (220, 40, 40), (40, 60, 220)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_playwright() as driver:
        # The sandbox needs rights that containers do not give; the page is our own.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *SOFTWARE])
        yield browser
        browser.close()


@pytest.fixture(params=[(1000, 750), (390, 800)], ids=["desktop", "phone"])
def page(request: pytest.FixtureRequest, browser: Any, tmp_path: Path) -> Iterator[Any]:
    """The page, opened; whatever the browser complains of fails the test."""
    image = np.full((120, 160, 3), LEFT, np.uint8)
    image[:, 80:] = RIGHT
    K = np.array([[150.0, 0, 79.5], [0, 150, 59.5], [0, 0, 1]])
    cloud = to_points(np.full((120, 160), 2, np.float32), image, K)
    write_viewer(tmp_path / "a.html", cloud, "<b>a room</b>")
    width, height = request.param
    context = browser.new_context(viewport={"width": width, "height": height}, offline=True)
    page, complaints = context.new_page(), []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda call: complaints.append(call.url[:100]))
    page.goto((tmp_path / "a.html").as_uri())
    yield page
    assert complaints == []
    context.close()


def places(page: Any) -> dict[tuple[int, int, int], tuple[float, int]]:
    """Of each colour: the column of its middle, as a share of the width, and how many pixels."""
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    shot: NDArray[np.uint8] = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
    found = {}
    for color in (LEFT, RIGHT):
        columns = np.nonzero((shot == color).all(-1))[1]
        found[color] = (float(columns.mean()) / shot.shape[1], len(columns))
    return found


@needs_browser
def test_the_points_show_and_turn_and_come_nearer(page: Any) -> None:
    assert page.title() == page.inner_text("h1") == "<b>a room</b>"
    assert "19,200 points" in page.inner_text("p")
    width, height = page.viewport_size["width"], page.viewport_size["height"]
    assert page.evaluate("document.documentElement.scrollWidth") == width
    start = places(page)
    assert start[LEFT][0] < 0.5 < start[RIGHT][0]
    assert sum(count for _, count in start.values()) > 0.6 * width * min(height, width * 3 / 4)

    page.mouse.move(width / 2, height / 2)
    page.mouse.wheel(0, 200)
    farther = places(page)
    assert farther[LEFT][1] < start[LEFT][1]

    page.mouse.down()
    page.mouse.move(width / 2 + min(width, height), height / 2, steps=4)
    page.mouse.up()
    # Half a turn: what was on the left is on the right.
    turned = places(page)
    assert turned[LEFT][0] > 0.5 > turned[RIGHT][0]

    page.mouse.dblclick(width / 2, height / 2)
    assert places(page) == start
