"""`reports/index.html`: one self-contained page with the numbers, curves and pictures of a run."""

import base64
from typing import Any

from jinja2 import Environment, PackageLoader

from mde.data.shards import read_manifest
from mde.errors import InputError
from mde.files import read_json
from mde.layout import Layout
from mde.metrics import METRICS, UNITS, higher_is_better
from mde.train.checkpoint import read_state
from mde.visualize import draw_history, figure_to_png


def write_report(layout: Layout) -> None:
    """Write the page. Raises InputError when nothing has been evaluated yet."""
    variants = [_variant(layout, name) for name in layout.variants()]
    if not variants:
        raise InputError(f"{layout.root / 'results'}: nothing is evaluated yet; run dvc repro")
    environment = Environment(loader=PackageLoader("mde", "."), autoescape=True)
    page = environment.get_template("report.html").render(
        tables=tables(variants),
        variants=variants,
        curves=_data_uri(figure_to_png(draw_history({v["name"]: v["history"] for v in variants}))),
        datasets=[
            _dataset(layout, name) for name in sorted({v["summary"]["dataset"] for v in variants})
        ],
    )
    layout.report.parent.mkdir(parents=True, exist_ok=True)
    draft = layout.report.with_suffix(".partial")
    draft.write_text(page)
    draft.replace(layout.report)


def tables(variants: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One table for each protocol on each dataset: numbers of different ones do not compare.

    A table has `columns` (name, unit, whether higher is better) and `rows` of cells (text, best);
    baselines come last. `variants`: at least their `summary`.
    """
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for variant in variants:
        summary = variant["summary"]
        key = (summary["dataset"], summary["split"], summary["protocol"])
        groups.setdefault(key, []).append(summary)
    return [_table(key, summaries) for key, summaries in sorted(groups.items())]


def _table(key: tuple[str, ...], summaries: list[dict[str, Any]]) -> dict[str, Any]:
    dataset, split, protocol = key
    rows = [(s["variant"], s["metrics"], False) for s in summaries]
    rows += [(name, values, True) for name, values in summaries[0]["baselines"].items()]
    best = {}
    for name in METRICS:
        values = [s["metrics"][name] for s in summaries]
        best[name] = max(values) if higher_is_better(name) else min(values)
    return {
        "dataset": dataset,
        "split": split,
        "protocol": protocol,
        "images": summaries[0]["images"],
        "skipped": len(summaries[0]["skipped"]),
        "columns": [(name, UNITS.get(name, ""), higher_is_better(name)) for name in METRICS],
        "rows": [
            {
                "name": name,
                "baseline": baseline,
                "cells": [
                    (f"{values[m]:.3f}", not baseline and values[m] == best[m]) for m in METRICS
                ],
            }
            for name, values, baseline in rows
        ],
    }


def read_summaries(layout: Layout) -> list[dict[str, Any]]:
    """The `metrics.json` of every evaluated variant, as `tables` takes them."""
    return [
        {"summary": read_json(layout.result(name) / "metrics.json")} for name in layout.variants()
    ]


def _variant(layout: Layout, name: str) -> dict[str, Any]:
    state = read_state(layout.model(name) / "checkpoint")
    return {
        "name": name,
        "summary": read_json(layout.result(name) / "metrics.json"),
        "registered": read_json(layout.registered(name)),
        "history": state["history"],
        "git_commit": state["git_commit"],
        "data_sha256": state["data_sha256"],
        "panels": [
            _data_uri(path.read_bytes())
            for path in sorted((layout.result(name) / "panels").glob("*.png"))
        ],
    }


def _dataset(layout: Layout, name: str) -> dict[str, Any]:
    manifest = read_manifest(layout.shards(name))
    return {"name": name, "counts": manifest.counts, "rejected": manifest.rejected}


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
