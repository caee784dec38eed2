"""What the report knows of a variant: its numbers, images and pictures, and where it is from."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import UnidentifiedImageError
from safetensors import SafetensorError, safe_open

from mde.errors import InputError
from mde.files import read_json
from mde.layout import Layout
from mde.report.pages import Picture, picture
from mde.report.tabulation import read_summary
from mde.train.checkpoint import MODEL_PREFIX, read_state

OF_IMAGE = (
    "sample_id", "scene", "skipped", "abs_rel", "rmse", "a1", "log_bias", "scale", "clipped",
    "constant_abs_rel",
)  # fmt: skip
CHOICES = ("worst", "best", "spread")
# Statistics of batch normalisation: stored beside the parameters, but not learnt.
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class ShownImage:
    """A test image with its panel. values: its row of `per_image.parquet`, see OF_IMAGE."""

    choice: str
    values: dict[str, Any]
    picture: Picture


@dataclass(frozen=True)
class Result:
    """An evaluated variant.

    summary: its `metrics.json`, and `parameters`. images: OF_IMAGE of every scored image.
    error_edges (N+1,) in m and error_shares (N,): of the error histogram. shown: in the order of
    CHOICES. state: of the checkpoint. registered: what the registry answered.
    """

    name: str
    summary: dict[str, Any]
    images: list[dict[str, Any]]
    error_edges: NDArray[np.float64]
    error_shares: NDArray[np.float64]
    shown: list[ShownImage]
    state: dict[str, Any]
    registered: dict[str, Any]

    @property
    def history(self) -> list[dict[str, Any]]:
        """Metrics of the training's epochs; none for imported weights."""
        history: list[dict[str, Any]] = self.state.get("history", [])
        return history


def read_result(layout: Layout, variant: str) -> Result:
    """Read everything of a variant. Raises InputError that names the file that is amiss."""
    checkpoint, folder = layout.model(variant) / "checkpoint", layout.result(variant)
    summary, state = read_summary(layout, variant), read_state(checkpoint)
    images = _read_images(folder / "per_image.parquet")
    edges, shares = read_histogram(folder / "error_histogram.csv")
    parameters = count_parameters(checkpoint / "model.safetensors")
    return Result(
        name=variant,
        summary={**summary, "parameters": parameters},
        images=images,
        error_edges=edges,
        error_shares=shares,
        shown=_shown(folder / "panels", images),
        state=state,
        registered=read_json(layout.registered(variant)),
    )


def count_parameters(path: Path) -> int:
    """Numbers that the depth model in a checkpoint has learnt, from the header of its file.

    Networks that only its training needed do not count. Raises InputError for a damaged file.
    """
    try:
        with safe_open(path, "pt") as file:
            shapes = [
                file.get_slice(name).get_shape()
                for name in file.keys()  # noqa: SIM118 (it is no mapping)
                if name.startswith(MODEL_PREFIX) and not name.endswith(BUFFERS)
            ]
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a file of tensors: {error}") from error
    return sum(int(np.prod(shape)) for shape in shapes)


def read_histogram(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Edges (N+1,) in m and shares (N,) of an `error_histogram.csv`."""
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        middles = np.array([float(row["error_m"]) for row in rows])
        shares = np.array([float(row["share"]) for row in rows])
        half = (middles[1] - middles[0]) / 2
    except (OSError, KeyError, ValueError, IndexError) as error:
        raise InputError(f"{path}: no error histogram: {error!r}; run dvc repro") from error
    return np.append(middles - half, middles[-1] + half), shares


def _read_images(path: Path) -> list[dict[str, Any]]:
    try:
        table = pq.read_table(path, columns=list(OF_IMAGE))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a table of single images: {error}") from error
    if missing := set(OF_IMAGE) - set(table.column_names):
        raise InputError(f"{path}: no column {', '.join(sorted(missing))}; run dvc repro")
    return [row for row in table.to_pylist() if row["skipped"] is None]


def _shown(folder: Path, images: list[dict[str, Any]]) -> list[ShownImage]:
    """The panels, of which an index says what they show, with the numbers of their images."""
    of_id = {row["sample_id"]: row for row in images}
    try:
        index = read_json(folder / "index.json")
        shown = [
            ShownImage(entry["choice"], of_id[entry["sample_id"]], _picture(folder / entry["file"]))
            for entry in index
        ]
    except (OSError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: no panels, or not all: {error!r}; run dvc repro") from error
    return sorted(shown, key=lambda image: CHOICES.index(image.choice))


def _picture(path: Path) -> Picture:
    try:
        return picture(path)
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(f"{path}: not a picture: {error}; run dvc repro") from error


def common_edges(results: Sequence[Result]) -> NDArray[np.float64]:
    """Edges of the error histograms of models under one protocol."""
    edges = results[0].error_edges
    for result in results:
        if len(result.error_edges) != len(edges) or not np.allclose(result.error_edges, edges):
            raise InputError(
                f"results/{result.name}/error_histogram.csv: other bins than those of "
                f"{results[0].name} under the same protocol; run dvc repro"
            )
    return edges
