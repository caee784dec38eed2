"""What stands along a street: cars, trees, houses, lamps, signs, hedges, fences.

Every builder returns a `Mesh` in its own frame: x forward (for houses: along the street), y left,
z up, standing on z = 0.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from mde.data.scenes.mesh import (
    LIGHT_FOOT,
    LIGHT_FRAME,
    Color,
    Mesh,
    box,
    join,
    panel,
    prism,
)
from mde.data.scenes.outdoor_drawings import (
    BODY_PROFILE,
    CABIN_PROFILES,
    CAR_LENGTH_M,
    CAR_SIDE_HEIGHT_M,
)

CAR_COLORS = (
    (0.75, 0.76, 0.78), (0.16, 0.17, 0.19), (0.93, 0.93, 0.92), (0.42, 0.44, 0.47),
    (0.62, 0.10, 0.10), (0.12, 0.20, 0.42), (0.22, 0.34, 0.30), (0.55, 0.50, 0.40),
)  # fmt: skip
WALL_COLORS = (
    (1.0, 0.97, 0.90), (0.98, 0.88, 0.68), (0.90, 0.72, 0.58), (0.78, 0.84, 0.90),
    (0.93, 0.93, 0.93), (0.82, 0.88, 0.78), (0.95, 0.80, 0.74), (0.74, 0.70, 0.66),
)  # fmt: skip
_CAR_WIDTH_M = 1.76
_GLASS = (0.17, 0.20, 0.24)


def car(kind: str, color: Color) -> Mesh:
    """A car, its rear end at x = -2.2: extruded body and cabin with painted sides.

    kind: "sedan", "wagon" or "van".
    """
    half = _CAR_WIDTH_M / 2
    body = np.asarray(BODY_PROFILE) - (CAR_LENGTH_M / 2, 0)
    cabin = np.asarray(CABIN_PROFILES[kind]) - (CAR_LENGTH_M / 2, 0)
    tuck = 0.13
    parts = [*_sides((-CAR_LENGTH_M / 2, 0), (CAR_LENGTH_M / 2, CAR_SIDE_HEIGHT_M), half, 0.0,
                     "body_side", color)]  # fmt: skip
    parts += _sides(cabin.min(0), cabin.max(0), half - 0.02, tuck, f"cabin_{kind}", color)
    for low, high in pairwise(body[2:7]):
        parts.append(_across(low, high, half, color))
    for index, (low, high) in enumerate(pairwise(cabin)):
        is_metal = index == 1 or (kind == "van" and index == 0)
        parts.append(_across(low, high, half - tuck / 2, color if is_metal else _GLASS))
    front, rear = CAR_LENGTH_M / 2, -CAR_LENGTH_M / 2
    parts += _end(front, 0.62, half, (0.92, 0.92, 0.86), color)
    parts += _end(rear, 0.95, half, (0.62, 0.08, 0.06), color)
    for x in (0.83, 3.45):
        center = (x - CAR_LENGTH_M / 2, 0.0, 0.02)
        parts.append(box((0.5, 2 * half - 0.12, 0.5), center, "dark"))
    return join(parts)


def _end(x: float, top: float, half: float, lights: Color, color: Color) -> list[Mesh]:
    """Front or rear of the lower body at `x`: paint, bumper, two lights, number plate."""
    way = 1.0 if x > 0 else -1.0

    def rect(left: float, right: float, high: float, low: float, out: float, tone: Color) -> Mesh:
        start = (x + way * out, -way * half * left, high)
        return panel(start, (0, way * half * (left - right), 0), (0, 0, low - high), "metal", tone)

    middle = 0.45 * 0.24 + 0.55 * top
    return [
        rect(1, -1, top, 0.24, 0.0, color),
        rect(1, -1, 0.44, 0.24, 0.03, (0.16, 0.16, 0.17)),
        rect(0.97, 0.62, top - 0.04, middle + 0.02, 0.02, lights),
        rect(-0.62, -0.97, top - 0.04, middle + 0.02, 0.02, lights),
        rect(0.3, -0.3, 0.57, 0.46, 0.035, (0.95, 0.95, 0.92)),
    ]


def _sides(low: tuple, high: tuple, half: float, tuck: float, texture: str, color: Color) -> list:
    """Left and right cut-out panels of a profile's bounds, leaning in by `tuck` at the top."""
    length, height = high[0] - low[0], high[1] - low[1]
    right = panel((low[0], -half + tuck, high[1]), (length, 0, 0), (0, -tuck, -height), texture,
                  color, two_sided=True)  # fmt: skip
    left = panel((low[0], half - tuck, high[1]), (length, 0, 0), (0, tuck, -height), texture,
                 color, two_sided=True)  # fmt: skip
    return [right, left]


