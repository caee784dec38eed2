"""`reports/index.html`: one self-contained page with the numbers, curves and pictures of a run."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import matplotlib
from markupsafe import Markup

from mde.data.shards import read_manifest
from mde.errors import InputError
from mde.files import write_bytes
from mde.layout import Layout
from mde.report.charts import draw_images, draw_ranges, draw_sizes
from mde.report.definitions import GLOSSARY, definition
from mde.report.pages import STYLE, environment, svg
from mde.report.results import CHOICES, Result, common_edges, read_result
from mde.report.tabulation import ranges_of, tables
from mde.visualize import draw_error_histograms, draw_history, model_styles

Drawing = tuple[Markup, str]
"""An SVG, and what it shows in words."""
SHOWN_REJECTED = 50
FROM_STATE = ("mde_version", "git_commit", "data_sha256")


def write_report(layout: Layout) -> None:
    """Write the page. Raises InputError when nothing is evaluated yet, or a file is amiss."""
    results = {name: read_result(layout, name) for name in layout.variants()}
    if not results:
        raise InputError(f"{layout.root / 'results'}: nothing is evaluated yet; run dvc repro")
    datasets = sorted({result.summary["dataset"] for result in results.values()})
    page = (
        environment()
        .get_template("report.html")
        .render(
            groups=[
                _group(table, results) for table in tables([r.summary for r in results.values()])
            ],
            glossary=GLOSSARY,
            choices=CHOICES,
            histories=_histories(list(results.values())),
            origins=[_origin(result) for result in results.values()],
            datasets=[_dataset(layout, name) for name in datasets],
        )
    )
    write_bytes(layout.report, page.encode())


def _group(table: dict[str, Any], results: dict[str, Result]) -> dict[str, Any]:
    """A table with the results that stand in it, in its order."""
    members = [results[name] for name in table["variants"]]
    return {
        "table": table,
        "definition": definition(table["protocol"]),
        "styles": model_styles(table["variants"]),
        "drawings": _drawings(members),
        "members": members,
        "biases": {r.name: [_bias(shown.values["log_bias"]) for shown in r.shown] for r in members},
    }


def _drawings(members: Sequence[Result]) -> list[Drawing]:
    summaries = {result.name: result.summary for result in members}
    constant = members[0].summary.get("baselines", {}).get("constant", {}).get("abs_rel")
    sizes = {name: (s["parameters"], s["metrics"]["abs_rel"]) for name, s in summaries.items()}
    singles = {result.name: [row["abs_rel"] for row in result.images] for result in members}
    baseline = [row["constant_abs_rel"] for row in members[0].images]
    edges = common_edges(members)
    errors = {result.name: result.error_shares for result in members}
    with matplotlib.rc_context(STYLE):
        figures = {
            "abs_rel against the number of parameters": draw_sizes(sizes, "abs_rel", constant),
            "abs_rel of single images, sorted": draw_images(singles, "abs_rel", baseline),
        }
        for metric in ("abs_rel", "a1"):
            ranges = {name: ranges_of(s["metrics"], metric) for name, s in summaries.items()}
            if any(ranges.values()):
                figures[f"{metric} by range of true depth"] = draw_ranges(ranges, metric)
        for kind in ("signed", "absolute"):
            drawn = draw_error_histograms(errors, edges, (kind,), legend=False)
            figures[f"Shares of pixels by {kind} error"] = drawn
        return [(svg(figure), words) for words, figure in figures.items()]


def _histories(results: Sequence[Result]) -> list[Drawing]:
    with matplotlib.rc_context(STYLE):
        return [
            (svg(draw_history({result.name: result.history})), f"Loss by epoch of {result.name}")
            for result in results
            if result.history
        ]


def _bias(log_bias: float | None) -> str:
    """A mean log error as a factor: ×1.10 is 10 % too far."""
    return "–" if log_bias is None else f"×{math.exp(log_bias):.2f}"


def _origin(result: Result) -> dict[str, Any]:
    """Where a variant comes from. Of imported weights some is unknown."""
    settings = {key: value for key, value in result.state["variant"].items() if key != "name"}
    return {
        "name": result.name,
        "registered": {"verdict": None, "reason": None} | result.registered,
        "parameters": result.summary["parameters"],
        "epochs": len(result.history),
        "settings": json.dumps(settings, indent=2),
        **{key: result.state.get(key) for key in FROM_STATE},
    }


def _dataset(layout: Layout, name: str) -> dict[str, Any]:
    manifest = read_manifest(layout.shards(name))
    return {
        "name": name,
        "counts": manifest.counts,
        "statistics": manifest.statistics,
        "duplicates": len(manifest.duplicates),
        "rejected": manifest.rejected,
        "reasons": Counter(frame.reason for frame in manifest.rejected).most_common(),
        "shown": manifest.rejected[:SHOWN_REJECTED],
    }
