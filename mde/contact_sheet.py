"""A contact sheet: some rows of a converted dataset in one picture, with everything they hold."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mde.data.codecs import (
    CodecError,
    decode_depth,
    decode_image,
    resize_image,
    shrink_sparse_depth,
)
from mde.data.shards import Manifest
from mde.data.verify import describe_precision
from mde.errors import InputError
from mde.schema import Row
from mde.visualize import colorize, depth_norm, overlay_depth, thicken

WIDTH, MARGIN, GAP = 1920, 28, 8
"""Of the sheet at least, around it, and between pictures, px."""
CELL, WIDE_CELL = 300, 420
"""Least width of a picture, and of one that is more than twice as wide as high, px."""
HEADER, TITLE_LINE, BAR = 96, 24, 420
"""Height of the head and of a line of a row's title, width of the colour bar, px."""
INK, GREY, PAPER, BLANK, TAG = "#1a1a1a", "#666666", "#ffffff", "#f0f0f0", "#000000"
DEPTH_MAP = "rainbow_r"
"""Bright from end to end, so that near and far points stand out from a darkened image."""
SPLIT_COLORS = {"train": "#2f6fb2", "val": "#7a5aa8", "test": "#b2502f"}
IMAGES = {
    "image": "image",
    "image_prev": "previous",
    "image_next": "next",
    "image_stereo": "stereo",
}
DEPTHS = {"depth": "depth", "gt_depth": "ground truth"}


class Item(NamedTuple):
    """A row with its arrays by column: images (H,W,3) uint8, depths (H,W) float32 m."""

    split: str
    row: Row
    arrays: dict[str, NDArray]

    @property
    def overlaid(self) -> str | None:
        """The depth that is drawn on the image: the ground truth if there is one."""
        return next((name for name in ("gt_depth", "depth") if name in self.arrays), None)


def draw_sheet(name: str, manifest: Manifest, rows: Sequence[tuple[str, Row]]) -> Image.Image:
    """Draw rows, each given with its split, of the dataset `name`.

    Raises InputError that names the row when one cannot be decoded.
    """
    items = [decode_row(split, row) for split, row in rows]
    sheet = Sheet(items)
    sheet.draw_header(name, manifest)
    for number, item in enumerate(items):
        sheet.draw_item(number, item)
    return sheet.picture


def save_sheet(picture: Image.Image, path: Path) -> None:
    """Write a sheet as PNG in one rename. Raises InputError when it cannot be written."""
    if path.suffix.lower() != ".png":
        raise InputError(f"{path}: the contact sheet is a PNG; give --out a name ending in .png")
    draft = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            picture.save(draft, "PNG")
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def decode_row(split: str, row: Row) -> Item:
    """Decode what is stored. Raises InputError that names row and column when it cannot be."""
    sizes = {
        "depth": (row["height"], row["width"]),
        "gt_depth": (row["gt_height"], row["gt_width"]),
    }
    arrays: dict[str, NDArray] = {}
    for column in (*IMAGES, *DEPTHS):
        data: bytes | None = row[column]  # type: ignore[literal-required]
        if data is None:
            continue
        try:
            if column in DEPTHS:
                arrays[column] = decode_depth(data, *sizes[column], row["depth_scale"])
            else:
                arrays[column] = decode_image(data)
        except CodecError as error:
            raise InputError(f"{row['sample_id']}: {column}: {error}") from error
    return Item(split, row, arrays)


