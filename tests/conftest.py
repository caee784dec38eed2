"""Fixtures for all tests: rows, a tiny sample with its params, whole stages, a bucket."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import pytest

from mde.data.codecs import encode_depth, encode_image
from mde.data.convert import convert, run_one_by_one
from mde.data.sample import SampleConfig, write_kitti, write_nyu_labeled
from mde.data.sources import load_source_config
from mde.layout import Layout
from mde.schema import Row

if TYPE_CHECKING:
    from tests.s3 import S3Server

REPOSITORY = Path(__file__).parents[1]
TINY = {"rooms": 4, "frames_per_room": 3, "drives": 2, "frames_per_drive": 8}

PARAMS = f"""
sample: {json.dumps(TINY)}
datasets:
  nyu_labeled:
    source: nyu_labeled
    raw: data/sample/nyu_labeled
    height: 64
    width: 96
    rows_per_shard: 4
    val_scenes: 0.3
  kitti:
    source: kitti
    raw: data/sample/kitti
    train: splits/train_files.txt
    val: splits/val_files.txt
    test: splits/test_files.txt
    height: 64
    width: 128
    rows_per_shard: 4
variants:
  resfpn-resnet18:
    dataset: nyu_labeled
    model: {{family: resfpn, encoder: resnet18, weights: scratch, min_depth: 0.1}}
    objective: {{kind: supervised, loss: mse}}
    recipe: {{epochs: 2, batch_size: 4, lr: 5e-4}}
    augment: {{}}
    protocol: nyu_labeled
  monodepth2-resnet18-ms:
    dataset: kitti
    model:
      family: monodepth2
      encoder: resnet18
      weights: scratch
      min_depth: 0.5
      max_depth: 20.0
      metres_per_unit: 5.4
    objective: {{kind: self_supervised, mode: ms}}
    recipe: {{epochs: 1, batch_size: 4, lr: 2e-4}}
    augment: {{}}
    protocol: kitti_eigen_stereo
cluster: {{num_workers: 1, cpus_per_worker: 0.5}}
""".lstrip()


@pytest.fixture
def make_row() -> Callable[..., Row]:
    """Factory of rows: row `i` has its own sample_id, colour gradient and depth."""

    def make(i: int = 0, height: int = 24, width: int = 32, **changes: object) -> Row:
        v, u = np.mgrid[:height, :width]
        image = np.stack([u * 255 // width, v * 255 // height, np.full_like(u, i * 7 % 256)], -1)
        depth = 2 + u / width + v / height + i % 5
        frame = encode_image(image.astype(np.uint8))
        row = Row(
            sample_id=f"sample_{i:04d}",
            scene=f"scene_{i // 4}",
            height=height,
            width=width,
            image=frame,
            image_prev=frame,
            image_next=frame,
            image_stereo=frame,
            K=[20.0, 0, 15.5, 0, 20, 11.5, 0, 0, 1],
            baseline_m=0.5,
            depth=encode_depth(depth, 1e-3),
            depth_scale=float(np.float32(1e-3)),
            gt_depth=None,
            gt_height=height,
            gt_width=width,
        )
        return {**row, **changes}  # type: ignore[typeddict-item]

    return make


@pytest.fixture(scope="session")
def tiny_sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root folder with data/sample/{nyu_labeled,kitti}, a few frames each; read only."""
    root = tmp_path_factory.mktemp("tiny")
    write_nyu_labeled(root / "data/sample/nyu_labeled", SampleConfig(**TINY))
    write_kitti(root / "data/sample/kitti", SampleConfig(**TINY))
    return root


@pytest.fixture
def tiny_root(tiny_sample: Path, tmp_path: Path) -> Path:
    """An own root folder with the tiny sample and its params.yaml."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/sample").symlink_to(tiny_sample / "data/sample")
    (tmp_path / "params.yaml").write_text(PARAMS)
    return tmp_path


def convert_here(root: Path, dataset: str) -> None:
    """What the stage `convert` does, in this process: for tests of what comes after it."""
    config = load_source_config(root / "params.yaml", dataset)
    convert(config, root.resolve(), Layout(root).shards(dataset).resolve(), run_one_by_one)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[S3Server]":
    """An S3 server with the buckets `runs` and `mde`, the one of this process and its children."""
    # Most tests need none, and not its libraries.
    from tests.s3 import s3_server

    with s3_server(tmp_path_factory.mktemp("s3"), "runs", "mde") as server:
        yield server


@pytest.fixture(scope="module")
def bucket(s3: "S3Server") -> str:
    """URI of a bucket on an S3 server; this process and those it starts know its keys."""
    return "s3://runs"


def flip_a_bit(shard: Path, name: str = "image") -> None:
    """Damage one byte of a shard's first row group, in the midst of a column."""
    group = pq.ParquetFile(shard).metadata.row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    column = next(column for column in columns if column.path_in_schema == name)
    content = bytearray(shard.read_bytes())
    content[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    shard.write_bytes(content)


Stage = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def stage(tiny_root: Path) -> Stage:
    """Run `python -m pipelines.<name>` on `tiny_root` as a user does; returns the process."""

    def run(name: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", f"pipelines.{name}", *options, "--root", str(tiny_root)]
        if name not in ("register", "report"):
            command += ["--params", str(tiny_root / "params.yaml")]
        return subprocess.run(
            command,
            cwd=REPOSITORY,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )

    return run
