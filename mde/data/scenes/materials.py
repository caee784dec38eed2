"""Tileable surface materials: asphalt, wood, cloth, plaster, leaves.

Each painter takes a random generator and returns (TEXTURE_SIZE, TEXTURE_SIZE, 4) uint8 RGBA.
Materials meant to be tinted are painted near white.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft

TEXTURE_SIZE = 512
Painter = Callable[[np.random.Generator], NDArray[np.uint8]]
Color = Sequence[float]


def tileable_noise(rng: np.random.Generator, power: float, stretch: float = 1.0) -> NDArray:
    """Noise with a 1/f^power amplitude spectrum that repeats without a seam.

    stretch > 1 makes the grain run along the columns (u). Returns (size, size) float32 with
    mean 0 and standard deviation 1, clipped to 2.5 deviations.
    """
    fy = np.fft.fftfreq(TEXTURE_SIZE)[:, None] * TEXTURE_SIZE
    fx = np.fft.rfftfreq(TEXTURE_SIZE)[None, :] * TEXTURE_SIZE * stretch
    radius = np.sqrt(fx**2 + fy**2)
    radius[0, 0] = np.inf
    white = fft.rfft2(rng.standard_normal((TEXTURE_SIZE, TEXTURE_SIZE), np.float32))
    noise = fft.irfft2(white * (radius**-power).astype(np.float32))
    return (noise / noise.std()).clip(-2.5, 2.5)


def to_rgba(value: NDArray, color: Color = (1, 1, 1), alpha: NDArray | None = None) -> NDArray:
    """Grey (H,W) or RGB (H,W,3) in [0,1], times a colour, as uint8 RGBA."""
    rgb = value[..., None] * np.asarray(color) if value.ndim == 2 else value * np.asarray(color)
    opacity = np.ones(value.shape[:2]) if alpha is None else alpha
    rgba = np.dstack([rgb, opacity])
    return (rgba * 255).round().clip(0, 255).astype(np.uint8)


def _grain(mean: float, fine: float, coarse: float, color: Color = (1, 1, 1)) -> Painter:
    """A painter of plain grainy stuff: fine and coarse noise about a mean grey."""

    def paint(rng: np.random.Generator) -> NDArray[np.uint8]:
        grain = fine * tileable_noise(rng, 0.6) + coarse * tileable_noise(rng, 1.5)
        return to_rgba(mean + grain, color)

    return paint


def _bricks(
    rows: int, columns: int, offset: float, joint: float, spread: float, color: Color
) -> Painter:
    """A painter of courses of bricks, tiles or pavers; joint: brightness of the joints."""

    def paint(rng: np.random.Generator) -> NDArray[np.uint8]:
        y, x = np.mgrid[:TEXTURE_SIZE, :TEXTURE_SIZE] / TEXTURE_SIZE
        row = (y * rows).astype(int)
        along = x * columns + offset * (row % 2)
        shade = 1 + spread * rng.uniform(-1, 1, (rows, columns))
        body = 0.88 * shade[row, along.astype(int) % columns]
        edge_u = np.abs(along % 1 - 0.5) * TEXTURE_SIZE / columns
        edge_v = np.abs(y * rows % 1 - 0.5) * TEXTURE_SIZE / rows
        half_u, half_v = TEXTURE_SIZE / columns / 2, TEXTURE_SIZE / rows / 2
        distance = np.minimum(half_u - edge_u, half_v - edge_v)
        mask = np.clip((distance - 1.5) / 2, 0, 1)
        value = body * mask + joint * (1 - mask)
        grain = 0.03 * tileable_noise(rng, 0.5) + 0.03 * tileable_noise(rng, 1.3)
        tinted = (value + grain)[..., None] * np.asarray(color)
        grey = (value + grain)[..., None] * np.mean(color)
        return to_rgba(tinted * mask[..., None] + grey * (1 - mask[..., None]))

    return paint


def _planks(rng: np.random.Generator) -> NDArray[np.uint8]:
    rows = 8
    y, x = np.mgrid[:TEXTURE_SIZE, :TEXTURE_SIZE] / TEXTURE_SIZE
    row = (y * rows).astype(int)
    start = rng.uniform(0, 1, rows)
    along = (x - start[row]) % 1
    board = row * 2 + (along > 0.5)
    shade = rng.uniform(0.72, 1.0, rows * 2)[board]
    grain = 0.07 * tileable_noise(rng, 1.1, stretch=16) + 0.03 * tileable_noise(rng, 0.8, stretch=8)
    gap_v = np.abs(y * rows % 1 - 0.5) > 0.48
    gap_u = np.abs(along % 0.5 - 0.25) > 0.2475
    value = (shade + grain) * np.where(gap_v | gap_u, 0.55, 1.0)
    return to_rgba(value, (0.95, 0.78, 0.58))


def _wood(rng: np.random.Generator) -> NDArray[np.uint8]:
    grain = 0.08 * tileable_noise(rng, 1.2, stretch=14) + 0.03 * tileable_noise(rng, 0.7, stretch=6)
    return to_rgba(0.85 + grain, (1.0, 0.88, 0.74))


def _bark(rng: np.random.Generator) -> NDArray[np.uint8]:
    ridges = np.swapaxes(tileable_noise(rng, 1.0, stretch=5), 0, 1)
    return to_rgba(0.36 + 0.13 * ridges + 0.04 * tileable_noise(rng, 0.6), (1.0, 0.86, 0.72))


def _grass(rng: np.random.Generator) -> NDArray[np.uint8]:
    fine, coarse = tileable_noise(rng, 0.5), tileable_noise(rng, 1.4)
    value = 0.55 + 0.13 * fine + 0.08 * coarse
    warm = np.clip(0.72 + 0.08 * coarse, 0, 1)
    return to_rgba(np.dstack([value * warm, value, value * 0.42]))


def _scatter_leaves(rng: np.random.Generator, count: int, reach: float) -> NDArray:
    """Draw `count` leaf ellipses around the middle; (size,size,4) float RGBA, alpha 0 between."""
    rgba = np.zeros((TEXTURE_SIZE, TEXTURE_SIZE, 4), np.float32)
    rgba[..., :3] = (0.20, 0.27, 0.12)
    for step in range(count):
        radius = reach * np.sqrt(rng.uniform())
        angle = rng.uniform(0, 2 * np.pi)
        center = 0.5 + 0.5 * radius * np.array([np.cos(angle), np.sin(angle)])
        tone = (0.35 + 0.65 * step / count) * rng.uniform(0.75, 1.1)
        green = np.array([0.46, 0.62, 0.25]) * tone + rng.uniform(0, 0.06, 3) * (1, 0.5, 0.2)
        pixel = tuple(int(c) for c in center * TEXTURE_SIZE)
        axes = (int(rng.integers(9, 19)), int(rng.integers(6, 11)))
        turn = float(rng.uniform(0, 360))
        cv2.ellipse(rgba, pixel, axes, turn, 0, 360, (*green.tolist(), 1.0), -1, cv2.LINE_AA)
    return rgba


def _leaves(rng: np.random.Generator) -> NDArray[np.uint8]:
    rgba = _scatter_leaves(rng, 520, 0.92)
    return (rgba * 255).clip(0, 255).astype(np.uint8)


def _foliage(rng: np.random.Generator) -> NDArray[np.uint8]:
    value = np.full((TEXTURE_SIZE, TEXTURE_SIZE, 3), 0.1, np.float32) * (0.8, 1.2, 0.5)
    value = value.astype(np.float32)
    for step in range(2600):
        x, y = rng.integers(0, TEXTURE_SIZE, 2)
        tone = (0.35 + 0.65 * step / 2600) * rng.uniform(0.8, 1.1)
        green = (np.array([0.44, 0.60, 0.25]) * tone).tolist()
        axes, turn = (int(rng.integers(7, 13)), int(rng.integers(4, 8))), float(rng.uniform(0, 360))
        for dx in (-TEXTURE_SIZE, 0, TEXTURE_SIZE):
            for dy in (-TEXTURE_SIZE, 0, TEXTURE_SIZE):
                cv2.ellipse(value, (int(x + dx), int(y + dy)), axes, turn, 0, 360, green, -1)
    return to_rgba(cv2.GaussianBlur(value, (0, 0), 0.8, borderType=cv2.BORDER_REPLICATE))


def _stripes(rng: np.random.Generator) -> NDArray[np.uint8]:
    x = np.arange(TEXTURE_SIZE)[None] / TEXTURE_SIZE
    wave = 0.05 * np.sign(np.sin(2 * np.pi * 8 * x)) + 0.02 * np.sin(2 * np.pi * 64 * x)
    return to_rgba(0.88 + wave + 0.012 * tileable_noise(rng, 0.5))


def _damask(rng: np.random.Generator) -> NDArray[np.uint8]:
    y, x = np.mgrid[:TEXTURE_SIZE, :TEXTURE_SIZE] * (2 * np.pi * 6 / TEXTURE_SIZE)
    motif = np.cos(x) * np.cos(y) + 0.6 * np.cos(2 * x + np.sin(y)) * np.cos(2 * y)
    return to_rgba(0.88 + 0.06 * np.tanh(4 * motif) + 0.012 * tileable_noise(rng, 0.5))


def _folds(rng: np.random.Generator) -> NDArray[np.uint8]:
    x = np.arange(TEXTURE_SIZE)[None] / TEXTURE_SIZE
    wave = 0.1 * np.sin(2 * np.pi * 7 * x + 1.2 * np.sin(2 * np.pi * 2 * x))
    return to_rgba(0.82 + wave + 0.02 * tileable_noise(rng, 0.5))


def _weave(rng: np.random.Generator) -> NDArray[np.uint8]:
    y, x = np.mgrid[:TEXTURE_SIZE, :TEXTURE_SIZE] * (2 * np.pi * 64 / TEXTURE_SIZE)
    weave = 0.05 * np.sin(x) * np.sin(y)
    return to_rgba(0.85 + weave + 0.04 * tileable_noise(rng, 0.5) + 0.04 * tileable_noise(rng, 1.3))


def _clouds(rng: np.random.Generator) -> NDArray[np.uint8]:
    cover = np.clip(0.5 + 0.45 * tileable_noise(rng, 1.7), 0, 1)[..., None] ** 1.5
    return to_rgba(np.array([0.50, 0.68, 0.92]) * (1 - cover) + np.array([1.0, 1.0, 1.0]) * cover)


MATERIALS: dict[str, Painter] = {
    "white": _grain(1.0, 0.0, 0.0),
    "plaster": _grain(0.9, 0.025, 0.012),
    "asphalt": _grain(0.5, 0.055, 0.035, (0.98, 0.99, 1.0)),
    "carpet": _grain(0.8, 0.09, 0.04),
    "metal": _grain(0.85, 0.01, 0.03),
    "dark": _grain(0.14, 0.015, 0.01),
    "concrete": _grain(0.74, 0.04, 0.06, (1.0, 0.98, 0.95)),
    "pavers": _bricks(16, 8, 0.5, 0.5, 0.12, (0.86, 0.83, 0.79)),
    "bricks": _bricks(16, 6, 0.5, 0.78, 0.2, (0.82, 0.47, 0.37)),
    "roof": _bricks(20, 16, 0.5, 0.35, 0.2, (0.72, 0.38, 0.28)),
    "tiles": _bricks(4, 4, 0.0, 0.62, 0.04, (1.0, 0.98, 0.94)),
    "panels": _bricks(4, 4, 0.0, 0.72, 0.015, (1.0, 1.0, 1.0)),
    "planks": _planks,
    "wood": _wood,
    "bark": _bark,
    "grass": _grass,
    "leaves": _leaves,
    "foliage": _foliage,
    "stripes": _stripes,
    "damask": _damask,
    "folds": _folds,
    "weave": _weave,
    "clouds": _clouds,
}