class Sheet:
    """The picture while it is drawn. Columns are what any of the items has.

    One item or more stand side by side, so that pictures are neither tiny nor huge.
    """

    def __init__(self, items: list[Item]) -> None:
        has = {name for item in items for name in item.arrays}
        self.columns = [name for name in (*IMAGES, "depth") if name in has]
        self.columns += ["overlay"] if has & DEPTHS.keys() else []
        depths = [
            item.arrays[name].ravel()
            for item in items
            for name in has & item.arrays.keys()
            if name in DEPTHS
        ]
        self.norm = depth_norm(np.concatenate(depths or [np.zeros(1, np.float32)]))
        shapes = [item.arrays["image"].shape for item in items]
        ratio = float(np.median([shape[0] / shape[1] for shape in shapes]))
        count = len(self.columns)
        block = count * ((WIDE_CELL if ratio < 0.5 else CELL) + GAP) - GAP
        self.width = max(WIDTH, block + 2 * MARGIN)
        inside = self.width - 2 * MARGIN
        self.across = max(1, min((inside + MARGIN) // (block + MARGIN), len(items)))
        self.block = (inside - (self.across - 1) * MARGIN) // self.across
        cell = (self.block + GAP) // count - GAP
        self.cell = (round(cell * ratio), cell)
        # A title that has the whole width needs one line.
        self.title = TITLE_LINE * (1 if self.across == 1 else 2)
        self.step = self.title + self.cell[0] + MARGIN
        height = HEADER + MARGIN + -(-len(items) // self.across) * self.step
        self.picture = Image.new("RGB", (self.width, height), PAPER)
        self.draw = ImageDraw.Draw(self.picture)

    def draw_header(self, name: str, manifest: Manifest) -> None:
        """Name, counts and precision of the dataset; the colour bar."""
        counts = " · ".join(f"{rows} {split}" for split, rows in manifest.counts.items() if rows)
        text = f"source {manifest.source} · rows: {counts} · {len(manifest.rejected)} rejected"
        room = self.width - 3 * MARGIN - BAR
        end = self.write((MARGIN, 30), name, 26, room, bold=True) + 16
        self.write((end, 32), text, 17, room + MARGIN - end)
        self.write((MARGIN, 68), describe_precision(manifest), 15, room, GREY)
        if "overlay" in self.columns:
            self._draw_bar(self.width - MARGIN - BAR)

    def _draw_bar(self, left: int) -> None:
        low, high = float(self.norm.vmin or 1), float(self.norm.vmax or 1)
        values = np.geomspace(low, high, BAR).astype(np.float32)
        bar = Image.fromarray(colorize(np.repeat(values[None], 16, 0), self.norm, DEPTH_MAP))
        self.picture.paste(bar, (left, 44))
        self.write((left, 30), "depth in m, logarithmic", 14)
        for part, anchor in zip(np.linspace(0, 1, 6), ("l", "m", "m", "m", "m", "r"), strict=True):
            text = f"{low * (high / low) ** part:.2g}"
            where = (left + part * BAR, 72)
            self.draw.text(where, text, INK, _font(14), anchor=f"{anchor}m")

    def draw_item(self, number: int, item: Item) -> None:
        """A row: its title and its pictures."""
        line, column = divmod(number, self.across)
        x, y = MARGIN + column * (self.block + MARGIN), HEADER + MARGIN + line * self.step
        self._draw_title(item, x, y)
        for n, name in enumerate(self.columns):
            self._draw_cell(item, name, x + n * (self.cell[1] + GAP), y + self.title)

    def _draw_title(self, item: Item, x: int, y: int) -> None:
        row, middle = item.row, y + 9
        pill = 14 + self.draw.textlength(item.split, _font(13, bold=True))
        self.draw.rounded_rectangle((x, y, x + pill, y + 18), 5, SPLIT_COLORS.get(item.split, GREY))
        self.write((x + 7, middle), item.split, 13, color=PAPER, bold=True)
        fx, fy = row["K"][0], row["K"][4]
        facts = f" · {row['height']}x{row['width']} px · focal length {fx:.1f}, {fy:.1f} px"
        if row["baseline_m"] is not None:
            facts += f" · baseline {row['baseline_m']:+.3f} m"
        start, room = x + pill + 10, self.block - pill - 10
        if self.across > 1:
            self.write((start, middle), row["sample_id"], 16, room, bold=True)
            start, room, middle = x, self.block, middle + TITLE_LINE
        else:
            start = self.write((start, middle), row["sample_id"], 16, room / 2, bold=True) + 16
            room = x + self.block - start
        room -= self.draw.textlength(facts, _font(14))
        end = self.write((start, middle), f"scene {row['scene']}", 14, room, GREY)
        self.write((end, middle), facts, 14, color=GREY)

    def _draw_cell(self, item: Item, column: str, x: int, y: int) -> None:
        height, width = self.cell
        self.draw.rectangle((x, y, x + width - 1, y + height - 1), BLANK)
        stored = item.overlaid if column == "overlay" else column
        label = (IMAGES | DEPTHS)[stored or "gt_depth"]
        if (column, stored) == ("overlay", "depth"):
            label = "depth, on image"
        if stored in item.arrays:
            picture = Image.fromarray(self._paint(item, column))
            corner = (x + (width - picture.width) // 2, y + (height - picture.height) // 2)
            self.picture.paste(picture, corner)
            label += _describe(item.arrays[stored]) if stored in DEPTHS else ""
        else:
            label += ": none"
        label = self.shorten(label, _font(12), width - 10)
        end = x + 9 + self.draw.textlength(label, _font(12))
        self.draw.rectangle((x, y, end, y + 17), TAG)
        self.write((x + 5, y + 9), label, 12, color=PAPER)

    def _paint(self, item: Item, column: str) -> NDArray[np.uint8]:
        native = item.arrays["image"].shape
        scale = min(self.cell[0] / native[0], self.cell[1] / native[1])
        size = round(native[0] * scale), round(native[1] * scale)
        if column == "depth":
            return colorize(_fit_depth(item.arrays["depth"], size), self.norm, DEPTH_MAP)
        if column == "overlay":
            image = _fit_image(item.arrays["image"], size)
            depth = item.arrays[item.overlaid or ""]
            return overlay_depth(image, depth, self.norm, DEPTH_MAP)
        return _fit_image(item.arrays[column], size)

    def write(
        self,
        where: tuple[float, float],
        text: str,
        size: int,
        room: float = float("inf"),
        color: str = INK,
        bold: bool = False,
    ) -> float:
        """Write from `where`, the middle of the left side; returns x of the end."""
        font = _font(size, bold)
        text = self.shorten(text, font, room)
        self.draw.text(where, text, color, font, anchor="lm")
        return where[0] + self.draw.textlength(text, font)

    def shorten(self, text: str, font: ImageFont.FreeTypeFont, room: float) -> str:
        """Take out of the middle what does not fit."""
        short, keep = text, len(text)
        while keep > 2 and self.draw.textlength(short, font) > room:
            keep -= 1
            short = f"{text[: keep // 2]}…{text[-(keep - keep // 2) :]}"
        return short


def _describe(depth: NDArray[np.float32]) -> str:
    known = depth[depth > 0]
    if not known.size:
        return " · no valid pixel"
    return f" · {known.min():.2g}–{known.max():.2g} m · {known.size / depth.size:.0%} valid"


def _fit_image(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    if image.shape[0] >= size[0]:
        return resize_image(image, size)
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_CUBIC)  # type: ignore[return-value]


def _fit_depth(depth: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Depth (H,W) → `size`; of sparse depth every point stays."""
    if (depth > 0).mean() > 0.5:
        return cv2.resize(depth, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)  # type: ignore[return-value]
    return thicken(shrink_sparse_depth(depth, size), 2)


@cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf", name), size)
