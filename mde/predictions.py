"""Depths that a model predicts for a split of a dataset, as a folder of Parquet shards.

A folder of `depths-NNNNN.parquet` and `manifest.json`, which says what the numbers mean.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from mde.data.codecs import CodecError, decode_depth, encode_depth
from mde.data.place import Place, join, sha256_of
from mde.data.shards import read_row_group
from mde.errors import InputError
from mde.files import disk_fault, file_sha256, fresh_folder, read_json, write_json
from mde.inference import (
    BatchPredictor,
    RowGroup,
    Runner,
    decode_row_image,
    row_groups,
    run_one_by_one,
    run_with_progress,
)
from mde.predictor import BATCH_SIZE, load_depth_model

FORMAT = 1
SHARD_BYTES = 2**27
COLUMNS = ["sample_id", "height", "width", "image"]
SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("depth", pa.binary(), nullable=False),
    ]
)
"""depth: (height, width) codes as of `mde.data.codecs.encode_depth`, of the manifest's scale."""


@dataclass(frozen=True)
class PredictionShard:
    """One Parquet file of a folder of predictions."""

    file: str
    rows: int
    row_groups: int
    sha256: str


@dataclass(frozen=True)
class PredictionManifest:
    """What a folder of predictions holds.

    is_metric: depths are in m; else in the model's own units, right up to one factor an image.
    scale: m (or units) per code; a depth is off by half of it at most.
    checkpoint_sha256: of its model.safetensors. data_sha256: of the dataset's manifest.
    """

    variant: str
    is_metric: bool
    scale: float
    checkpoint_sha256: str
    data_sha256: str
    split: str
    rows: int
    shards: list[PredictionShard]
    format: int = FORMAT


@dataclass(frozen=True)
class Prediction:
    """The predicted depth of one image: (H,W) float32 at the stored image's size, all > 0."""

    sample_id: str
    depth: NDArray[np.float32]


@dataclass(frozen=True)
class DepthWork:
    """Row group → table of SCHEMA; an `mde.inference.Work`."""

    predictor: BatchPredictor
    scale: float

    def __call__(self, group: RowGroup, device: torch.device) -> pa.Table:
        """Predict every row at the size of its image."""
        rows = group.read(COLUMNS)
        images = {row["sample_id"]: decode_row_image(group, row) for row in rows}
        sizes = {row["sample_id"]: (row["height"], row["width"]) for row in rows}
        depths = self.predictor.predict(images, sizes, device)
        records = [
            {
                "sample_id": row["sample_id"],
                "height": row["height"],
                "width": row["width"],
                # Code 0 means unknown, and a prediction never is.
                "depth": encode_depth(
                    np.maximum(depths[row["sample_id"]].cpu().numpy(), self.scale), self.scale
                ),
            }
            for row in rows
        ]
        return pa.Table.from_pylist(records, schema=SCHEMA)


def predict_split(
    checkpoint: Path,
    data: Place,
    split: str,
    out: Path,
    run: Runner = run_one_by_one,
    batch_size: int = BATCH_SIZE,
) -> PredictionManifest:
    """Predict every image of a split, with or without ground truth, into the new folder `out`.

    The folder is there whole or not at all. Raises InputError when it exists, for a checkpoint or
    dataset that is damaged or not there, and for a full disk.
    """
    if out.exists():
        raise InputError(f"{out}: is there already; give a new folder")
    groups = row_groups(data, split)
    model, state = load_depth_model(checkpoint)
    # The finest codes that hold the model's range, with one to spare for rounding.
    scale = model.max_depth / (np.iinfo(np.uint16).max - 1)
    name = state["variant"]["name"]
    work = DepthWork(BatchPredictor(checkpoint, batch_size), scale)
    tables = run_with_progress(run, work, groups, f"predict {name}")
    try:
        with fresh_folder(out) as folder:
            shards = _write_shards(folder, tables)
            manifest = PredictionManifest(
                variant=name,
                is_metric=model.is_metric,
                scale=scale,
                checkpoint_sha256=state["sha256"]["model.safetensors"],
                data_sha256=sha256_of(join(data, "manifest.json")),
                split=split,
                rows=sum(shard.rows for shard in shards),
                shards=shards,
            )
            write_json(folder / "manifest.json", asdict(manifest))
    except OSError as error:
        fault = disk_fault(error, out.parent)
        if fault is None:
            raise
        raise InputError(f"{out}: {fault}: nothing was kept; make room and start again") from error
    return manifest


def _write_shards(folder: Path, tables: Iterable[pa.Table]) -> list[PredictionShard]:
    shards: list[PredictionShard] = []
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(part.nbytes for part in held) >= SHARD_BYTES:
            shards.append(_write_shard(folder, len(shards), held))
            held = []
    if held:
        shards.append(_write_shard(folder, len(shards), held))
    return shards


def _write_shard(folder: Path, index: int, tables: list[pa.Table]) -> PredictionShard:
    path = folder / f"depths-{index:05d}.parquet"
    # As for training shards: the cells are compressed already, and checksums find damage.
    with pq.ParquetWriter(
        path, SCHEMA, compression="none", use_dictionary=False, write_page_checksum=True
    ) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=len(table))
    rows = sum(len(table) for table in tables)
    return PredictionShard(path.name, rows, len(tables), file_sha256(path))


def read_prediction_manifest(folder: Path) -> PredictionManifest:
    """Read what a folder of predictions holds. Raises InputError when it is not a whole one."""
    path = folder / "manifest.json"
    content: dict[str, Any] = read_json(path) if path.is_file() else {}
    try:
        shards = [PredictionShard(**shard) for shard in content.pop("shards")]
        manifest = PredictionManifest(shards=shards, **content)
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: no predictions here, or not whole ones: {error}") from error
    if manifest.format != FORMAT:
        raise InputError(f"{path}: format {manifest.format}, expected {FORMAT}; predict again")
    return manifest


def read_predictions(folder: Path) -> Iterator[Prediction]:
    """All predictions, in the dataset's order, checksums verified.

    Raises InputError when a file is missing or damaged.
    """
    manifest = read_prediction_manifest(folder)
    for shard in manifest.shards:
        for index in range(shard.row_groups):
            for row in read_row_group(folder / shard.file, index).to_pylist():
                size = row["height"], row["width"]
                try:
                    depth = decode_depth(row["depth"], *size, manifest.scale)
                except CodecError as error:
                    where = f"{folder / shard.file}: {row['sample_id']}"
                    raise InputError(f"{where}: {error}") from error
                yield Prediction(row["sample_id"], depth)
