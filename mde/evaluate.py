"""Score a checkpoint, and two baselines on the same images, with a protocol."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from mde.data.place import Place, show
from mde.errors import InputError
from mde.files import write_json
from mde.inference import (
    BATCH_SIZE,
    BatchPredictor,
    RowGroup,
    Runner,
    decode_row_image,
    row_groups,
    run_one_by_one,
    run_with_progress,
)
from mde.metrics import METRICS, mean_over_images
from mde.protocols import Protocol
from mde.scoring import BASELINES, COLUMNS, Scorer, baselines
from mde.train.checkpoint import read_state
from mde.visualize import draw_panel, figure_to_png


@dataclass(frozen=True)
class Panel:
    """One test image as a panel shows it. image (H,W,3) uint8; depths (h,w) m, target 0 = none."""

    sample_id: str
    image: NDArray[np.uint8]
    pred: NDArray[np.float32]
    target: NDArray[np.float32]
    abs_rel: float


@dataclass(frozen=True)
class Evaluation:
    """Results of one variant.

    summary: what `metrics.json` holds. per_image: of `mde.scoring.PER_IMAGE_SCHEMA`, every image
    of the split in stored order.
    """

    summary: dict[str, Any]
    per_image: pa.Table
    panels: list[Panel]
    max_depth: float


def evaluate(
    checkpoint: Path,
    data: Place,
    protocol: Protocol,
    run: Runner = run_one_by_one,
    split: str = "test",
    num_panels: int = 6,
    batch_size: int = BATCH_SIZE,
) -> Evaluation:
    """Score a checkpoint and the baselines on a split of a dataset with one protocol.

    checkpoint: trained or imported. data: a dataset, called as its folder is.
    Raises InputError when the split has no image with ground truth.
    """
    state = read_state(checkpoint)
    name = state["variant"]["name"]
    groups = row_groups(data, split)
    scorer = Scorer(BatchPredictor(checkpoint, batch_size), protocol, baselines(data, protocol))
    tables = run_with_progress(run, scorer, groups, f"evaluate {name}")
    per_image = pa.concat_tables(tables)
    rows = per_image.to_pylist()
    scored = [row for row in rows if row["skipped"] is None]
    if not scored:
        raise InputError(
            f"{show(data)}: no image of the {split} split has ground truth to score against"
        )
    summary = {
        "variant": name,
        "dataset": show(data).rstrip("/").rpartition("/")[2],
        "split": split,
        "protocol": protocol.id,
        "images": len(scored),
        "skipped": [[r["sample_id"], r["skipped"]] for r in rows if r["skipped"] is not None],
        "data_sha256": state["data_sha256"],
        "metrics": mean_over_images(scored),
        "baselines": {
            of: mean_over_images([{m: r[f"{of}_{m}"] for m in METRICS} for r in scored])
            for of in BASELINES
        },
    }
    panels = _panels(scorer, groups, rows, num_panels)
    return Evaluation(summary, per_image, panels, protocol.max_depth)


def _panels(
    scorer: Scorer, groups: list[RowGroup], rows: list[dict[str, Any]], num_panels: int
) -> list[Panel]:
    """Panels of images that are evenly spread over the scored ones.

    Their depth is predicted once more, here: better than to carry that of all images around.
    """
    scored = [number for number, row in enumerate(rows) if row["skipped"] is None]
    spread = np.linspace(0, len(scored) - 1, min(num_panels, len(scored))).round().astype(int)
    firsts = np.cumsum([0, *(group.rows for group in groups)])
    panels = []
    for number in (scored[i] for i in spread):
        owner = int(np.searchsorted(firsts, number, side="right")) - 1
        group = groups[owner]
        row = group.read(COLUMNS)[number - firsts[owner]]
        name, image, target = (
            row["sample_id"],
            decode_row_image(group, row),
            scorer.target(group, row),
        )
        assert isinstance(target, Tensor), "it was scored"
        size = (target.shape[0], target.shape[1])
        pred = scorer.predictor.predict({name: image}, {name: size}, torch.device("cpu"))[name]
        panels.append(Panel(name, image, pred.numpy(), target.numpy(), rows[number]["abs_rel"]))
    return panels


def write_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Write `metrics.json`, `per_image.parquet` and `panels/*.png` into a folder."""
    write_json(folder / "metrics.json", evaluation.summary)
    about = {k: evaluation.summary[k] for k in ("variant", "dataset", "split", "protocol")}
    table = evaluation.per_image.replace_schema_metadata({"mde": json.dumps(about)})
    pq.write_table(table, folder / "per_image.parquet", compression="zstd")
    (folder / "panels").mkdir()
    for number, shown in enumerate(evaluation.panels):
        title = f"{shown.sample_id}\nabs_rel {shown.abs_rel:.3f}"
        panel = draw_panel(shown.image, shown.target, shown.pred, evaluation.max_depth, title)
        (folder / "panels" / f"{number:02d}.png").write_bytes(figure_to_png(panel))
