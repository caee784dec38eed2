"""What hangs on or opens a wall: doors, windows with curtains, pictures.

Each is built with its back at y = 0, its front to -y, x across.
"""

from __future__ import annotations

import numpy as np

from mde.data.scenes.furniture import FABRICS, WOODS, pick
from mde.data.scenes.mesh import Mesh, box, join, panel


def door(rng: np.random.Generator) -> Mesh:
    """A closed door in its frame, 1 m wide."""
    leaf = panel((-0.44, -0.06, 2.02), (0.88, 0, 0), (0, 0, -2.02), "door", pick(rng, WOODS))
    return join([box((1.0, 0.05, 2.1), (0, -0.025, 0), "wood", (0.9, 0.88, 0.84), 1.0), leaf])


def window(rng: np.random.Generator, width: float) -> Mesh:
    """A bright window with a sill, mostly with curtains."""
    height, sill = float(rng.uniform(1.1, 1.4)), 0.9
    glow = (1.35, 1.35, 1.35)
    parts = [
        panel((-width / 2, -0.012, sill + height), (width, 0, 0), (0, 0, -height), "window", glow),
        box((width + 0.2, 0.16, 0.035), (0, -0.08, sill - 0.05), "plaster", (1, 1, 1)),
    ]
    if rng.uniform() < 0.7:
        tone = pick(rng, FABRICS) * 1.15
        for side in (-1, 1):
            at = (side * (width / 2 + 0.08), -0.1, 0.25)
            parts.append(box((0.42, 0.08, sill + height), at, "folds", tone, 1.0))
        rail = (width + 0.7, 0.03, 0.03)
        parts.append(box(rail, (0, -0.1, sill + height + 0.25), "metal", (0.4, 0.36, 0.3)))
    return join(parts)


def picture(rng: np.random.Generator) -> Mesh:
    """A framed picture at eye height."""
    width, height = rng.uniform((0.35, 0.35), (0.8, 0.6))
    motif = str(rng.choice(["landscape", "abstract", "still"]))
    at = (0, -0.015, float(rng.uniform(1.35, 1.55)))
    tone = rng.uniform(0.8, 1.1, 3)
    return box((width, 0.03, height), at, "dark", tone, faces={"-y": motif})
