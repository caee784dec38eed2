"""What pages are made of: Jinja templates that extend `base.html`, and pictures within them.

A page asks for nothing outside itself, and its Content-Security-Policy says so to the browser.
"""

import base64
import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from mde.report.tabulation import NOTHING, split_name

INK = "#1c2330"
"""Of texts and axes; in pages it becomes the colour of the text around, be it dark or bright."""
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif", "font.size": 9, "axes.titlesize": 10, "axes.labelsize": 9,
    "xtick.labelsize": 8, "ytick.labelsize": 8, "legend.fontsize": 8, "legend.framealpha": 0.0,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "axes.linewidth": 0.6,
    "xtick.color": INK, "ytick.color": INK, "grid.color": INK, "grid.alpha": 0.15,
    "axes.spines.top": False, "axes.spines.right": False, "lines.linewidth": 1.5,
    # Texts stay texts, and the same numbers give the same bytes.
    "svg.fonttype": "none", "svg.hashsalt": "mde",
}  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A picture within a page: a `data:` URI, and its size in px."""

    uri: str
    width: int
    height: int


def environment() -> Environment:
    """Templates of `mde/report/templates`; filters: `heading`, `number`."""
    found = Environment(
        loader=PackageLoader("mde.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["heading"] = split_name
    found.filters["number"] = number
    return found


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many decimals, or a dash."""
    return NOTHING if value is None else f"{value:.{digits}f}"


def svg(figure: Figure) -> Markup:
    """A figure as SVG to stand in a page: as wide as its place, in the colours of the text.

    Draw it within `matplotlib.rc_context(STYLE)`, which also decides on its font.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    drawing = buffer.getvalue()
    # Within HTML, SVG needs no namespaces: without them, no address of any kind is in the page.
    drawing = re.sub(r' xmlns(:xlink)?="[^"]*"', "", drawing[drawing.index("<svg") :])
    # Names are unique in a page, not in a drawing alone.
    mark = hashlib.sha256(drawing.encode()).hexdigest()[:8]
    drawing = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{mark}-", drawing)
    return Markup(drawing.replace("xlink:href", "href").replace(INK, "currentColor"))


def picture(path: Path, quality: int = 80) -> Picture:
    """An image file as WebP: a tenth of the PNG. Raises OSError for what is no image."""
    with Image.open(path) as image:
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, format="WEBP", quality=quality)
        encoded = base64.b64encode(buffer.getvalue()).decode()
        return Picture(f"data:image/webp;base64,{encoded}", *image.size)
