"""The page: what stands on it, and what happens when something is dropped or chosen."""

import shutil
import tempfile
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr

from mde.demo.look import add_viewer, film_facts, image_facts, viewed
from mde.demo.offers import Offer, Shelf
from mde.demo.results import MAX_FRAMES, Film, Result, predict_upload
from mde.demo.scene import DEFAULT_FOV, Scene, build_scene
from mde.depth_files import CODINGS
from mde.errors import InputError

KEEP_S = 1800
"""Seconds that uploads and results are kept."""
INTRO = """<div class="intro"><h1>Depth from one image</h1>
<p>Drop a picture, choose a model, and point at the picture to read how far away things are.</p>
</div>"""
HINT = f"""<div class="hint"><b>The depth will be here</b>
<span>Drop an image or a video, of which the first {MAX_FRAMES} frames count.</span></div>"""
FAILED = """<div class="hint"><b>No depth</b>
<span>That did not work. Drop another file, or choose another model.</span></div>"""

Shown = dict[Any, Any]
"""New values by component."""


class Page:
    """A Gradio page for some models. folder: where results are written. samples: pictures."""

    def __init__(
        self, shelf: Shelf, offers: list[Offer], folder: Path, samples: list[Path]
    ) -> None:
        self._shelf, self._folder = shelf, folder
        with gr.Blocks(
            title="mde demo", analytics_enabled=False, delete_cache=(KEEP_S // 6, KEEP_S)
        ) as self.blocks:
            gr.HTML(INTRO)
            self.result = gr.State(None, time_to_live=KEEP_S)
            with gr.Row():
                with gr.Column(scale=2, min_width=300):
                    self._add_inputs(offers, samples)
                with gr.Column(scale=5, min_width=320):
                    self.hint = gr.HTML(HINT)
                    with gr.Column(visible=False) as self.picture:
                        self._add_picture()
                    self.film = gr.Video(visible=False, show_label=False, elem_id="film")
                    self.facts = gr.HTML(visible=False)
            self._connect()

    def _add_inputs(self, offers: list[Offer], samples: list[Path]) -> None:
        self.upload = gr.File(
            label="Image or video", file_types=["image", "video"], height=150, elem_id="upload"
        )
        self.model = gr.Dropdown(
            [(offer.label, offer.source) for offer in offers],
            value=offers[0].source,
            label="Model",
            filterable=False,
            elem_id="model",
        )
        self.samples = gr.Dataset(
            components=[gr.Image(render=False, visible=False)],
            samples=[[str(path)] for path in samples],
            label="Examples, rendered",
            layout="gallery",
            visible=bool(samples),
            elem_id="samples",
        )

    def _add_picture(self) -> None:
        with gr.Tabs():
            with gr.Tab("Depth"):
                self.viewer = add_viewer()
            with gr.Tab("3D"):
                self.space = gr.HTML(elem_id="space")
                self.fov = gr.Slider(
                    20, 120, DEFAULT_FOV, step=0.1, label="Horizontal field of view (degrees)",
                    elem_id="fov",
                )  # fmt: skip
        with gr.Row(elem_classes="saves"):
            self.png = gr.DownloadButton("PNG, 16 bit", size="sm", elem_id="save-png")
            self.array = gr.DownloadButton("NPY, float32", size="sm", elem_id="save-npy")
            self.ply = gr.DownloadButton("PLY, points", size="sm", elem_id="save-ply")
            self.glb = gr.DownloadButton("GLB, surface", size="sm", elem_id="save-glb")

    def _connect(self) -> None:
        self.samples.click(self.take, self.samples, self.upload, show_progress="hidden")
        always = [self.result, self.hint, self.picture, self.film, self.facts]
        in_space = [self.space, self.fov, self.ply, self.glb]
        predicted = gr.on(
            [self.upload.change, self.model.input],
            in_words(self.predict),
            [self.upload, self.model],
            [*always, self.viewer, self.array, self.png],
            concurrency_limit=1,
        )
        predicted.failure(lambda: self._nothing(FAILED), None, always)
        predicted.success(in_words(self.place), [self.result, self.upload], in_space)
        self.fov.release(in_words(self.turn), [self.result, self.fov], in_space)

    def _nothing(self, words: str) -> Shown:
        hidden = {part: gr.update(visible=False) for part in (self.picture, self.film, self.facts)}
        return {self.result: None, self.hint: gr.update(value=words, visible=True), **hidden}

    def take(self, row: list[str]) -> str:
        """A sample as if it had been dropped: a copy, as that is deleted after a while."""
        return shutil.copy(row[0], tempfile.mkdtemp(dir=self._folder))

    def predict(self, upload: str | None, source: str) -> Shown:
        """Show the depth of what was uploaded; of nothing, nothing."""
        if upload is None:
            return self._nothing(HINT)
        result = predict_upload(self._shelf.predictor(source), Path(upload), self._folder)
        shown = {self.result: result, self.hint: gr.update(visible=False)}
        if isinstance(result, Film):
            return shown | {
                self.picture: gr.update(visible=False),
                self.film: gr.update(value=str(result.path), visible=True),
                self.facts: gr.update(value=film_facts(result), visible=True),
            }
        return shown | {
            self.picture: gr.update(visible=True),
            self.film: gr.update(value=None, visible=False),
            self.viewer: viewed(result),
            self.facts: gr.update(value=image_facts(result), visible=True),
            self.array: str(result.array),
            self.png: _png_button(result),
        }

    def place(self, result: Result | Film | None, upload: str | None) -> Shown:
        """Show the depth in space, as the camera has seen it by its EXIF."""
        if not isinstance(result, Result) or upload is None:
            return {self.space: None}
        return self._show(build_scene(result, Path(upload), None))

    def turn(self, result: Result | Film | None, fov: float) -> Shown:
        """Show the depth in space, for a field of view that is set by hand."""
        if not isinstance(result, Result):
            return {self.space: None}
        return self._show(build_scene(result, None, fov))

    def _show(self, scene: Scene) -> Shown:
        return {
            self.space: scene.view,
            self.fov: gr.update(value=scene.fov, info=f"{scene.fov:g}°, {scene.origin}"),
            self.ply: str(scene.ply),
            self.glb: str(scene.glb),
        }


def in_words(step: Callable[..., Shown]) -> Callable[..., Shown]:
    """Show an InputError on the page, as it is."""

    @wraps(step)
    def run(*values: Any) -> Shown:
        try:
            return step(*values)
        except InputError as error:
            raise gr.Error(str(error), print_exception=False) from error

    return run


def _png_button(result: Result) -> Any:
    if result.codes is None:
        return gr.update(visible=False)
    per_unit = CODINGS[result.codes].per_unit
    label = "PNG, 16 bit, mm" if per_unit == 1000 else f"PNG, 16 bit, 1/{per_unit}"
    return gr.update(value=str(result.png), label=label, visible=True)
