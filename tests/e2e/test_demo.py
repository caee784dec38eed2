"""The demo page in a real browser: what is dropped, what is read off, and what is refused."""

import io
import re
import socket
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
import torch
import trimesh
from playwright.sync_api import expect, sync_playwright

import mde
from mde.demo.offers import KEPT, Shelf, find_offers
from mde.demo.server import is_loopback, serving
from mde.errors import InputError
from mde.film import write_mp4
from mde.models import ModelConfig, build_model
from mde.train.checkpoint import save_model
from tests.e2e.browser import CHROMIUM, needs_browser

pytestmark = pytest.mark.e2e

# The sandbox needs rights that containers do not give; without a GPU, software draws the 3D view.
FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
SHOWN = "#viewer[data-shows], #viewer [data-shows]"
HEIGHT, WIDTH = 96, 128
# Names of trained variants, and whether their depth is in metres.
VARIANTS = {"first": True, "second": False}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    for seed, (name, metric) in enumerate(VARIANTS.items()):
        model = {"family": "monodepth2", "encoder": "resnet18", "weights": "scratch",
                 "min_depth": 0.1, "max_depth": 10.0, "metric": metric}  # fmt: skip
        torch.manual_seed(seed)
        state = {"variant": {"name": name, "model": model}, "image_size": [64, 96]}
        folder = root / "models" / name / "checkpoint"
        folder.mkdir(parents=True)
        save_model(folder, build_model(ModelConfig(**model)), state | {"git_commit": "f" * 40})
    return root


