"""Pictures in a grid: strips of labelled cells under a title."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

MOST_WIDTH, MARGIN, GAP = 1600, 16, 6
"""Of a sheet, around it and between its cells, px."""
CELL, WIDE_CELL = 188, 320
"""Width of a cell, and of one that is more than twice as wide as high, px."""
HEADER, LABEL, TAG = 58, 20, 15
"""Heights of the head, of a strip's label and of a cell's tag, px."""
BAR = 110
INK, GREY, PAPER, BLACK = "#1a1a1a", "#666666", "#ffffff", "#000000"


class Cell(NamedTuple):
    """A picture (H,W,3) RGB of the size of all cells, and what it is."""

    tag: str
    picture: NDArray[np.uint8]


class Strip(NamedTuple):
    """The cells of one frame."""

    label: str
    cells: list[Cell]


class Legend(NamedTuple):
    """A bar of colours, and what its ends mean."""

    name: str
    low: str
    high: str
    cmap: str


def cell_size(shapes: Sequence[tuple[int, ...]]) -> tuple[int, int]:
    """(H, W) of the cells for images of these shapes (H, W, …): that of the median image."""
    ratio = float(np.median([shape[0] / shape[1] for shape in shapes]))
    width = WIDE_CELL if ratio < 0.5 else CELL
    return round(width * ratio), width


def draw_grid(
    title: str, legends: Sequence[Legend], strips: Sequence[Strip], size: tuple[int, int]
) -> Image.Image:
    """Draw strips, side by side when they are short; a long one takes several lines.

    size: (H, W) of every cell, px. The sheet is at most MOST_WIDTH wide.
    """
    longest = max(len(strip.cells) for strip in strips)
    fitting = (MOST_WIDTH - 2 * MARGIN + GAP) // (size[1] + GAP)
    lines = -(-longest // fitting)
    in_line = -(-longest // lines)
    block = in_line * (size[1] + GAP) - GAP
    # Blocks are further apart than cells.
    across = max(1, (MOST_WIDTH - MARGIN) // (block + MARGIN))
    across = min(across, len(strips))
    step = LABEL + lines * (size[0] + GAP) + GAP
    width = across * (block + MARGIN) + MARGIN
    height = HEADER + -(-len(strips) // across) * step
    sheet = _Sheet(Image.new("RGB", (width, height), PAPER))
    sheet.draw_header(title, legends)
    for number, strip in enumerate(strips):
        line, column = divmod(number, across)
        x, y = MARGIN + column * (block + MARGIN), HEADER + line * step
        sheet.write((x, y + LABEL // 2), strip.label, 13, block)
        for n, cell in enumerate(strip.cells):
            down, right = divmod(n, in_line)
            corner = x + right * (size[1] + GAP), y + LABEL + down * (size[0] + GAP)
            sheet.draw_cell(cell, corner, size[1])
    return sheet.picture


class _Sheet:
    """The picture while it is drawn."""

    def __init__(self, picture: Image.Image) -> None:
        self.picture = picture
        self.draw = ImageDraw.Draw(picture)

    def draw_header(self, title: str, legends: Sequence[Legend]) -> None:
        """The title, and a line of colour bars."""
        self.write((MARGIN, 18), title, 16, self.picture.width - 2 * MARGIN)
        x = float(MARGIN)
        for legend in legends:
            x = self.write((x, 42), f"{legend.name}: {legend.low} ", 12, color=GREY)
            colors = matplotlib.colormaps[legend.cmap](np.linspace(0, 1, BAR), bytes=True)[:, :3]
            self.picture.paste(Image.fromarray(np.repeat(colors[None], 10, 0)), (round(x), 37))
            x = self.write((x + BAR, 42), f" {legend.high}", 12, color=GREY) + 2 * MARGIN

    def draw_cell(self, cell: Cell, corner: tuple[int, int], width: int) -> None:
        """A picture with its tag in the upper left."""
        self.picture.paste(Image.fromarray(cell.picture), corner)
        text = self.shorten(cell.tag, 11, width - 8)
        end = corner[0] + 8 + self.draw.textlength(text, _font(11))
        self.draw.rectangle((*corner, end, corner[1] + TAG), BLACK)
        self.write((corner[0] + 4, corner[1] + TAG // 2 + 1), text, 11, color=PAPER)

    def write(
        self,
        where: tuple[float, float],
        text: str,
        size: int,
        room: float = float("inf"),
        color: str = INK,
    ) -> float:
        """Write from `where`, the middle of the left side; returns x of the end."""
        text = self.shorten(text, size, room)
        self.draw.text(where, text, color, _font(size), anchor="lm")
        return where[0] + self.draw.textlength(text, _font(size))

    def shorten(self, text: str, size: int, room: float) -> str:
        """Take out of the middle what does not fit."""
        short, keep = text, len(text)
        while keep > 2 and self.draw.textlength(short, _font(size)) > room:
            keep -= 1
            short = f"{text[: keep // 2]}…{text[-(keep - keep // 2) :]}"
        return short


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)
