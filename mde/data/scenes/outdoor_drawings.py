"""Painted things of the street: facades, car bodies, signs, fences. One square texture each.

A painter returns the same RGBA squares as `materials`; outlines are cut out by their alpha.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mde.data.scenes.canvas import Canvas, Rect
from mde.data.scenes.materials import Color, Painter

CAR_LENGTH_M, CAR_SIDE_HEIGHT_M = 4.4, 1.1
# Side view of the lower body and of the cabins: (x, z) in metres from the rear axle's end, ground.
BODY_PROFILE = (
    (0.03, 0.24), (0.0, 0.55), (0.08, 0.92), (0.5, 0.98), (3.1, 0.97),
    (4.1, 0.80), (4.36, 0.62), (4.4, 0.24),
)  # fmt: skip
CABIN_PROFILES = {
    "sedan": ((0.55, 0.95), (1.15, 1.40), (2.35, 1.45), (3.25, 0.95)),
    "wagon": ((0.06, 0.92), (0.30, 1.45), (2.30, 1.53), (3.25, 0.95)),
    "van": ((0.04, 0.92), (0.12, 1.85), (2.90, 1.88), (3.70, 0.88)),
}
_GLASS = (0.13, 0.16, 0.19)


def _facade(wall: Color, window: Rect, style: str) -> Painter:
    """One bay of a facade, repeated: wall, frame, panes; style: "cross", "wide" or "shutters"."""

    def paint(rng: np.random.Generator) -> NDArray[np.uint8]:
        canvas = Canvas(wall)
        u0, v0, u1, v1 = window
        if style == "shutters":
            for left in (u0 - 0.2, u1 + 0.03):
                canvas.rect((left, v0, left + 0.17, v1), (0.35, 0.42, 0.36))
                for slat in np.arange(v0 + 0.03, v1 - 0.02, 0.04):
                    canvas.rect((left + 0.02, slat, left + 0.15, slat + 0.012), (0.25, 0.3, 0.26))
        canvas.rect((u0 - 0.04, v0 - 0.04, u1 + 0.04, v1 + 0.05), [0.8 * c for c in wall])
        canvas.rect((u0 - 0.02, v0 - 0.02, u1 + 0.02, v1 + 0.02), (0.93, 0.93, 0.91))
        canvas.rect((u0, v0, u1, v1), (0.20, 0.25, 0.30))
        canvas.polygon([(u0, v1), (u1, v0 + 0.1), (u1, v1)], (0.30, 0.36, 0.42))
        canvas.rect((u0, v0, u1, v0 + 0.035), (0.1, 0.12, 0.14))
        middle = (u0 + u1) / 2
        canvas.rect((middle - 0.012, v0, middle + 0.012, v1), (0.93, 0.93, 0.91))
        if style == "cross":
            high = v0 + 0.3 * (v1 - v0)
            canvas.rect((u0, high - 0.01, u1, high + 0.01), (0.93, 0.93, 0.91))
        canvas.rect((u0 - 0.06, v1 + 0.02, u1 + 0.06, v1 + 0.06), (0.8, 0.79, 0.77))
        canvas.rect((0, 0.96, 1, 1), [0.9 * c for c in wall])
        return canvas.finish(0.015, rng)

    return paint


def _entrance(rng: np.random.Generator) -> NDArray[np.uint8]:
    canvas = Canvas((0.78, 0.76, 0.72))
    canvas.rect((0.06, 0.22, 0.36, 1.0), (0.55, 0.54, 0.52))
    canvas.rect((0.09, 0.25, 0.33, 1.0), (0.33, 0.2, 0.13))
    canvas.rect((0.14, 0.32, 0.28, 0.58), (0.3, 0.36, 0.4))
    canvas.rect((0.44, 0.24, 0.96, 0.82), (0.9, 0.9, 0.88))
    canvas.rect((0.46, 0.27, 0.94, 0.8), (0.18, 0.22, 0.26))
    canvas.polygon([(0.46, 0.8), (0.94, 0.4), (0.94, 0.8)], (0.3, 0.34, 0.38))
    canvas.rect((0.69, 0.27, 0.71, 0.8), (0.9, 0.9, 0.88))
    canvas.rect((0, 0.9, 0.06, 1), (0.5, 0.5, 0.5))
    canvas.rect((0.36, 0.9, 1, 1), (0.5, 0.5, 0.5))
    return canvas.finish(0.015, rng)


def _body_side(rng: np.random.Generator) -> NDArray[np.uint8]:
    scale = np.array([CAR_LENGTH_M, CAR_SIDE_HEIGHT_M])

    def to_unit(points: Sequence[Sequence[float]]) -> list[list[float]]:
        unit = np.asarray(points) / scale
        return np.stack([unit[:, 0], 1 - unit[:, 1]], 1).tolist()

    canvas = Canvas(None)
    canvas.polygon(to_unit(BODY_PROFILE), (0.94, 0.94, 0.94))
    canvas.polygon(to_unit([(0.02, 0.24), (4.4, 0.24), (4.4, 0.36), (0, 0.36)]), (0.25, 0.25, 0.26))
    canvas.polygon(to_unit([(0, 0.63), (4.3, 0.63), (4.3, 0.66), (0, 0.66)]), (0.7, 0.7, 0.7))
    for x in (1.28, 2.42, 3.2):
        canvas.polygon(
            to_unit([(x, 0.36), (x + 0.02, 0.36), (x + 0.02, 0.95), (x, 0.95)]), [0.3] * 3
        )
    for x in (2.25, 1.35):
        canvas.polygon(to_unit([(x, 0.8), (x + 0.16, 0.8), (x + 0.16, 0.84), (x, 0.84)]), [0.2] * 3)
    canvas.polygon(to_unit([(0, 0.7), (0.3, 0.7), (0.3, 0.88), (0.05, 0.88)]), (0.7, 0.1, 0.08))
    canvas.polygon(to_unit([(4.37, 0.62), (3.95, 0.66), (4.1, 0.78)]), (0.95, 0.95, 0.9))
    for x in (0.83, 3.45):
        center = to_unit([(x, 0.31)])[0]
        for radius, color in ((0.38, [0.06] * 3), (0.31, [0.12] * 3), (0.2, [0.62] * 3)):
            canvas.ellipse(center, radius / scale, color)
        canvas.ellipse(center, 0.06 / scale, (0.25, 0.25, 0.25))
    return canvas.finish(0.01, rng)


def _cabin_side(kind: str) -> Painter:
    """The glasshouse of one car kind: silhouette, side windows, pillars."""

    def paint(rng: np.random.Generator) -> NDArray[np.uint8]:
        profile = np.asarray(CABIN_PROFILES[kind])
        low, high = profile.min(0), profile.max(0)
        unit = (profile - low) / (high - low)
        unit[:, 1] = 1 - unit[:, 1]
        canvas = Canvas(None)
        canvas.polygon(unit.tolist(), (0.9, 0.9, 0.9))
        margin = (0.05, 0.12) if kind != "van" else (0.05, 0.1)
        inner = unit.mean(0) + (unit - unit.mean(0)) * (1 - 2 * np.array(margin))
        if kind == "van":
            inner[[0, 3], 1] -= 0.35
            inner[0, 0], inner[1, 0] = 0.62, 0.62
            inner[3, 0] -= 0.06
        canvas.polygon(inner.tolist(), _GLASS)
        for u in (0.45, 0.2) if kind != "van" else ():
            canvas.rect((u, 0.05, u + 0.025, 0.95), (0.3, 0.3, 0.3))
        return canvas.finish(0.01, rng)

    return paint


def _car_end(lights: Color, grille: bool) -> Painter:
    """Front or rear of the lower car body: lights, plate, bumper."""

    def paint(rng: np.random.Generator) -> NDArray[np.uint8]:
        canvas = Canvas((0.92, 0.92, 0.92))
        canvas.rect((0, 0.78, 1, 1), (0.22, 0.22, 0.23))
        for u in (0.04, 0.76):
            canvas.rect((u, 0.15, u + 0.2, 0.42), lights)
        if grille:
            canvas.rect((0.28, 0.2, 0.72, 0.42), (0.12, 0.12, 0.13))
        canvas.rect((0.34, 0.52, 0.66, 0.68), (0.96, 0.96, 0.93))
        canvas.rect((0.38, 0.56, 0.62, 0.64), (0.3, 0.3, 0.32))
        return canvas.finish(0.01, rng)

    return paint


def _sign(shape: str, rim: Color, fill: Color) -> Painter:
    """A traffic sign cut out of the square: "disc", "triangle" or "board"."""

    def paint(rng: np.random.Generator) -> NDArray[np.uint8]:
        canvas = Canvas(None)
        for size, color in ((0.5, rim), (0.37, fill)):
            if shape == "disc":
                canvas.ellipse((0.5, 0.5), (size, size), color)
            elif shape == "triangle":
                corners = np.array([(0, -0.72), (0.86, 0.72), (-0.86, 0.72)]) * size * 1.1
                center = np.array([0.5, 0.6 - 0.2 * size])
                canvas.polygon((corners + center).tolist(), color)
            else:
                canvas.rect((0.5 - size, 0.5 - size, 0.5 + size, 0.5 + size), color)
        canvas.rect((0.38, 0.44, 0.62, 0.56), rim)
        return canvas.finish()

    return paint


def _gable(rng: np.random.Generator) -> NDArray[np.uint8]:
    canvas = Canvas(None)
    canvas.polygon([(0, 1), (0.5, 0), (1, 1)], (0.88, 0.86, 0.82))
    canvas.rect((0.44, 0.5, 0.56, 0.74), (0.25, 0.3, 0.34))
    return canvas.finish(0.02, rng)


def _slats(rng: np.random.Generator) -> NDArray[np.uint8]:
    canvas = Canvas(None)
    for step in range(10):
        tone = rng.uniform(0.75, 0.95)
        canvas.rect(
            (step / 10 + 0.012, 0.02, step / 10 + 0.085, 1), (tone, 0.85 * tone, 0.7 * tone)
        )
    for v in (0.2, 0.75):
        canvas.rect((0, v, 1, v + 0.07), (0.7, 0.58, 0.47))
    return canvas.finish(0.02, rng)


def _treeline(rng: np.random.Generator) -> NDArray[np.uint8]:
    canvas = Canvas(None)
    for step in range(900):
        u, v = rng.uniform(0, 1), rng.uniform(0.05, 1.0) ** 0.8
        if v < 0.3 + 0.14 * np.sin(2 * np.pi * 3 * u) + 0.1 * np.sin(2 * np.pi * 7 * u + 1):
            continue
        tone = (0.3 + 0.5 * step / 900) * rng.uniform(0.8, 1.1)
        for shift in (-1, 0, 1):
            canvas.ellipse((u + shift, v), (0.035, 0.028), (0.42 * tone, 0.55 * tone, 0.27 * tone))
    canvas.rect((0, 0.6, 1, 1), (0.17, 0.22, 0.12)) if canvas.pixels[-1, :, 3].min() < 1 else None
    return canvas.finish(0.02, rng)


OUTDOOR_DRAWINGS: dict[str, Painter] = {
    "facade_cross": _facade((0.92, 0.90, 0.86), (0.3, 0.22, 0.7, 0.76), "cross"),
    "facade_wide": _facade((0.90, 0.88, 0.85), (0.16, 0.24, 0.84, 0.76), "wide"),
    "facade_shutters": _facade((0.93, 0.88, 0.78), (0.34, 0.24, 0.66, 0.78), "shutters"),
    "entrance": _entrance,
    "gable": _gable,
    "slats": _slats,
    "treeline": _treeline,
    "body_side": _body_side,
    **{f"cabin_{kind}": _cabin_side(kind) for kind in CABIN_PROFILES},
    "car_front": _car_end((0.95, 0.95, 0.9), True),
    "car_rear": _car_end((0.72, 0.1, 0.08), False),
    "sign_limit": _sign("disc", (0.8, 0.1, 0.1), (0.96, 0.96, 0.96)),
    "sign_blue": _sign("disc", (0.9, 0.92, 0.95), (0.1, 0.25, 0.65)),
    "sign_warning": _sign("triangle", (0.8, 0.1, 0.1), (0.96, 0.96, 0.96)),
    "sign_board": _sign("board", (0.95, 0.95, 0.95), (0.9, 0.75, 0.1)),
}
