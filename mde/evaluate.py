"""Score a checkpoint, and two baselines on the same images, with a protocol."""

import csv
import hashlib
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from mde.data.place import Place, show
from mde.data.shards import read_manifest
from mde.errors import InputError
from mde.files import write_json
from mde.inference import (
    BatchPredictor,
    RowGroup,
    Runner,
    decode_row_image,
    row_groups,
    run_one_by_one,
    run_with_progress,
)
from mde.metrics import average
from mde.predictor import BATCH_SIZE, load_depth_model
from mde.protocols import Protocol
from mde.scoring import BASELINES, COLUMNS, Scorer, baselines
from mde.visualize import draw_panel, figure_to_png

Choice = Literal["best", "worst", "spread"]


@dataclass(frozen=True)
class Panel:
    """One test image as a panel shows it. image (H,W,3) uint8; depths (h,w) m, target 0 = none.

    choice: why it is shown; rank: its place among those.
    """

    choice: Choice
    rank: int
    sample_id: str
    image: NDArray[np.uint8]
    pred: NDArray[np.float32]
    target: NDArray[np.float32]
    abs_rel: float


@dataclass(frozen=True)
class Evaluation:
    """Results of one variant.

    summary: what `metrics.json` holds. per_image: of `mde.scoring.per_image_schema`, every image
    of the split in stored order. history: metrics of the training's epochs.
    """

    summary: dict[str, Any]
    per_image: pa.Table
    panels: list[Panel]
    protocol: Protocol
    history: list[dict[str, Any]]


def evaluate(
    checkpoint: Path,
    data: Place,
    protocol: Protocol,
    run: Runner = run_one_by_one,
    split: str = "test",
    num_panels: int = 6,
    num_extremes: int = 3,
    batch_size: int = BATCH_SIZE,
) -> Evaluation:
    """Score a checkpoint and the baselines on a split of a dataset with one protocol.

    checkpoint: trained or imported. data: a dataset, called as its folder is. num_panels: images
    to show that are spread over the split; num_extremes: the best ones and the worst ones.
    Raises InputError when the split has no image with ground truth, and for a model whose depth is
    up to scale under a protocol that does not scale.
    """
    model, state = load_depth_model(checkpoint)
    name = state["variant"]["name"]
    if not model.is_metric and protocol.scaling == "none":
        raise InputError(
            f"{checkpoint}: its depth is right up to a factor, and {protocol.id} does not scale; "
            "take a protocol that does, such as kitti_eigen_mono or nyu_eigen_median"
        )
    groups = row_groups(data, split)
    predictor = BatchPredictor(checkpoint, batch_size, protocol.flip)
    metres_per_unit = 1.0 if model.is_metric else protocol.metres_per_unit
    scorer = Scorer(predictor, protocol, baselines(data, protocol), metres_per_unit)
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
        **summarize(rows, protocol),
        "data_sha256": state["data_sha256"],
        "ground_truth": read_manifest(data).config.get("ground_truth", "as stored"),
        "mode": state["variant"].get("objective", {}).get("mode", "supervised"),
    }
    chosen = choose(scored, num_panels, num_extremes)
    panels = [_panel(scorer, groups, rows, *choice) for choice in chosen]
    return Evaluation(summary, per_image, panels, protocol, state.get("history", []))


def summarize(rows: list[dict[str, Any]], protocol: Protocol) -> dict[str, Any]:
    """The numbers of a test set from its rows of `per_image_schema`, some of which are scored.

    `scale`, under median scaling: the median of the ratios, and their standard deviation after
    division by it. `clipped`: share of pixels whose prediction was outside the protocol's range.
    `test_sha256`: equal where names and ground truths of the scored images are.
    """
    scored = [row for row in rows if row["skipped"] is None]
    names, averaging = protocol.names, protocol.averaging
    summary: dict[str, Any] = {
        "protocol": protocol.id,
        "images": len(scored),
        "skipped": [[r["sample_id"], r["skipped"]] for r in rows if r["skipped"] is not None],
        "test_sha256": _test_sha256(scored),
        "metrics": average(scored, names, averaging),
        "clipped": average(scored, ["clipped"])["clipped"],
    }
    if protocol.scaling == "median":
        summary["scale"] = scale_statistics([row["scale"] for row in scored])
    if all(f"{of}_abs_rel" in scored[0] for of in BASELINES):
        summary["baselines"] = {
            of: average([_of_baseline(row, of) for row in scored], names, averaging)
            for of in BASELINES
        }
    return summary


def scale_statistics(scales: list[float]) -> dict[str, float]:
    """Median of the ratios of median scaling, and `spread`, the deviation of ratio / median."""
    median = statistics.median(scales)
    return {"median": median, "spread": statistics.pstdev([scale / median for scale in scales])}


def _of_baseline(row: dict[str, Any], of: str) -> dict[str, Any]:
    return {k.removeprefix(f"{of}_"): v for k, v in row.items() if k.startswith(f"{of}_")}


