"""Furniture of usual sizes, each built of boxes in its own frame.

x is across, the back is at y = 0 and the front faces -y, z is up from the floor; metres.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from mde.data.scenes.mesh import LIGHT_FRAME, Color, Mesh, box, join, panel, prism

Size = tuple[float, float, float]
WOODS = ((0.95, 0.82, 0.66), (0.62, 0.42, 0.28), (0.42, 0.27, 0.18), (0.92, 0.90, 0.86))
FABRICS = (
    (0.60, 0.28, 0.24), (0.30, 0.38, 0.52), (0.46, 0.46, 0.44), (0.72, 0.64, 0.50),
    (0.32, 0.44, 0.34), (0.80, 0.76, 0.70), (0.28, 0.27, 0.30),
)  # fmt: skip


def pick(rng: np.random.Generator, colors: tuple[Color, ...]) -> np.ndarray:
    """One of the colours, slightly varied."""
    return np.asarray(colors[rng.integers(len(colors))]) * rng.uniform(0.88, 1.08)


def muted(rng: np.random.Generator) -> np.ndarray:
    """A random colour of modest saturation."""
    return np.clip(rng.uniform(0.25, 0.9) + rng.uniform(-0.16, 0.16, 3), 0.05, 1.0)


def _wood_box(size: Size, base: Size, color: Color) -> Mesh:
    return box(size, base, "wood", color, 0.9, light=LIGHT_FRAME)


def _legs(width: float, depth: float, height: float, thick: float, color: Color) -> list[Mesh]:
    x, y = width / 2 - thick, depth / 2 - thick
    return [
        _wood_box((thick, thick, height), (sx * x, -depth / 2 + sy * y, 0), color)
        for sx in (-1, 1)
        for sy in (-1, 1)
    ]


def table(rng: np.random.Generator, width: float, depth: float, height: float) -> Mesh:
    """A four-legged table with a few things on it."""
    color = pick(rng, WOODS)
    parts = _legs(width, depth, height - 0.04, 0.07, color * 0.9)
    parts.append(_wood_box((width, depth, 0.04), (0, -depth / 2, height - 0.04), color))
    parts.append(
        _wood_box((width - 0.1, depth - 0.1, 0.08), (0, -depth / 2, height - 0.12), color * 0.8)
    )
    for _ in range(rng.integers(1, 4)):
        x, y = rng.uniform(-0.38, 0.38) * width, -depth / 2 + rng.uniform(-0.3, 0.3) * depth
        parts.append(_clutter(rng).placed(x, y, height, rng.uniform(0, 6)))
    return join(parts)


def _clutter(rng: np.random.Generator) -> Mesh:
    """A small thing for a table top: books, a plant, a box, a laptop."""
    tone = muted(rng)
    kind = rng.integers(4)
    if kind == 0:
        stack = [
            box((0.24, 0.17, 0.035), (0, 0, 0.035 * i), "weave", muted(rng), 0.3)
            .placed(0, 0, 0, rng.uniform(-0.3, 0.3))
            for i in range(3)
        ]  # fmt: skip
        return join(stack)
    if kind == 1:
        return join([prism(0.07, 0.26, sides=8, color=tone), _leaves(rng, (0, 0, 0.36), 0.16, 8)])
    if kind == 2:
        return box((0.3, 0.2, 0.16), texture="weave", color=tone, tile_m=0.5, light=LIGHT_FRAME)
    lid = panel((-0.17, 0.19, 0.23), (0.34, 0, 0), (0, -0.08, -0.21), "screen", two_sided=True)
    return join([lid, box((0.34, 0.24, 0.02), texture="plaster", color=(0.4, 0.4, 0.42))])


def _leaves(rng: np.random.Generator, center: tuple, radius: float, count: int) -> Mesh:
    clusters = []
    for _ in range(count):
        e1, e2 = np.linalg.qr(rng.standard_normal((3, 3)))[0][:2] * radius * 1.7
        middle = np.asarray(center) + rng.standard_normal(3) * radius * 0.4
        tone = rng.uniform(0.8, 1.25)
        clusters.append(
            panel(middle - (e1 + e2) / 2, e1, e2, "leaves", (tone,) * 3, two_sided=True)
        )
    return join(clusters)


def chair(rng: np.random.Generator, color: np.ndarray) -> Mesh:
    """A dining or desk chair; its back rest is at y = 0, one looks towards -y."""
    cushion = pick(rng, FABRICS)
    parts = _legs(0.43, 0.43, 0.44, 0.045, color * 0.9)
    parts.append(
        box((0.43, 0.43, 0.05), (0, -0.215, 0.43), "weave", cushion, 0.4, light=LIGHT_FRAME)
    )
    for x in (-0.19, 0.19):
        parts.append(_wood_box((0.045, 0.04, 0.46), (x, -0.02, 0.47), color))
    for z in (0.6, 0.76, 0.88):
        parts.append(_wood_box((0.36, 0.025, 0.07), (0, -0.02, z), color))
    return join(parts)


def sofa(rng: np.random.Generator, seats: int) -> Mesh:
    """A sofa, or an armchair where `seats` is 1."""
    color, width = pick(rng, FABRICS), 0.62 * seats + 0.4
    cloth = partial(box, texture="weave", tile_m=0.5, light=LIGHT_FRAME)
    parts = [
        cloth((width, 0.85, 0.24), (0, -0.425, 0.06), color=color * 0.85),
        cloth((width, 0.22, 0.55), (0, -0.11, 0.30), color=color * 0.95),
    ]
    for side in (-1, 1):
        x = side * (width / 2 - 0.1)
        parts.append(cloth((0.2, 0.86, 0.56), (x, -0.43, 0.06), color=color))
    for seat in range(seats):
        x = (seat - (seats - 1) / 2) * 0.62
        parts.append(cloth((0.6, 0.62, 0.16), (x, -0.53, 0.30), color=color * 1.05))
        parts.append(cloth((0.58, 0.14, 0.36), (x, -0.28, 0.46), color=color))
    for x in rng.uniform(-0.4, 0.4, 2) * (width - 0.5):
        pillow = box((0.4, 0.12, 0.36), (0, 0, 0), "damask", muted(rng), 0.4)
        parts.append(pillow.placed(x, -0.42, 0.46, rng.uniform(-0.3, 0.3)))
    return join(parts)


def bed(rng: np.random.Generator, width: float) -> Mesh:
    """A bed with its head board at the wall."""
    wood = pick(rng, WOODS)
    quilt = muted(rng)
    parts = [
        _wood_box((width + 0.06, 0.06, 1.0), (0, -0.03, 0), wood),
        _wood_box((width, 2.0, 0.28), (0, -1.06, 0.06), wood),
        box((width - 0.02, 1.96, 0.2), (0, -1.06, 0.34), "weave", (0.95, 0.94, 0.92), 0.6),
        box((width + 0.04, 1.42, 0.26), (0, -1.36, 0.32), "weave", quilt, 0.8, {"top": "quilt"},
            LIGHT_FRAME),
    ]  # fmt: skip
    for x in (-0.25, 0.25) if width > 1.3 else (0.0,):
        size = (0.6 if width < 1.3 else 0.42 * width, 0.4, 0.14)
        parts.append(box(size, (x * width, -0.32, 0.54), "weave", (0.97, 0.96, 0.94), 0.5,
                         light=LIGHT_FRAME))  # fmt: skip
    return join(parts)


def bookcase(rng: np.random.Generator, width: float, height: float) -> Mesh:
    """An open bookcase: frame, boards, rows of books of differing depth."""
    color, depth, thick = pick(rng, WOODS), 0.3, 0.025
    parts = [
        panel((-width / 2, -0.02, height), (width, 0, 0), (0, 0, -height), "wood", color * 0.5, 0.9)
    ]
    for x in (-1, 1):
        side = (x * (width - thick) / 2, -depth / 2, 0)
        parts.append(_wood_box((thick, depth, height), side, color))
    shelves = round(height / 0.36)
    for level in range(shelves + 1):
        z = level * (height - thick) / shelves
        parts.append(_wood_box((width, depth, thick), (0, -depth / 2, z), color))
        if level == shelves or rng.uniform() < 0.15:
            continue
        run = width * rng.uniform(0.45, 0.93)
        deep = rng.uniform(0.16, 0.24)
        shift = rng.uniform(-0.5, 0.5) * (width - run - 0.06)
        books = rng.choice(["books", "books_low"])
        # The shelf's upper, empty part of the books texture would hang in the air: cut it off.
        parts.append(box((run, deep, 0.24), (shift, -deep / 2 - 0.02, z + thick), "weave",
                         (0.8, 0.76, 0.7), 0.3, faces={"-y": str(books)}))  # fmt: skip
    return join(parts)


def cabinet(rng: np.random.Generator, width: float, height: float, front: str) -> Mesh:
    """A closed cabinet: a wardrobe, chest or kitchen unit by its size; front: a texture."""
    color, depth = pick(rng, WOODS), 0.45 if height < 1.5 else 0.58
    parts, units = [], max(1, round(width / 0.6))
    for unit in range(units):
        x = (unit - (units - 1) / 2) * width / units
        size = (width / units - 0.006, depth, height - 0.08)
        parts.append(box(size, (x, -depth / 2, 0.08), "wood", color, 0.9, {"-y": front}))
    parts.append(box((width - 0.04, depth - 0.06, 0.08), (0, -depth / 2, 0), "dark"))
    parts.append(
        _wood_box((width + 0.02, depth + 0.02, 0.03), (0, -depth / 2 - 0.01, height), color * 0.9)
    )
    return join(parts)


def kitchen(rng: np.random.Generator, width: float) -> Mesh:
    """Kitchen units: base cabinets, worktop, tiled wall, hanging cabinets, cooker, fridge."""
    color, top = pick(rng, WOODS), muted(rng)
    parts = [
        panel((-width / 2, -0.01, 1.45), (width, 0, 0), (0, 0, -0.55), "tiles", (1, 1, 1), 0.6)
    ]
    units = max(2, round(width / 0.6))
    step = width / units
    for unit in range(units):
        x = (unit - (units - 1) / 2) * step
        if unit == 0:
            fridge = box(
                (step - 0.01, 0.62, 1.75),
                (x, -0.31, 0.02),
                "metal",
                (0.95, 0.95, 0.94),
                light=LIGHT_FRAME,
            )
            parts.append(fridge)  # fmt: skip
            continue
        front = str(rng.choice(["drawers", "cupboard"])) if unit != units // 2 else "screen"
        parts.append(box((step - 0.008, 0.58, 0.78), (x, -0.29, 0.1), "wood", color, 0.9,
                         faces={"-y": front}))  # fmt: skip
        if unit != units // 2:
            parts.append(box((step - 0.008, 0.34, 0.68), (x, -0.17, 1.45), "wood", color, 0.9,
                             faces={"-y": "cupboard"}))  # fmt: skip
        else:
            parts.append(box((step * 0.9, 0.5, 0.01), (x, -0.3, 0.92), "dark"))
            parts.append(box((step * 0.9, 0.45, 0.1), (x, -0.22, 1.6), "metal", (0.6, 0.6, 0.62)))
            parts.append(box((0.3, 0.3, 0.7), (x, -0.15, 1.7), "metal", (0.7, 0.7, 0.72)))
    counter = width - step
    parts.append(box((counter, 0.62, 0.04), (step / 2, -0.31, 0.88), "concrete", top, 1.0))
    parts.append(_clutter(rng).placed(width * 0.35, -0.3, 0.92, 1.0))
    return join(parts)


def desk(rng: np.random.Generator) -> Mesh:
    """A desk with drawers, a monitor and a keyboard."""
    parts = [table(rng, 1.4, 0.7, 0.74), cabinet(rng, 0.42, 0.6, "drawers").placed(0.42, -0.1, 0)]
    parts.append(box((0.56, 0.04, 0.34), (-0.15, -0.2, 0.86), "dark", faces={"-y": "screen"}))
    parts.append(box((0.2, 0.18, 0.13), (-0.15, -0.18, 0.74), "dark"))
    parts.append(box((0.44, 0.15, 0.02), (-0.15, -0.48, 0.74), "plaster", (0.3, 0.3, 0.31)))
    return join(parts)


def television(rng: np.random.Generator) -> Mesh:
    """A flat television on a low stand."""
    stand = cabinet(rng, 1.5, 0.45, "cupboard")
    screen = box((1.15, 0.06, 0.66), (0, -0.22, 0.55), "dark", faces={"-y": "screen"})
    return join([stand, screen, box((0.4, 0.2, 0.08), (0, -0.22, 0.47), "dark")])


def floor_lamp(rng: np.random.Generator) -> Mesh:
    """A floor lamp with a cloth shade."""
    shade = np.array([1.15, 1.05, 0.85]) * rng.uniform(0.9, 1.1)
    return join([
        box((0.26, 0.26, 0.03), (0, -0.2, 0), "dark"),
        prism(0.016, 1.35, (0, -0.2, 0), 6, "metal", (0.35, 0.33, 0.3)),
        prism(0.19, 0.28, (0, -0.2, 1.32), 12, "folds", shade),
    ])  # fmt: skip


def plant(rng: np.random.Generator) -> Mesh:
    """A potted plant."""
    height = rng.uniform(0.5, 0.9)
    pot = prism(0.17, 0.32, (0, -0.25, 0), 10, "plaster", pick(rng, FABRICS))
    stem = prism(0.02, height, (0, -0.25, 0.2), 5, "bark", tile_m=0.5)
    soil = box((0.22, 0.22, 0.28), (0, -0.25, 0), "dark")
    return join([pot, soil, stem, _leaves(rng, (0, -0.25, 0.3 + height), 0.3, 14)])


def carton(rng: np.random.Generator) -> Mesh:
    """A storage box or two."""
    tone = np.array([0.78, 0.62, 0.44]) if rng.uniform() < 0.6 else muted(rng)
    size = rng.uniform((0.35, 0.3, 0.25), (0.55, 0.4, 0.4))
    low = box(size, (0, -0.25, 0), "plaster", tone, 0.8, light=LIGHT_FRAME)
    if rng.uniform() < 0.5:
        return low
    high = box(size * 0.8, (0, 0, 0), "plaster", tone * 0.9, 0.8, light=LIGHT_FRAME)
    return join([low, high.placed(0, -0.25, size[2], rng.uniform(-0.4, 0.4))])
