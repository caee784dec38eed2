"""How the page looks, and the words that it shows of a result."""

import html
from pathlib import Path

import gradio as gr
import matplotlib
import matplotlib.colors
import numpy as np

from mde.demo.results import Film, Result
from mde.predictor import ModelInfo
from mde.visualize import DEPTH_MAP

ASSETS = Path(__file__).parent / "assets"
# Fonts that systems have: nothing is fetched for them.
SANS = (gr.themes.Font("system-ui"), gr.themes.Font("sans-serif"))
MONO = (gr.themes.Font("ui-monospace"), gr.themes.Font("monospace"))


def theme() -> gr.themes.Base:
    """Plain; light or dark as the system is."""
    return gr.themes.Default(primary_hue="blue", neutral_hue="slate", font=SANS, font_mono=MONO)


def add_viewer() -> gr.HTML:
    """Image and depth with a divider between them, a legend, and the depth under the pointer.

    Gradio's own slider of images does not tell where the pointer is.
    """
    # No subclass: of those Gradio writes a stub file beside the source.
    stops = matplotlib.colormaps[DEPTH_MAP](np.linspace(0, 1, 9))
    colors = ", ".join(matplotlib.colors.to_hex(stop) for stop in stops)
    return gr.HTML(
        # No property either: a page that is shown again has lost them.
        html_template=(ASSETS / "viewer.html").read_text().replace("COLORS", colors),
        css_template=(ASSETS / "viewer.css").read_text(),
        js_on_load=(ASSETS / "viewer.js").read_text(),
        elem_id="viewer",
    )


def viewed(result: Result) -> dict[str, object]:
    """The value of a viewer, which reads the file that can be downloaded."""
    height, width = result.found.depth.shape
    unit = result.found.info.unit
    files = {"image": result.image, "colors": result.colors, "array": result.array}
    return {
        **{name: gr.FileData(path=str(path)).model_dump() for name, path in files.items()},
        "width": width,
        "height": height,
        "unit": unit,
        "low": with_unit(result.low, unit),
        "high": with_unit(result.high, unit),
    }


def with_unit(depth: float, unit: str) -> str:
    """A depth for people: `3.42 m`, `34.2 m`; without a unit `3.42, up to scale`."""
    number = f"{depth:.2f}" if depth < 10 else f"{depth:.1f}"
    return f"{number} m" if unit == "m" else f"{number}, {unit}"


def image_facts(result: Result) -> str:
    """HTML with what has to be known of an image's depth."""
    (height, width), (of_height, of_width) = result.found.depth.shape, result.size
    shrunk = f", shrunk from {of_width}×{of_height}" if (height, width) != result.size else ""
    pairs = [("image", f"{width}×{height} px{shrunk}"), ("took", f"{result.seconds:.2f} s")]
    return _describe([*_of_model(result.found.info), *pairs])


def film_facts(film: Film) -> str:
    """HTML with what has to be known of a video's depth."""
    frames = f"{film.frames}"
    if film.of is not None and film.of > film.frames:
        frames = f"the first {film.frames} of {film.of}"
    pairs = [
        ("video", f"{film.size[1]}×{film.size[0]} px"),
        ("frames", frames),
        ("took", f"{film.seconds:.1f} s"),
    ]
    return _describe([*_of_model(film.info), *pairs])


def _of_model(info: ModelInfo) -> list[tuple[str, str]]:
    size, metric = info.image_size, info.is_metric
    return [
        ("model", info.variant),
        ("unit", "metres" if metric else "up to scale: right up to one factor an image"),
        ("range", f"{info.min_depth:g} to {info.max_depth:g}{' m' if metric else ''}"),
        ("trained at", f"{size[1]}×{size[0]} px" if size else "not recorded"),
        ("git", info.git_commit[:10]),
    ]


def _describe(pairs: list[tuple[str, str]]) -> str:
    terms = (f"<div><dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd></div>" for k, v in pairs)
    return f'<dl class="facts">{"".join(terms)}</dl>'
