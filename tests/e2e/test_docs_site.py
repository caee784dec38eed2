"""The documentation's site: it is built without a warning, and read without a network."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

from tests.e2e.browser import CHROMIUM, needs_browser

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
API = ("api/mde.predictor.html", "api/mde.losses.html")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def test_pages_are_made_of_the_code(site: Path) -> None:
    assert "mde data verify" in (site / "cli.html").read_text()
    page = (site / "api/mde.predictor.html").read_text()
    # Of the docstring's running text, a list.
    assert "<li><code>depth</code>: (H,W) float32" in page
    assert "find_intrinsics" in (site / "python.html").read_text(), "the script is not in its page"
    assert not list(site.rglob("*.py"))


@needs_browser
def test_the_site_asks_no_other_server_and_fits_a_phone(site: Path, address: str) -> None:
    pages = [*(path.name for path in site.glob("*.html")), *API]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
        asked, faults = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda line: faults.append(line.text) if line.type == "error" else None)
        for name in pages:
            page.goto(f"{address}/{name}")
            assert page.evaluate("document.documentElement.scrollWidth") == 390, name
        page.set_viewport_size({"width": 1280, "height": 900})
        page.fill("input[name=query]", "unknown key")
        # The index is made in the browser, which a busy machine takes its time for.
        found = ".md-search-result__link[href*='troubleshooting.html']"
        page.wait_for_selector(found, timeout=120_000)
        browser.close()
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    assert faults == []
