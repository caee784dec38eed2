"""Tables of metrics: which numbers may stand in one table, in which order, and which are best."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from mde.errors import InputError
from mde.files import read_json
from mde.layout import Layout
from mde.metrics import METRICS, UNITS, higher_is_better

Summary = Mapping[str, Any]
"""Content of a `metrics.json`, see `mde.evaluate`; `parameters`, a count, may be added."""

MODES = {"m": "M", "s": "S", "ms": "MS", "supervised": "supervised"}
"""What a model was trained on, in the order of published tables."""
KEY = ("dataset", "split", "protocol", "ground_truth", "test_sha256")
"""Numbers that differ in one of these do not compare."""
NEEDED = (*KEY, "variant", "mode", "images", "skipped", "metrics", "clipped")
RANGE = re.compile(r"(abs_rel|a1)_([\d.]+)_([\d.]+)m")
SCALE = ("median", "spread")
NOTHING = "–"


@dataclass(frozen=True)
class Column:
    """A column of numbers.

    name: of a metric, or of another number; unit may be empty. higher: whether larger is better;
    None: neither is. value: the number of a summary, None where there is none.
    """

    name: str
    unit: str
    higher: bool | None
    value: Callable[[Summary], float | None]
    digits: int = 3


def read_summaries(layout: Layout) -> list[dict[str, Any]]:
    """The `metrics.json` of every evaluated variant, as `tables` takes them.

    Raises InputError for a damaged one, and for one of an older format.
    """
    return [read_summary(layout, name) for name in layout.variants()]


def read_summary(layout: Layout, variant: str) -> dict[str, Any]:
    """The `metrics.json` of a variant; raises InputError as `read_summaries` does."""
    path = layout.result(variant) / "metrics.json"
    content: dict[str, Any] = read_json(path)
    if missing := [key for key in NEEDED if key not in content]:
        raise InputError(
            f"{path}: no {', '.join(missing)}: an older version has written it; run dvc repro"
        )
    return content


def tables(summaries: Sequence[Summary]) -> list[dict[str, Any]]:
    """One table for each protocol, dataset, split, ground truth and set of test images.

    A table has these KEY values, `images`, `skipped` (how many), `reasons` (why, with counts),
    `variants` (names in order), and `columns` and `rows` of the main metrics. `sections` holds
    these, as title, columns and rows, and those of structure and of ranges of depth, where there
    are any. columns: (name, unit, whether higher is better or None). A row has `name`, `mode` (M,
    S, MS or supervised; that of a baseline is empty) and its `order`, `baseline`, `starts_group`,
    `cells` of (text, whether it is the best) and `numbers`, the values behind the texts, or None.
    Rows are in the order of MODES, then of names; baselines come last.
    """
    groups: dict[tuple[str, ...], list[Summary]] = {}
    for summary in summaries:
        groups.setdefault(tuple(str(summary[key]) for key in KEY), []).append(summary)
    return [_table(key, groups[key]) for key in sorted(groups)]


def split_name(name: str) -> tuple[str, str]:
    """A metric's name in two parts, for narrow headings: what, and of which kind."""
    if found := RANGE.fullmatch(name):
        return found[1], f"{found[2]}–{found[3]} m"
    if name.startswith("mssim_range"):
        return "mssim", f"range {name.removeprefix('mssim_range')} m"
    if name.startswith("edge_"):
        _, of, kind = name.split("_", 2)
        return f"edge {of}", kind
    what, _, kind = name.partition(" ")
    return what, kind


def ranges_of(metrics: Mapping[str, float | None], name: str) -> dict[tuple[float, float], float]:
    """A metric by range of true depth in m, (low, high), of the ranges that have a value."""
    found = ((RANGE.fullmatch(key), value) for key, value in metrics.items())
    return {
        (float(match[2]), float(match[3])): value
        for match, value in found
        if match and match[1] == name and value is not None
    }