def _test_sha256(scored: list[dict[str, Any]]) -> str:
    lines = sorted(f"{row['sample_id']} {row['target_sha256']}\n" for row in scored)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def choose(
    scored: list[dict[str, Any]], spread: int, extremes: int
) -> list[tuple[Choice, int, str]]:
    """Which scored images to show, and why: (choice, rank, sample_id).

    spread: so many, evenly over the order of `scored`; extremes: so many of the smallest and of
    the largest abs_rel, the most extreme first; small test sets are not shown twice for that.
    """
    extremes = min(extremes, len(scored) // 3)
    ranked = [row["sample_id"] for row in sorted(scored, key=lambda row: row["abs_rel"])]
    evenly = np.linspace(0, len(scored) - 1, min(spread, len(scored))).round().astype(int)
    chosen: list[tuple[Choice, int, str]] = []
    for rank, number in enumerate(evenly):
        chosen.append(("spread", rank, scored[number]["sample_id"]))
    chosen += [("worst", rank, name) for rank, name in enumerate(ranked[::-1][:extremes])]
    return chosen + [("best", rank, name) for rank, name in enumerate(ranked[:extremes])]


def _panel(
    scorer: Scorer,
    groups: list[RowGroup],
    rows: list[dict[str, Any]],
    choice: Choice,
    rank: int,
    sample_id: str,
) -> Panel:
    """Its depth is predicted once more, here: better than to carry that of all images around."""
    number = next(i for i, row in enumerate(rows) if row["sample_id"] == sample_id)
    firsts = np.cumsum([0, *(group.rows for group in groups)])
    owner = int(np.searchsorted(firsts, number, side="right")) - 1
    row = groups[owner].read(COLUMNS)[number - firsts[owner]]
    target = scorer.target(groups[owner], row)
    assert isinstance(target, Tensor), "it was scored"
    depth = scorer.predict(groups[owner], [row], torch.device("cpu"))[sample_id]
    # As the metrics see it: scaled and clipped.
    pred = scorer.protocol.align(depth, target, scorer.metres_per_unit).pred
    image = scorer.seen(decode_row_image(groups[owner], row))
    abs_rel = rows[number]["abs_rel"]
    return Panel(choice, rank, sample_id, image, pred.numpy(), target.numpy(), abs_rel)


def write_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Write the files of an evaluation into a folder.

    `metrics.json`, `per_image.parquet`, `error_histogram.csv` (error in m, share of pixels),
    `history.csv` (of a training), `panels/<choice>-<rank>.png` and, of which images these are,
    `panels/index.json`.
    """
    write_json(folder / "metrics.json", evaluation.summary)
    write_per_image(folder / "per_image.parquet", evaluation.per_image, evaluation.summary)
    _write_histogram(folder / "error_histogram.csv", evaluation)
    if evaluation.history:
        _write_rows(folder / "history.csv", _columns(evaluation.history), evaluation.history)
    _write_panels(folder / "panels", evaluation)


def _write_panels(folder: Path, evaluation: Evaluation) -> None:
    folder.mkdir()
    index = []
    for shown in evaluation.panels:
        title = f"{shown.sample_id}\nabs_rel {shown.abs_rel:.3f}"
        max_depth = evaluation.protocol.max_depth
        panel = draw_panel(shown.image, shown.target, shown.pred, max_depth, title)
        name = f"{shown.choice}-{shown.rank:02d}.png"
        (folder / name).write_bytes(figure_to_png(panel))
        index.append({"file": name, "choice": shown.choice, "sample_id": shown.sample_id})
    write_json(folder / "index.json", index)


def write_per_image(path: Path, per_image: pa.Table, summary: dict[str, Any]) -> None:
    """Write results of single images as Parquet; its metadata say which, under the key `mde`."""
    keys = ("variant", "dataset", "split", "protocol", "test_sha256")
    about = {key: summary[key] for key in keys if key in summary}
    table = per_image.replace_schema_metadata({"mde": json.dumps(about)})
    pq.write_table(table, path, compression="zstd")


def error_histogram(per_image: pa.Table) -> NDArray[np.int64]:
    """Counts of pixels by signed error over all scored images, in the protocol's bins."""
    counts = [row for row in per_image["error_histogram"].to_pylist() if row is not None]
    total: NDArray[np.int64] = np.sum(counts, axis=0, dtype=np.int64)
    return total


def _write_histogram(path: Path, evaluation: Evaluation) -> None:
    counts, edges = error_histogram(evaluation.per_image), evaluation.protocol.error_edges.numpy()
    middles, shares = (edges[:-1] + edges[1:]) / 2, counts / counts.sum()
    pairs = zip(middles.round(6).tolist(), shares.tolist(), strict=True)
    _write_rows(path, ["error_m", "share"], [{"error_m": e, "share": s} for e, s in pairs])


def _columns(history: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for point in history for key in point))


def _write_rows(path: Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
