"""Raw files → shards, as a Ray Data job: one task reads the frames of one shard and writes it.

Which frame goes into which shard is decided before anything runs, so the output is the same for any
number of workers and any order of completion.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import ray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mde.cluster.session import connect, find_input_error
from mde.data.codecs import decode_depth
from mde.data.shards import Manifest, Rejected, Shard, write_manifest, write_shard
from mde.data.sources import Frame, SourceConfig, get_source
from mde.errors import InputError
from mde.schema import SPLITS, Row


def convert(config: SourceConfig, root: Path, out: Path) -> Manifest:
    """Convert a raw dataset into shards and a manifest in the folder `out`.

    Raises InputError for bad raw data, and when more than `max_rejected` of the frames are bad.
    """
    frames = get_source(config.source).list_frames(config, root)
    check_leaks(config, frames)
    tasks = list(plan_shards(frames, config.rows_per_shard))
    out.mkdir(parents=True, exist_ok=True)
    results = _run(config, root, out, tasks, len(frames))
    rejected = [Rejected(**frame) for result in results for frame in result["rejected"]]
    check_rejected(config, rejected, len(frames))
    manifest = Manifest(
        source=config.source,
        config=_portable(config),
        shards=[Shard(**result["shard"]) for result in results if result["shard"]],
        rejected=rejected,
        statistics={
            split: _merge([r["statistics"] for r in results if r["split"] == split])
            for split in SPLITS
        },
    )
    write_manifest(out, manifest)
    return manifest


def check_leaks(config: SourceConfig, frames: list[Frame]) -> None:
    """Raises InputError when a frame or a scene is in the test split and in another one."""
    if not frames:
        raise InputError("the dataset has no frame; check its split files")
    twice = [name for name, n in Counter(frame.sample_id for frame in frames).items() if n > 1]
    if twice:
        raise InputError(f"{len(twice)} frames are in more than one split: {', '.join(twice[:5])}")
    test = {frame.scene for frame in frames if frame.split == "test"}
    leaks = sorted({frame.scene for frame in frames if frame.split != "test"} & test)
    if leaks and not config.allow_shared_scenes:
        raise InputError(
            f"{len(leaks)} scenes are in the test split and in train or val: "
            f"{', '.join(leaks[:5])}; a model must not be tested on scenes that it was trained "
            "on. For a try-out on a single drive set allow_shared_scenes: true"
        )


def check_rejected(config: SourceConfig, rejected: list[Rejected], total: int) -> None:
    """Raises InputError when the share of rejected frames is above `max_rejected`."""
    if len(rejected) > config.max_rejected * total:
        examples = "\n".join(f"  {f.split} {f.sample_id}: {f.reason}" for f in rejected[:5])
        raise InputError(
            f"{len(rejected)} of {total} frames cannot be used, max_rejected allows "
            f"{config.max_rejected:.1%}. The first ones:\n{examples}"
        )


def plan_shards(frames: list[Frame], rows_per_shard: int) -> Iterator[tuple[str, int, list[Frame]]]:
    """Cut each split into (split, shard index, frames)."""
    for split in SPLITS:
        of_split = [frame for frame in frames if frame.split == split]
        for start in range(0, len(of_split), rows_per_shard):
            yield split, start // rows_per_shard, of_split[start : start + rows_per_shard]


def _run(
    config: SourceConfig,
    root: Path,
    out: Path,
    tasks: list[tuple[str, int, list[Frame]]],
    num_frames: int,
) -> list[dict[str, Any]]:
    connect()
    items = [{"task": number} for number in range(len(tasks))]
    shared = ray.put(tasks)

    def run_task(item: dict[str, Any]) -> dict[str, str]:
        split, index, frames = ray.get(shared)[item["task"]]
        result = convert_shard(config, root, out, split, index, frames)
        return {"result": json.dumps({"task": int(item["task"]), **result})}

    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map(run_task, num_cpus=1)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    results = []
    with Progress(*columns, TextColumn("frames"), TimeRemainingColumn()) as progress:
        bar = progress.add_task(f"convert {config.source}", total=num_frames)
        try:
            for row in dataset.iter_rows():
                results.append(json.loads(row["result"]))
                progress.advance(bar, len(tasks[results[-1]["task"]][2]))
        except Exception as error:
            raise find_input_error(error) or error from None
    return sorted(results, key=lambda result: result["task"])


def convert_shard(
    config: SourceConfig, root: Path, out: Path, split: str, index: int, frames: list[Frame]
) -> dict[str, Any]:
    """Read frames and write their shard; runs in a task. Returns what the manifest needs."""
    cv2.setNumThreads(1)
    rows: list[Row] = []
    rejected: list[Rejected] = []
    for result in get_source(config.source).read_frames(config, root, frames):
        if isinstance(result, Rejected):
            rejected.append(result)
        else:
            rows.append(result)
    shard = write_shard(out, split, index, rows) if rows else None
    return {
        "split": split,
        "shard": asdict(shard) if shard else None,
        "rejected": [asdict(frame) for frame in rejected],
        "statistics": depth_statistics(rows),
    }


def depth_statistics(rows: list[Row]) -> dict[str, float]:
    """Count, sum, min and max (m) over all valid depth pixels of some rows."""
    total = {"pixels": 0.0, "sum": 0.0, "min": float("inf"), "max": 0.0}
    for row in rows:
        if row["depth"] is not None:
            depth = decode_depth(row["depth"], row["height"], row["width"], row["depth_scale"])
        elif row["gt_depth"] is not None:
            size = row["gt_height"], row["gt_width"]
            depth = decode_depth(row["gt_depth"], *size, row["depth_scale"])
        else:
            continue
        values = depth[depth > 0].astype(np.float64)
        if len(values):
            total["pixels"] += len(values)
            total["sum"] += float(values.sum())
            total["min"] = min(total["min"], float(values.min()))
            total["max"] = max(total["max"], float(values.max()))
    return total


def _merge(parts: list[dict[str, float]]) -> dict[str, float]:
    pixels = sum(part["pixels"] for part in parts)
    if not pixels:
        return {}
    return {
        "depth_pixels": pixels,
        "depth_mean": sum(part["sum"] for part in parts) / pixels,
        "depth_min": min(part["min"] for part in parts),
        "depth_max": max(part["max"] for part in parts),
    }


def _portable(config: SourceConfig) -> dict[str, Any]:
    # Where the raw files lay is not part of what the dataset is.
    return {key: value for key, value in asdict(config).items() if key not in ("raw", "splits")}