def _across(low: np.ndarray, high: np.ndarray, half: float, color: Color) -> Mesh:
    """One segment of an extruded profile, from (x, z) `low` to `high`, seen from outside."""
    (x0, z0), (x1, z1) = low, high
    return panel((x1, half, z1), (0, -2 * half, 0), (x0 - x1, 0, z0 - z1), "metal", color, 2.0)


def tree(rng: np.random.Generator, height_m: float, clusters: int) -> Mesh:
    """A broad-leaved tree: a leaning trunk, two boughs, a crown of so many leaf clusters."""
    trunk_m = height_m * rng.uniform(0.34, 0.42)
    lean = rng.uniform(-0.25, 0.25, 2)
    radius = 0.045 * height_m * rng.uniform(0.45, 0.65)
    parts = [prism(radius, trunk_m + 0.8, texture="bark", tile_m=1.5, lean=lean.tolist())]
    top = (lean[0], lean[1], trunk_m)
    for angle in rng.uniform(0, 2 * np.pi, 2):
        reach = 0.16 * height_m * np.array([np.cos(angle), np.sin(angle)])
        parts.append(prism(radius * 0.5, 0.3 * height_m, top, 5, "bark", tile_m=1.5,
                           lean=reach.tolist()))  # fmt: skip
    crown = np.array([0.27, 0.27, 0.32]) * height_m
    tone = rng.uniform(0.85, 1.15) * np.array([rng.uniform(0.85, 1.25), 1.0, rng.uniform(0.7, 1.0)])
    parts.append(
        _crown(rng, np.array([lean[0], lean[1], height_m - crown[2]]), crown, tone, clusters)
    )
    return join(parts)


def _crown(
    rng: np.random.Generator, center: np.ndarray, radii: np.ndarray, tone: np.ndarray, count: int
) -> Mesh:
    """Leaf-cluster panels of random pose filling an ellipsoid; darker inside and below."""
    clusters = []
    for _ in range(count):
        direction = rng.standard_normal(3)
        direction /= np.linalg.norm(direction)
        depth = rng.uniform(0.35, 1.0) ** 0.5
        # Fewer clusters are larger, so that a crown stays as dense.
        e1, e2 = np.linalg.qr(rng.standard_normal((3, 3)))[0][:2] * radii.mean() * 5 / count**0.5
        shade = 0.45 + 0.35 * depth + 0.3 * direction[2] * depth
        middle = center + direction * radii * depth * 0.78
        clusters.append(panel(middle - (e1 + e2) / 2, e1, e2, "leaves",
                              (tone * shade).tolist(), two_sided=True))  # fmt: skip
    return join(clusters)


def house(rng: np.random.Generator, width_m: float, floors: int, depth_m: float = 9.0) -> Mesh:
    """A house whose street front faces -y at y = 0; flat or gable roof, painted windows."""
    bay, storey = 2.8, 3.0
    bays = max(2, round(width_m / bay))
    bay = width_m / bays
    height = floors * storey
    style = str(rng.choice(["facade_cross", "facade_wide", "facade_shutters"]))
    color = WALL_COLORS[rng.integers(len(WALL_COLORS))]
    plinth = 0.4
    parts = []
    sides = [
        ((-width_m / 2, 0), (1, 0), width_m), ((width_m / 2, 0), (0, 1), depth_m),
        ((width_m / 2, depth_m), (-1, 0), width_m), ((-width_m / 2, depth_m), (0, -1), depth_m),
    ]  # fmt: skip
    door = int(rng.integers(bays))
    for (x, y), (dx, dy), length in sides:
        count = max(1, round(length / bay))
        step = np.array([dx, dy, 0.0]) * length / count
        # Runs of equal bays: first bay, number of bays, top storey, number of storeys, texture.
        runs = [(0, count, floors, floors, style)]
        if (dx, dy) == (1, 0):
            runs = [
                (0, door, 1, 1, style), (door, 1, 1, 1, "entrance"),
                (door + 1, count - door - 1, 1, 1, style), (0, count, floors, floors - 1, style),
            ]  # fmt: skip
        for first, across, storeys, up, name in runs:
            if across and up:
                start = np.array([x, y, plinth + storeys * storey]) + step * first
                wall = panel(start, step * across, (0, 0, -storey * up), name, color)
                wall.uv[:, 0, 0], wall.uv[:, 1, 1] = across, up
                parts.append(wall)
    parts.append(box((width_m, depth_m, plinth + 0.02), (0, depth_m / 2, 0), "concrete",
                     (0.7, 0.7, 0.7), tile_m=2.0))  # fmt: skip
    parts.append(_roof(rng, width_m, depth_m, plinth + height, color))
    return join(parts)


