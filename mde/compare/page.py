"""The page of a comparison: self-contained, in the look of the report."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

from mde.compare.comparison import Comparison
from mde.compare.pictures import draw_costs
from mde.compare.sections import sections
from mde.data.place import show
from mde.film import Picture as Frame
from mde.report.pages import STYLE, Picture, environment, picture, svg
from mde.visualize import draw_error_histograms, model_styles


def write_page(
    path: Path, found: Comparison, folder: Path, frames: Sequence[Frame], fps: int
) -> None:
    """Write the page. folder: where the panels are. frames: of the film."""
    labels = [entry.contender.label for entry in found.entries]
    with matplotlib.rc_context(STYLE):
        histograms = [_histogram(found, kind) for kind in ("signed", "absolute")]
        costs = svg(draw_costs(found.costs, legend=False)) if found.costs else None
    page = (
        environment()
        .get_template("compare.html")
        .render(
            labels=labels,
            entries=found.entries,
            summary=found.entries[0].summary,
            protocol=found.protocol,
            data=show(found.data),
            sections=sections(found),
            styles=model_styles(labels),
            histograms=histograms,
            costs=costs,
            film=found.film,
            moving=_moving(frames, fps),
            fps=fps,
            panels=[
                (panel, picture(folder / "panels" / f"{number:02d}.png"))
                for number, panel in enumerate(found.panels)
            ],
        )
    )
    path.write_text(page)


def _histogram(found: Comparison, kind: str) -> tuple[str, str]:
    counts = {entry.contender.label: entry.histogram for entry in found.entries}
    edges = found.protocol.error_edges.numpy()
    figure: Figure = draw_error_histograms(counts, edges, (kind,), legend=False)  # type: ignore[arg-type]
    return svg(figure), f"Share of pixels by {kind} error, each model a line"


def _moving(frames: Sequence[Frame], fps: int) -> Picture:
    """The film as an animated WebP: a picture, so the page needs no player and no more rights."""
    first, *others = [Image.fromarray(frame) for frame in frames]
    buffer, duration = io.BytesIO(), round(1000 / fps)
    first.save(
        buffer, "WEBP", save_all=True, append_images=others, duration=duration, loop=0, quality=70
    )
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return Picture(f"data:image/webp;base64,{encoded}", *first.size)
