"""A film of several models: the image on top, then the depth of each in the same colours."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.colors import Normalize
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mde.film import Picture, draw_scale
from mde.visualize import colorize, depth_norm

WIDTH, MOST_HEIGHT = 640, 1440
"""Of a frame, px; MOST_HEIGHT makes it narrower when many rows are high."""
GIF_BYTES = 5_000_000
GIF_WIDTHS = (560, 480, 400, 320, 240, 160)
GIF_IMAGE_COLORS = 160
"""Of 256; the others are those of depth."""


@dataclass(frozen=True)
class Film:
    """Frames of one scene as models see them, all of a size.

    images: (H,W,3) RGB. depths: by label, one (H,W) for each image, in m. max_depth: m, what is
    farther does not stretch the colours.
    """

    scene: str
    ids: list[str]
    images: list[Picture]
    depths: dict[str, list[NDArray[np.float32]]]
    max_depth: float


def row_size(image: tuple[int, int], rows: int) -> tuple[int, int]:
    """(H,W), even, of a row of the film for images of this size (H,W)."""
    height, width = image
    wide = min(WIDTH, MOST_HEIGHT / rows * width / height)
    return 2 * max(1, round(wide * height / width / 2)), 2 * round(wide / 2)


def draw_frames(film: Film) -> list[Picture]:
    """Frames (H,W,3) RGB of even size: labelled rows, and the scale of colours below them."""
    # One range for the whole film: colours of their own for each frame would flicker.
    norm = depth_norm(np.stack([d for row in film.depths.values() for d in row]), film.max_depth)
    scale = draw_scale(norm, film.images[0].shape[1])
    frames = []
    for i, (name, image) in enumerate(zip(film.ids, film.images, strict=True)):
        rows = [_write(image, name)]
        rows += [_write(colorize(of[i], norm), text) for text, of in film.depths.items()]
        frames.append(np.concatenate([*rows, scale]))
    return frames


def write_gif(path: Path, frames: Sequence[Picture], fps: int, rows: int) -> None:
    """Write frames as an endless GIF, as wide as GIF_BYTES allows; rows: of pictures in a frame."""
    whole = frames[0].shape[1]
    for width in (whole, *(width for width in GIF_WIDTHS if width < whole)):
        content = _encode_gif(frames, width, fps, 1 / rows)
        if len(content) <= GIF_BYTES:
            break
    path.write_bytes(content)


def _encode_gif(frames: Sequence[Picture], width: int, fps: int, image_share: float) -> bytes:
    height = round(frames[0].shape[0] * width / frames[0].shape[1])
    pictures = [Image.fromarray(f).resize((width, height), Image.Resampling.BOX) for f in frames]
    palette = _palette(pictures, round(height * image_share))
    first, *others = [p.quantize(palette=palette, dither=Image.Dither.NONE) for p in pictures]
    buffer = io.BytesIO()
    first.save(
        buffer, "GIF", save_all=True, append_images=others, duration=round(1000 / fps), loop=0
    )
    return buffer.getvalue()


def _palette(pictures: Sequence[Image.Image], top: int) -> Image.Image:
    """One palette for all frames, as others would flicker: half of it for the images on top."""
    spread = np.linspace(0, len(pictures) - 1, min(8, len(pictures))).round().astype(int)
    images = Image.fromarray(np.concatenate([np.asarray(pictures[i])[:top] for i in spread]))
    # An octree, as median cut has no colour left for what is small and bright.
    found = images.quantize(GIF_IMAGE_COLORS, Image.Quantize.FASTOCTREE).getpalette() or []
    shades = np.linspace(1, 2, 256 - GIF_IMAGE_COLORS)[None]
    palette = Image.new("P", (1, 1))
    palette.putpalette(
        found[: 3 * GIF_IMAGE_COLORS] + colorize(shades, Normalize(1, 2)).ravel().tolist()
    )
    return palette


def _write(picture: Picture, text: str) -> Picture:
    """A copy of (H,W,3) with a text on a dark strip in its upper left corner."""
    image = Image.fromarray(picture)
    size = max(10, min(16, picture.shape[1] // 36))
    font, draw = ImageFont.load_default(size), ImageDraw.Draw(image, "RGBA")
    *_, right, bottom = draw.textbbox((6, 3), text, font)
    draw.rectangle((0, 0, right + 6, bottom + 4), fill=(0, 0, 0, 170))
    draw.text((6, 3), text, (255, 255, 255), font)
    return np.asarray(image)