@pytest.fixture(scope="module")
def address(root: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with serving(root, port=port) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def opened(browser: Any, address: str) -> tuple[Any, list[str]]:
    """The page, and what it has complained of, requests to anywhere else among it."""
    page, complaints = browser.new_page(viewport={"width": 1280, "height": 900}), []
    page.set_default_timeout(60_000)
    expect.set_options(timeout=60_000)

    def look(call: Any) -> None:
        if not call.url.startswith((address, "data:", f"blob:{address}")):
            complaints.append(call.url)

    def note(reply: Any) -> None:
        if reply.status >= 400:
            complaints.append(f"{reply.status} {reply.url}")

    def hear(message: Any) -> None:
        if message.type == "error":
            complaints.append(message.text)

    page.on("request", look)
    page.on("response", note)
    page.on("console", hear)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(address)
    return page, complaints


@pytest.fixture
def page(opened: tuple[Any, list[str]]) -> Iterator[Any]:
    """The page as the last test has left it; whatever it complains of fails the test."""
    page, complaints = opened
    complaints.clear()
    yield page
    assert complaints == []


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    cv2.imwrite(str(path), cv2.resize(small, (WIDTH, HEIGHT)))
    return path


def drop(page: Any, path: Path) -> None:
    if page.locator("#upload input[type=file]").count() == 0:
        page.locator("#upload").get_by_role("button", name="Clear").click()
        expect(page.locator(".hint")).to_contain_text("The depth will be here")
    page.set_input_files("#upload input[type=file]", path)


def choose(page: Any, name: str) -> None:
    page.locator("#model input").click()
    page.get_by_role("option", name=name).click()


def shown(page: Any) -> str:
    """Waits for a depth; says which one it is."""
    found = page.locator(SHOWN)
    expect(found).to_be_attached()
    return found.get_attribute("data-shows")


def reading(page: Any, u: int, v: int) -> str:
    """What is read with the pointer on the middle of a pixel."""
    box = page.locator("#viewer .stage").bounding_box()
    x, y = (
        box["x"] + (u + 0.5) / WIDTH * box["width"],
        box["y"] + (v + 0.5) / HEIGHT * box["height"],
    )
    page.mouse.move(x, y)
    output = page.locator("#viewer output")
    assert (output.get_attribute("data-u"), output.get_attribute("data-v")) == (str(u), str(v))
    return output.text_content()


def download(page: Any, name: str) -> bytes:
    with page.expect_download() as found:
        page.locator(f"#save-{name}").click()
    return Path(found.value.path()).read_bytes()


@needs_browser
def test_a_dropped_image_has_the_depths_of_the_predictor_under_the_pointer_and_in_files(
    page: Any, root: Path, photo: Path
) -> None:
    depth = mde.load(root / "models/first").predict(photo).depth
    drop(page, photo)
    shown(page)
    for u, v in ((5, 7), (100, 20), (64, 95)):
        assert reading(page, u, v) == f"{depth[v, u]:.2f} m"
    for fact in ("first", "metres", "0.1 to 10 m", "96×64 px", "128×96 px", "f" * 10):
        expect(page.locator(".facts")).to_contain_text(fact)
    np.testing.assert_array_equal(np.load(io.BytesIO(download(page, "npy"))), depth)
    codes = cv2.imdecode(np.frombuffer(download(page, "png"), np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(codes, np.rint(depth * 1000).astype(np.uint16))
    cloud = trimesh.load(io.BytesIO(download(page, "ply")), file_type="ply")
    # The nearest is in the cloud as deep as it is in the map.
    assert cloud.vertices[:, 2].min() >= depth.min() - 1e-4
    assert 0 < len(cloud.vertices) <= depth.size


@needs_browser
def test_another_model_gives_another_depth_in_its_own_unit(
    page: Any, root: Path, photo: Path
) -> None:
    drop(page, photo)
    first = shown(page)
    choose(page, "second")
    page.wait_for_function(
        "([where, last]) => ![last, undefined].includes("
        "document.querySelector(where)?.dataset.shows)",
        arg=[SHOWN, first],
    )
    depth = mde.load(root / "models/second").predict(photo).depth
    assert reading(page, 30, 40) == f"{depth[40, 30]:.2f}, up to scale"
    expect(page.locator(".facts")).to_contain_text("right up to one factor")
    choose(page, "first")
    expect(page.locator(".facts")).not_to_contain_text("right up to one factor")


@needs_browser
def test_the_3d_view_shows_the_picture_for_a_field_of_view(page: Any, photo: Path) -> None:
    drop(page, photo)
    shown(page)
    page.get_by_role("tab", name="3D").click()
    expect(page.locator("#fov")).to_contain_text("65°, assumed, as the file does not tell")
    canvas = page.frame_locator("#space iframe").locator("canvas")
    expect(canvas).to_be_visible()
    drawn = cv2.imdecode(np.frombuffer(canvas.screenshot(), np.uint8), cv2.IMREAD_COLOR)
    assert drawn.std((0, 1)).min() > 10
    assert len(trimesh.load(io.BytesIO(download(page, "glb")), file_type="glb").geometry) == 1
    number = page.locator("#fov input[type=number]")
    number.fill("90")
    number.press("Tab")
    expect(page.locator("#fov")).to_contain_text("90°, as set here")
    page.get_by_role("tab", name="Depth").click()


def bomb(path: Path) -> Path:
    """A PNG of some bytes whose header asks for 30000x30000 px."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 30000, 30000, 1, 0, 0, 0, 0)
    content = (
        chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path


@needs_browser
def test_bombs_and_texts_are_refused_in_words_and_the_page_goes_on(
    page: Any, photo: Path, tmp_path: Path
) -> None:
    text, film = tmp_path / "text.jpg", tmp_path / "film.mp4"
    text.write_text("no picture")
    film.write_text("no film")
    refusals = {
        bomb(tmp_path / "bomb.png"): r"bomb\.png: .*30000x30000|bomb\.png: refused",
        text: r"text\.jpg: not a readable image \(10 bytes\)",
        film: r"film\.mp4: ",
    }
    for path, words in refusals.items():
        drop(page, path)
        toast = page.get_by_test_id("toast-body").filter(has_text=path.name)
        expect(toast).to_contain_text(re.compile(words))
        assert str(tmp_path.parent) not in toast.text_content()
        assert "mde-demo-" not in toast.text_content()
        expect(page.locator(".hint")).to_contain_text("No depth")
    drop(page, photo)
    shown(page)


@needs_browser
def test_a_video_becomes_a_film_beside_its_depth(page: Any, tmp_path: Path) -> None:
    frames = [np.full((HEIGHT, WIDTH, 3), 20 * i, np.uint8) for i in range(6)]
    write_mp4(tmp_path / "ride.mp4", frames, fps=10)
    drop(page, tmp_path / "ride.mp4")
    video = page.locator("#film video")
    expect(video).to_be_visible()
    page.wait_for_function("document.querySelector('#film video').videoWidth > 0")
    assert video.evaluate("found => found.videoWidth") == 2 * WIDTH
    expect(page.locator(".facts")).to_contain_text("128×96 px")


@needs_browser
def test_a_phone_shows_all_of_it_and_a_click_reads_the_depth(
    page: Any, root: Path, photo: Path
) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    drop(page, photo)
    shown(page)
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    stage = page.locator("#viewer .stage")
    stage.scroll_into_view_if_needed()
    stage.click()
    expect(page.locator("#viewer output")).to_have_text(re.compile(r"^\d+\.\d\d m$"))


def test_files_of_the_host_are_not_given_out(address: str, photo: Path) -> None:
    for path in ("/etc/passwd", str(photo), "../../etc/passwd"):
        reply = httpx.get(f"{address}gradio_api/file={path}")
        assert reply.status_code in (403, 404), path
    # Nor as an upload that never was one.
    config = httpx.get(f"{address}config").json()
    predict = next(fn for fn in config["dependencies"] if fn["api_name"] == "predict")
    data = [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}, None, None]
    ask = {"data": data, "fn_index": predict["id"], "session_hash": "x"}
    assert httpx.post(f"{address}gradio_api/queue/join", json=ask).status_code == 200
    with httpx.stream("GET", f"{address}gradio_api/queue/data?session_hash=x") as reply:
        said = "".join(reply.iter_text())
    assert '"success":false' in said
    assert "root:" not in said


def test_offered_are_trained_variants_or_those_that_are_named(root: Path, tmp_path: Path) -> None:
    assert [offer.label for offer in find_offers(root)] == [
        "first · trained here", "second · trained here",
    ]  # fmt: skip
    named = find_offers(root, ["first", "models:/mde-x@champion", "first"])
    assert [offer.source for offer in named] == ["first", "models:/mde-x@champion"]
    with pytest.raises(InputError, match=r"no model is registered or trained there.*--root"):
        find_offers(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_few_models_stay_loaded(root: Path) -> None:
    shelf = Shelf(root)
    places = [str(root / "models/first"), *(f"{root}/models/{'./' * n}second" for n in range(KEPT))]
    first = shelf.predictor(places[0])
    assert shelf.predictor(places[0]) is first
    for place in places[1:]:
        shelf.predictor(place)
    assert len(shelf) == KEPT
    assert shelf.predictor(places[0]) is not first


@pytest.mark.parametrize(
    ("host", "is_local"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("box", False)],
)
def test_only_this_machine_reaches_a_loopback_address(host: str, is_local: bool) -> None:
    assert is_loopback(host) == is_local
