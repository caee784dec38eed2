"""Painted things of a room: books, pictures, doors, drawers, rugs. One square texture each.

A painter returns the same RGBA squares as `materials`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mde.data.scenes.canvas import Canvas, Rect
from mde.data.scenes.materials import Painter


def _books(rng: np.random.Generator) -> NDArray[np.uint8]:
    canvas = Canvas((0.12, 0.09, 0.07))
    u = 0.0
    while u < 0.985:
        width = min(rng.uniform(0.02, 0.055), 1 - u)
        top = rng.uniform(0.06, 0.34)
        hue = np.clip(rng.uniform(0.15, 0.85) + rng.uniform(-0.3, 0.3, 3), 0.08, 0.95)
        canvas.rect((u, top, u + width - 0.003, 1), hue.tolist())
        canvas.rect((u, top + 0.1, u + width - 0.003, top + 0.16), (1 - 0.8 * hue).tolist())
        u += width
    return canvas.finish(0.01, rng)


def _painting(motif: str) -> Painter:
    """A framed picture: "landscape", "abstract" or "still"."""

    def paint(rng: np.random.Generator) -> NDArray[np.uint8]:
        canvas = Canvas(rng.uniform(0.5, 0.9, 3).tolist())
        if motif == "landscape":
            canvas.rect((0, 0, 1, 0.55), (0.55, 0.7, 0.88))
            for base in (0.45, 0.58, 0.72):
                u = np.linspace(0, 1, 40)
                ridge = base + 0.08 * np.sin(rng.uniform(4, 12) * u + rng.uniform(0, 6))
                green = (np.array([0.35, 0.5, 0.3]) * rng.uniform(0.5, 1.2)).tolist()
                canvas.polygon([*zip(u, ridge, strict=True), (1, 1), (0, 1)], green)
        else:
            for _ in range(9 if motif == "abstract" else 5):
                center, radii = rng.uniform(0.15, 0.85, 2), rng.uniform(0.06, 0.25, 2)
                canvas.ellipse(center.tolist(), radii.tolist(), rng.uniform(0.1, 0.95, 3).tolist())
        for inset, color in ((0.0, [0.2, 0.13, 0.08]), (0.045, [0.93, 0.92, 0.88])):
            far, width = 1 - inset, 0.045
            near, low, high = inset, inset + width, far - width
            canvas.rect((near, near, far, low), color)
            canvas.rect((near, high, far, far), color)
            canvas.rect((near, near, low, far), color)
            canvas.rect((high, near, far, far), color)
        return canvas.finish(0.015, rng)

    return paint


def _window(rng: np.random.Generator) -> NDArray[np.uint8]:
    canvas = Canvas((0.82, 0.90, 0.98))
    canvas.rect((0, 0.62, 1, 1), (0.55, 0.66, 0.48))
    for _ in range(60):
        center = (rng.uniform(0, 1), rng.uniform(0.5, 0.72))
        canvas.ellipse(
            center, (0.06, 0.05), (np.array([0.5, 0.62, 0.42]) * rng.uniform(0.8, 1.3)).tolist()
        )
    canvas.rect((0.55, 0.42, 0.85, 0.7), (0.85, 0.78, 0.7))
    canvas.polygon([(0.52, 0.42), (0.7, 0.3), (0.88, 0.42)], (0.7, 0.45, 0.38))
    for box in (
        (0, 0, 1, 0.05),
        (0, 0.95, 1, 1),
        (0, 0, 0.05, 1),
        (0.95, 0, 1, 1),
        (0.47, 0, 0.53, 1),
    ):
        canvas.rect(box, (0.96, 0.96, 0.95))
    return canvas.finish()


def _framed(panels: Sequence[Rect], knobs: Sequence[tuple[float, float]]) -> Painter:
    """A near-white door or drawer front with recessed panels and dark knobs."""

    def paint(rng: np.random.Generator) -> NDArray[np.uint8]:
        canvas = Canvas((0.9, 0.9, 0.9))
        for u0, v0, u1, v1 in panels:
            canvas.rect((u0, v0, u1, v1), (0.62, 0.62, 0.62))
            canvas.rect((u0 + 0.015, v0 + 0.012, u1, v1), (0.97, 0.97, 0.97))
            canvas.rect((u0 + 0.015, v0 + 0.012, u1 - 0.012, v1 - 0.01), (0.86, 0.86, 0.86))
        for center in knobs:
            canvas.ellipse(center, (0.025, 0.02), (0.22, 0.2, 0.18))
        return canvas.finish(0.012, rng)

    return paint


def _screen(rng: np.random.Generator) -> NDArray[np.uint8]:
    canvas = Canvas((0.05, 0.05, 0.06))
    canvas.polygon([(0.04, 0.05), (0.96, 0.05), (0.96, 0.4), (0.04, 0.93)], (0.13, 0.14, 0.17))
    return canvas.finish(0.008, rng)


def _rug(rng: np.random.Generator) -> NDArray[np.uint8]:
    canvas = Canvas((0.85, 0.8, 0.7))
    for inset, color in (
        (0.02, (0.55, 0.2, 0.18)),
        (0.08, (0.9, 0.83, 0.68)),
        (0.11, (0.35, 0.2, 0.25)),
    ):
        canvas.rect((inset, inset, 1 - inset, 1 - inset), color)
    for row in range(5):
        for column in range(5):
            u, v, r = 0.2 + 0.15 * column, 0.2 + 0.15 * row, 0.055
            canvas.polygon([(u - r, v), (u, v - r), (u + r, v), (u, v + r)], (0.8, 0.62, 0.42))
            canvas.ellipse((u, v), (r / 3, r / 3), (0.4, 0.15, 0.15))
    return canvas.finish(0.03, rng)


def _quilt(rng: np.random.Generator) -> NDArray[np.uint8]:
    canvas = Canvas((0.9, 0.9, 0.9))
    for row in range(6):
        for column in range(6):
            tone = rng.choice([0.6, 0.75, 0.9, 1.0])
            box = (column / 6, row / 6, (column + 0.97) / 6, (row + 0.97) / 6)
            canvas.rect(box, (tone, tone, tone))
    return canvas.finish(0.03, rng)


_THREE_ROWS = [(0.04, row / 3 + 0.03, 0.96, (row + 1) / 3 - 0.03) for row in range(3)]

INDOOR_DRAWINGS: dict[str, Painter] = {
    "books": _books,
    "books_low": _books,
    "landscape": _painting("landscape"),
    "abstract": _painting("abstract"),
    "still": _painting("still"),
    "window": _window,
    "door": _framed([(0.14, 0.05, 0.86, 0.42), (0.14, 0.5, 0.86, 0.95)], [(0.92, 0.5)]),
    "drawers": _framed(_THREE_ROWS, [(0.5, 0.16), (0.5, 0.5), (0.5, 0.83)]),
    "cupboard": _framed(
        [(0.03, 0.04, 0.49, 0.96), (0.51, 0.04, 0.97, 0.96)], [(0.45, 0.5), (0.55, 0.5)]
    ),
    "screen": _screen,
    "rug": _rug,
    "quilt": _quilt,
}
