"""Writes depth maps: as files of numbers, in colours, and in space."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.colors import LogNorm
from numpy.typing import NDArray

from mde.depth_files import CODINGS, encode_npy, encode_png
from mde.errors import InputError
from mde.files import write_bytes
from mde.film import color_range, draw_scale, tint
from mde.predict.inputs import Input
from mde.predict.outputs import MAPS, SCENES, Options
from mde.predict.record import File
from mde.predictor import DepthMap, ModelInfo

Written = tuple[list[File], dict[str, Any]]
"""Files, and what is to be known of them."""


class MapWriter:
    """Writes depth maps to files of one folder, each in one rename."""

    def __init__(self, out: Path, options: Options) -> None:
        self.out, self.options = out, options

    def write(
        self, name: str, view: DepthMap, kinds: tuple[str, ...], norm: LogNorm | None = None
    ) -> Written:
        """Write a depth map in some of MAPS.

        norm: colours; the map's own when None.
        Raises InputError, before anything is written, for a depth that a kind has no code for.
        """
        about: dict[str, Any] = {}
        if "color" in kinds:
            norm = norm or color_range([view.depth])
            about["colors"] = colors_of(norm)
        content = {kind: self._encode(kind, view, norm) for kind in kinds if kind in MAPS}
        files = []
        for kind, data in content.items():
            path = self.path(kind, name, MAPS[kind])
            write_bytes(path, data)
            files.append(File.of(kind, path, self.out))
        return files, about

    def path(self, kind: str, name: str, suffix: str) -> Path:
        """Where a file of a kind lies."""
        return self.out / kind / f"{name}{suffix}"

    def _encode(self, kind: str, view: DepthMap, norm: LogNorm | None) -> bytes:
        if kind in CODINGS:
            return encode_png(view.depth, kind)
        if kind == "npy":
            return encode_npy(view.depth)
        norm = norm or color_range([view.depth])
        return encode_color(view.depth, short_unit(view.info), norm, self.options.legend)


class ImageWriter(MapWriter):
    """Writes what is asked for of an image."""

    def write_maps(self, item: Input, view: DepthMap) -> Written:
        """As of `MapWriter.write`."""
        return self.write(item.name, view, self.options.of_image, self.options.norm)

    def write_scenes(self, item: Input, view: DepthMap) -> Written:
        """Points, a page and a film of them. Raises InputError when the camera is not known."""
        kinds = [kind for kind in self.options.of_image if kind in SCENES]
        if not kinds:
            return [], {}
        from mde.pointcloud import (
            find_intrinsics,
            to_points,
            write_ply,
            write_turntable,
            write_viewer,
        )

        camera, fov = self.options.camera, self.options.fov_x_deg
        height, width = view.depth.shape
        found = find_intrinsics(item.path, (height, width), camera, fov)
        cloud = to_points(view.depth, view.image, found.K)
        writers: dict[str, Callable[[Path], None]] = {}
        if "pointcloud" in kinds:
            writers[".ply"] = lambda path: write_ply(path, cloud)
            writers[".html"] = lambda path: write_viewer(path, cloud, item.name)
        if "turntable" in kinds:
            writers[".mp4"] = lambda path: write_turntable(path, cloud)
        files = []
        for suffix, writer in writers.items():
            kind = "turntable" if suffix == SCENES["turntable"] else "pointcloud"
            path = self.path(kind, item.name, suffix)
            write_whole(path, writer)
            files.append(File.of(kind, path, self.out))
        return files, {"intrinsics": {"K": found.K.tolist(), "origin": found.origin}}


def encode_color(
    depth: NDArray[np.float32],
    unit: str,
    norm: LogNorm,
    legend: bool,
) -> bytes:
    """Predicted depth (H,W), > 0, in colours as a PNG; near is bright.

    unit: on the legend, empty for depth up to scale.
    legend: a strip below the picture that says which colour is which depth.
    """
    picture = tint(depth, norm)
    if legend:
        picture = np.concatenate([picture, draw_scale(norm, depth.shape[1], unit)])
    ok, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not ok:
        raise InputError(f"a picture of shape {picture.shape} cannot be written as PNG")
    return data.tobytes()


def write_whole(path: Path, writer: Callable[[Path], None]) -> None:
    """Let `writer` write a file that takes its name when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".partial.{path.name}")
    try:
        writer(draft)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def short_unit(info: ModelInfo) -> str:
    """For legends: `m`, or nothing."""
    return "m" if info.is_metric else ""


def colors_of(norm: LogNorm) -> list[float]:
    """Nearest and farthest depth that has a colour of its own."""
    return [float(norm.vmin or 0), float(norm.vmax or 0)]
