"""Texture atlas: every texture with its mip levels in one image, sampled by one lookup.

A texture is a (TEXTURE_SIZE, TEXTURE_SIZE, 4) uint8 RGBA square that repeats in both directions.
Packing all levels of all textures side by side lets the renderer colour a whole image, whatever
it shows, with two bilinear lookups (the two nearest mip levels).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from mde.data.scenes.indoor_drawings import INDOOR_DRAWINGS
from mde.data.scenes.materials import MATERIALS, TEXTURE_SIZE
from mde.data.scenes.outdoor_drawings import OUTDOOR_DRAWINGS

NUM_LEVELS = 8
_PAD = 2
_COLUMNS = 8
# A remap destination may have at most 32767 rows; flat pixel lists are folded to this width.
_FOLD = 1024

_SIZES = (TEXTURE_SIZE >> np.arange(NUM_LEVELS + 1)).astype(np.float32)
Floats = NDArray[np.float32]

_PAINTERS = {**MATERIALS, **OUTDOOR_DRAWINGS, **INDOOR_DRAWINGS}
TEXTURE_IDS = {name: index for index, name in enumerate(_PAINTERS)}


def remap_flat(source: NDArray, x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray:
    """Bilinear lookup of `source` at flat pixel lists x, y: (N,) float32. Returns (N,) or (N,C)."""
    rows = max(1, -(-len(x) // _FOLD))
    maps = np.empty((2, rows * _FOLD), np.float32)
    maps[:, len(x) :] = 0
    maps[0, : len(x)], maps[1, : len(y)] = x, y
    folded = cv2.remap(
        source,
        maps[0].reshape(rows, _FOLD),
        maps[1].reshape(rows, _FOLD),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return folded.reshape(rows * _FOLD, *folded.shape[2:])[: len(x)]


@dataclass(frozen=True)
class Atlas:
    """All textures and mip levels in one RGBA image, and where each one starts."""

    image: NDArray[np.uint8]
    level_x: NDArray[np.float32]
    level_y: NDArray[np.float32]
    alpha: tuple[NDArray[np.bool_], ...]
    """Opaque texels per level, (textures, size, size)."""
    cutout: NDArray[np.bool_]
    """Which textures have transparent parts."""

    def colors(
        self,
        texture: NDArray[np.int32],
        u: NDArray[np.float32],
        v: NDArray[np.float32],
        level: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Trilinear colours (N,3) in [0,1].

        texture: index. u, v: texture coordinates (1 = one repeat). level: fractional mip level.
        """
        level = np.clip(level, 0, NUM_LEVELS - 1.001)
        lower = level.astype(np.int32)
        blend = level - lower.astype(np.float32)
        column = (texture % _COLUMNS).astype(np.float32)
        row = (texture // _COLUMNS).astype(np.float32)
        u, v = u - np.floor(u), v - np.floor(v)
        near, far = (self._sample(column, row, u, v, lower + step)[:, None] for step in (0, 1))
        mixed = cv2.blendLinear(near, far, (1 - blend)[:, None], blend[:, None])
        return mixed[:, 0, :3] * np.float32(1 / 255)

    def _sample(
        self, column: Floats, row: Floats, u: Floats, v: Floats, level: NDArray[np.int32]
    ) -> NDArray[np.uint8]:
        size = np.take(_SIZES, level)
        pitch = size + 2 * _PAD
        x = np.take(self.level_x, level) + column * pitch + u * size
        y = np.take(self.level_y, level) + row * pitch + v * size
        return remap_flat(self.image, x, y)

    def is_opaque(
        self, texture: int, u: NDArray[np.float32], v: NDArray[np.float32], level: int
    ) -> NDArray[np.bool_]:
        """Whether the nearest texel of one texture at one level is opaque, (N,) bool."""
        mask = self.alpha[level][texture]
        size = mask.shape[0]
        # Sizes are powers of two: masking the bits is the modulo of the repeat.
        column = np.floor(u * size).astype(np.int32) & (size - 1)
        row = np.floor(v * size).astype(np.int32) & (size - 1)
        return mask[row, column]


@lru_cache(maxsize=1)
def load_atlas() -> Atlas:
    """Paint and pack all textures; once a process. The same in every process and every run."""
    textures = [
        painter(np.random.default_rng([7, index]))
        for index, painter in enumerate(_PAINTERS.values())
    ]
    rows = -(-len(textures) // _COLUMNS)
    width0 = _COLUMNS * (TEXTURE_SIZE + 2 * _PAD)
    width1 = _COLUMNS * (TEXTURE_SIZE // 2 + 2 * _PAD)
    height = rows * (TEXTURE_SIZE + NUM_LEVELS * 2 * _PAD)
    image = np.zeros((height, width0 + width1, 4), np.uint8)
    level_x, level_y, alpha = [], [], []
    left, top = 0, 0
    for level in range(NUM_LEVELS):
        pitch = (TEXTURE_SIZE >> level) + 2 * _PAD
        for index, texture in enumerate(textures):
            x, y = left + index % _COLUMNS * pitch, top + index // _COLUMNS * pitch
            padded = cv2.copyMakeBorder(texture, _PAD, _PAD, _PAD, _PAD, cv2.BORDER_WRAP)
            image[y : y + pitch, x : x + pitch] = padded
        # Pixel centres: texture coordinate u lies at pixel u * size - 0.5 of its square.
        level_x.append(left + _PAD - 0.5)
        level_y.append(top + _PAD - 0.5)
        alpha.append(np.stack([texture[..., 3] >= 110 for texture in textures]))
        left, top = (width0, 0) if level == 0 else (left, top + rows * pitch)
        textures = [_halve(texture) for texture in textures]
    return Atlas(
        image,
        np.array(level_x, np.float32),
        np.array(level_y, np.float32),
        tuple(alpha),
        np.array([not opaque.all() for opaque in alpha[0]]),
    )


def _halve(texture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Half-size RGBA; transparent texels lend no colour to their neighbours."""
    size = (texture.shape[1] // 2, texture.shape[0] // 2)
    if texture[..., 3].min() == 255:
        return np.asarray(cv2.resize(texture, size, interpolation=cv2.INTER_AREA), np.uint8)
    rgba = texture.astype(np.float32)
    weight = rgba[..., 3:] + 0.5
    color = cv2.resize(rgba[..., :3] * weight, size, interpolation=cv2.INTER_AREA)
    total = cv2.resize(weight, size, interpolation=cv2.INTER_AREA)
    return np.dstack([color / total[..., None], total - 0.5]).round().clip(0, 255).astype(np.uint8)
