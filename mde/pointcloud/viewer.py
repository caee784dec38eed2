"""A page that shows a cloud and can be turned by hand: one file, which needs no network."""

import base64
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from mde.files import write_bytes
from mde.pointcloud.cloud import PointCloud
from mde.pointcloud.view import View, thin

MOST_POINTS = 500_000
"""Of a page: 6 MB, which phones still turn smoothly."""


def write_viewer(path: Path, cloud: PointCloud, title: str) -> None:
    """Write an HTML page with at most MOST_POINTS of a cloud; it says when that is not all."""
    shown = thin(cloud, MOST_POINTS)
    low, high = shown.points.min(0), shown.points.max(0)
    span = np.maximum(high - low, 1e-6)
    # 16 bits are half the size of floats, and steps of 1 mm in a scene of 65 m.
    places = np.rint((shown.points - low) / span * 65535).astype("<u2")
    view = View.of(shown)
    scene = {
        "low": low.tolist(),
        "span": span.tolist(),
        "pitch": shown.pitch,
        "distance": view.distance,
        "reach": view.reach,
    }
    pages = Environment(
        loader=PackageLoader("mde.pointcloud"), autoescape=True, undefined=StrictUndefined
    )
    page = pages.get_template("viewer.html").render(
        title=title,
        shown=len(shown.points),
        all=len(cloud.points),
        scene=scene,
        places=base64.b64encode(places.tobytes()).decode(),
        colors=base64.b64encode(shown.colors.tobytes()).decode(),
    )
    write_bytes(path, page.encode())