def _table(key: tuple[str, ...], group: list[Summary]) -> dict[str, Any]:
    order = list(MODES)
    group.sort(key=lambda s: (order.index(s["mode"]), s["variant"]))
    first = group[0]
    sections = [
        {"title": title, "columns": [(c.name, c.unit, c.higher) for c in columns]}
        | {"rows": _rows(group, columns)}
        for title, columns in _sections(group).items()
        if columns
    ]
    return {
        **dict(zip(KEY, key, strict=True)),
        "images": first["images"],
        "skipped": len(first["skipped"]),
        "reasons": Counter(reason for _, reason in first["skipped"]),
        "variants": [summary["variant"] for summary in group],
        "columns": sections[0]["columns"],
        "rows": sections[0]["rows"],
        "sections": sections,
    }


def _sections(group: list[Summary]) -> dict[str, list[Column]]:
    names = list(dict.fromkeys(name for summary in group for name in summary["metrics"]))
    ranges = [name for name in names if RANGE.fullmatch(name)]
    ranges.sort(key=lambda name: not name.startswith("abs_rel"))
    structure = [name for name in names if name not in METRICS and name not in ranges]
    main = [name for name in METRICS if name in names]
    return {
        "Metrics": [*map(_metric, main), *_others(group)],
        "Structure": [_metric(name) for name in structure],
        "Ranges of true depth": [_metric(name) for name in ranges],
    }


def _metric(name: str) -> Column:
    unit = UNITS.get(name, "")
    return Column(name, unit, higher_is_better(name), lambda s: s["metrics"].get(name))


def _others(group: list[Summary]) -> list[Column]:
    columns = []
    if any("scale" in summary for summary in group):
        columns += [Column(f"scale {of}", "", None, partial(_scale, of)) for of in SCALE]
    columns.append(Column("clipped", "%", None, _clipped, 1))
    if any("parameters" in summary for summary in group):
        columns.append(Column("params", "M", None, _millions, 2))
    return columns


def _scale(of: str, summary: Summary) -> float | None:
    value: float | None = summary.get("scale", {}).get(of)
    return value


def _clipped(summary: Summary) -> float | None:
    share = summary.get("clipped")
    return None if share is None else 100 * share


def _millions(summary: Summary) -> float | None:
    count = summary.get("parameters")
    return None if count is None else count / 1e6


def _rows(group: list[Summary], columns: list[Column]) -> list[dict[str, Any]]:
    best = [_best([column.value(summary) for summary in group], column) for column in columns]
    rows, before = [], group[0]["mode"]
    for summary in group:
        numbers = [column.value(summary) for column in columns]
        cells = [
            (_text(number, column), top is not None and _rounded(number, column) == top)
            for number, column, top in zip(numbers, columns, best, strict=True)
        ]
        starts = summary["mode"] != before
        rows.append(_row(summary["variant"], summary["mode"], starts, cells, numbers))
        before = summary["mode"]
    return rows + [
        _baseline(name, {"metrics": values}, columns)
        for name, values in group[0].get("baselines", {}).items()
    ]


def _baseline(name: str, values: Summary, columns: list[Column]) -> dict[str, Any]:
    numbers = [column.value(values) for column in columns]
    cells = [(_text(n, column), False) for n, column in zip(numbers, columns, strict=True)]
    return _row(name, None, False, cells, numbers)


def _row(
    name: str,
    mode: str | None,
    starts_group: bool,
    cells: list[tuple[str, bool]],
    numbers: list[float | None],
) -> dict[str, Any]:
    """mode: None makes it a baseline."""
    return {
        "name": name,
        "mode": "" if mode is None else MODES[mode],
        "order": "" if mode is None else list(MODES).index(mode),
        "baseline": mode is None,
        "starts_group": starts_group,
        "cells": cells,
        "numbers": numbers,
    }


def _best(values: list[float | None], column: Column) -> float | None:
    """The best of several models; one alone has no rival, and of equal ones none is better.

    Rounded as it is shown: what looks equal is.
    """
    found = [rounded for value in values if (rounded := _rounded(value, column)) is not None]
    if column.higher is None or len(set(found)) < 2:
        return None
    return max(found) if column.higher else min(found)


def _rounded(number: float | None, column: Column) -> float | None:
    return None if number is None else round(number, column.digits)


def _text(number: float | None, column: Column) -> str:
    return NOTHING if number is None else f"{number:.{column.digits}f}"
