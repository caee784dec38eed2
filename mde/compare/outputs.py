"""The files of a comparison: tables for people and programs, pictures, a film, a page."""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib
import pyarrow as pa
import pyarrow.parquet as pq

from mde.compare.comparison import Comparison, Entry
from mde.compare.film import draw_frames, write_gif
from mde.compare.page import write_page
from mde.compare.pictures import draw_costs, draw_shared_panel
from mde.compare.sections import sections
from mde.data.place import show
from mde.files import write_json
from mde.film import write_mp4
from mde.report.pages import STYLE
from mde.visualize import draw_error_histograms, figure_to_png

DPI = 110


def write_comparison(folder: Path, found: Comparison, fps: int) -> None:
    """Write all files of a comparison into an existing folder.

    `table.csv`, `table.md`, `metrics.json`, `per_image.parquet` (of all models, column `model`),
    `panels/*.png`, `sequence.gif`, `sequence.mp4`, `histograms.png`, `cost.png` where costs were
    measured, and `index.html`, which needs none of the others. fps: frames per s of the film.
    """
    write_json(folder / "metrics.json", describe(found))
    _write_csv(folder / "table.csv", found.entries)
    (folder / "table.md").write_text(markdown(found))
    _write_per_image(folder / "per_image.parquet", found)
    (folder / "panels").mkdir()
    for number, panel in enumerate(found.panels):
        path = folder / "panels" / f"{number:02d}.png"
        path.write_bytes(figure_to_png(draw_shared_panel(panel), DPI))
    frames = draw_frames(found.film)
    write_gif(folder / "sequence.gif", frames, fps, rows=1 + len(found.entries))
    write_mp4(folder / "sequence.mp4", frames, fps)
    with matplotlib.rc_context(STYLE):
        counts = {entry.contender.label: entry.histogram for entry in found.entries}
        figure = draw_error_histograms(counts, found.protocol.error_edges.numpy())
        (folder / "histograms.png").write_bytes(figure_to_png(figure, DPI))
        if costs := found.costs:
            (folder / "cost.png").write_bytes(figure_to_png(draw_costs(costs), DPI))
    write_page(folder / "index.html", found, folder, frames, fps)


def describe(found: Comparison) -> dict[str, Any]:
    """The whole comparison as plain values."""
    return {
        "protocol": found.protocol.id,
        "data": show(found.data),
        "sequence": {"scene": found.film.scene, "frames": found.film.ids},
        "models": [_describe_entry(entry) for entry in found.entries],
    }


def _describe_entry(entry: Entry) -> dict[str, Any]:
    improvement = entry.improvement
    return {
        "label": entry.contender.label,
        "source": entry.contender.source,
        **entry.summary,
        "variant": entry.contender.state["variant"]["name"],
        "cost": asdict(entry.cost) if entry.cost else None,
        "improvement": dict(zip(("share", "low", "high"), improvement, strict=True))
        if improvement
        else None,
    }


def _write_csv(path: Path, entries: Sequence[Entry]) -> None:
    """One line for each model, unrounded."""
    rows = []
    for entry in entries:
        scale = {f"scale_{key}": value for key, value in entry.summary.get("scale", {}).items()}
        row: dict[str, Any] = {"model": entry.contender.label, "source": entry.contender.source}
        row |= {key: entry.summary[key] for key in ("mode", "images", "parameters", "clipped")}
        numbers = entry.improvement or (None, None, None)
        names = ("improvement", "improvement_low", "improvement_high")
        row |= dict(zip(names, numbers, strict=True))
        cost = asdict(entry.cost) if entry.cost else {}
        cost.pop("parameters", None)
        rows.append(row | entry.summary["metrics"] | scale | cost)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _write_per_image(path: Path, found: Comparison) -> None:
    parts = []
    for entry in found.entries:
        names = pa.array([entry.contender.label] * len(entry.per_image), pa.string())
        parts.append(entry.per_image.add_column(0, "model", names))
    keys = ("dataset", "split", "protocol", "test_sha256")
    about = {key: found.entries[0].summary[key] for key in keys}
    table = pa.concat_tables(parts).replace_schema_metadata({"mde": json.dumps(about)})
    pq.write_table(table, path, compression="zstd")


def markdown(found: Comparison) -> str:
    """The tables as Markdown: models grouped by what they were trained on, the best in bold."""
    summary = found.entries[0].summary
    lines = [
        f"{summary['dataset']}, {summary['split']} split, protocol `{found.protocol.id}`, "
        f"{summary['images']} images, {len(summary['skipped'])} skipped.\n"
    ]
    for section in sections(found):
        headings = ["model", "trained on", *(heading(*column) for column in section["columns"])]
        rows = [
            [row["name"], row["mode"] or "baseline", *(_bold(*cell) for cell in row["cells"])]
            for row in section["rows"]
        ]
        lines += [f"## {section['title']}\n"]
        lines += [f"{section['note']}\n"] if section["note"] else []
        lines += _markdown_table(headings, rows, left=2)
    return "\n".join(lines)


def heading(name: str, unit: str, higher: bool | None) -> str:
    """`rmse (m) ↓`."""
    arrow = {True: " ↑", False: " ↓", None: ""}[higher]
    return name + (f" ({unit})" if unit else "") + arrow


def _bold(text: str, best: bool) -> str:
    return f"**{text}**" if best else text


def _markdown_table(headings: list[str], rows: list[list[str]], left: int) -> list[str]:
    rule = ["---"] * left + ["---:"] * (len(headings) - left)
    lines = ["| " + " | ".join(cells) + " |" for cells in (headings, rule, *rows)]
    return [*lines, ""]