def _roof(rng: np.random.Generator, width: float, depth: float, top: float, color: Color) -> Mesh:
    """A flat roof with a parapet, or a gable roof with its ridge along the street."""
    if rng.uniform() < 0.3:
        return box((width + 0.3, depth + 0.3, 0.5), (0, depth / 2, top), "concrete",
                   (0.8, 0.8, 0.8), tile_m=3.0)  # fmt: skip
    rise, over = depth * rng.uniform(0.3, 0.45), 0.4
    tone = rng.uniform(0.7, 1.1) * np.array([1, rng.uniform(0.8, 1.1), rng.uniform(0.8, 1.2)])
    slope = np.array([0, depth / 2 + over, rise + over * 2 * rise / depth])
    eaves = np.array([-width / 2 - over, -over, top - over * 2 * rise / depth])
    ridge = eaves + slope
    along = np.array([width + 2 * over, 0, 0])
    parts = [
        panel(ridge, along, -slope, "roof", tone.tolist(), tile_m=4.0),
        panel(ridge + along, -along, slope * (0, 1, -1), "roof", tone.tolist(), tile_m=4.0),
        box((width + 2 * over, 0.12, 0.14), (0, -over, eaves[2] - 0.1), "metal", (0.5, 0.5, 0.5)),
    ]
    for x in (-width / 2, width / 2):
        parts.append(panel((x, 0, top + rise), (0, depth, 0), (0, 0, -rise), "gable", color,
                           two_sided=True))  # fmt: skip
    if rng.uniform() < 0.7:
        at = (rng.uniform(-0.3, 0.3) * width, depth * 0.5, top + rise - 0.4)
        parts.append(box((0.6, 0.6, 1.3), at, "bricks", tile_m=1.0))
    return join(parts)


def street_lamp(height_m: float) -> Mesh:
    """A lamp post with an arm over the road (towards -y)."""
    metal = (0.5, 0.52, 0.53)
    return join([
        prism(0.09, height_m, sides=7, texture="metal", color=metal),
        box((0.08, 1.6, 0.08), (0, -0.8, height_m - 0.1), "metal", metal),
        box((0.22, 0.7, 0.12), (0, -1.6, height_m - 0.16), "metal", (0.75, 0.75, 0.75)),
    ])  # fmt: skip


def sign_post(texture: str) -> Mesh:
    """A traffic sign on a pole, facing traffic that drives along +x."""
    return join([
        prism(0.035, 2.9, sides=6, texture="metal", color=(0.6, 0.6, 0.6)),
        panel((-0.05, 0.33, 2.85), (0, -0.66, 0), (0, 0, -0.66), texture),
        panel((-0.045, -0.33, 2.85), (0, 0.66, 0), (0, 0, -0.66), texture, (0.45, 0.45, 0.45)),
    ])  # fmt: skip


def hedge(length_m: float, height_m: float) -> Mesh:
    """A trimmed hedge along x."""
    return box((length_m, 0.8, height_m), texture="foliage", tile_m=1.6, light=LIGHT_FRAME)


def fence(length_m: float) -> Mesh:
    """A picket fence along x."""
    fence_panel = panel((-length_m / 2, 0, 1.1), (length_m, 0, 0), (0, 0, -1.1), "slats",
                        two_sided=True)  # fmt: skip
    fence_panel.uv[:, 0, 0] = max(1, round(length_m / 1.2))
    return fence_panel


def wall(length_m: float, height_m: float, texture: str) -> Mesh:
    """A garden wall along x."""
    return box((length_m, 0.3, height_m), texture=texture, tile_m=2.0, light=LIGHT_FOOT)


def bin_box(color: Color) -> Mesh:
    """A wheeled bin."""
    return join([
        box((0.55, 0.6, 0.95), (0, 0, 0.06), "metal", color, light=LIGHT_FRAME),
        box((0.6, 0.66, 0.08), (0, 0, 1.0), "metal", tuple(0.8 * c for c in color)),
    ])  # fmt: skip
