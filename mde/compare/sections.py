"""All tables of a comparison, in the form of `mde.report.tables`, with notes on what they say."""

from collections.abc import Callable
from typing import Any, NamedTuple

from mde.compare.comparison import Comparison, Entry
from mde.cost import Cost
from mde.report import tables

Section = dict[str, Any]
"""`title`, `note`, `columns` and `rows`, see `mde.report.tables`."""

NOT_COUNTED = (
    "Multiply-adds are those of convolutions and matrix products; norms, activations, pooling and "
    "resizing are not counted."
)


class Number(NamedTuple):
    """A column of numbers of entries. lower: whether lower is better; None: neither is."""

    name: str
    unit: str
    lower: bool | None
    value: Callable[[Entry], float]
    form: str


def sections(found: Comparison) -> list[Section]:
    """Metrics, structure and ranges of depth; differences from the first model; costs."""
    (table,) = tables([entry.summary for entry in found.entries])
    rows = [row for row in table["rows"] if not row["baseline"]]
    extra = [_differences(found.entries, rows)]
    if costs := found.costs:
        extra.append(_costs(found.entries, rows, next(iter(costs.values()))[1]))
    return [{"note": "", **section} for section in table["sections"]] + extra


def _differences(entries: list[Entry], rows: list[Section]) -> Section:
    first = entries[0].contender.label
    numbers = {entry.contender.label: entry.improvement for entry in entries[1:]}
    columns = [("better by", "%", None), ("from", "%", None), ("to", "%", None), ("so", "", None)]
    filled = []
    for row in rows:
        if (improvement := numbers.get(row["name"])) is not None:
            percents = [100 * share for share in improvement]
            cells = [(f"{percent:+.1f}", False) for percent in percents]
            cells.append((_in_words(*improvement), False))
            filled.append({**row, "cells": cells, "numbers": [*percents, None]})
    note = (
        f"By how much the abs_rel of each model is lower than that of {first}, as a share of it, "
        "with a 95 % interval from a bootstrap over images: both models on the same ones."
    )
    return {"title": f"Against {first}", "note": note, "columns": columns, "rows": filled}


def _in_words(share: float, low: float, high: float) -> str:
    if low <= 0 <= high:
        return "may be chance"
    return "better" if share > 0 else "worse"


def _costs(entries: list[Entry], rows: list[Section], some: Cost) -> Section:
    def of(name: str, scale: float = 1.0) -> Callable[[Entry], float]:
        return lambda entry: scale * getattr(entry.cost, name)

    columns = [
        Number("parameters", "M", True, of("parameters", 1e-6), ".2f"),
        Number("multiply-adds", "G", True, of("macs", 1e-9), ".2f"),
        Number("median latency", "ms", True, of("median_ms"), ".1f"),
        Number("p95 latency", "ms", True, of("p95_ms"), ".1f"),
        Number("memory", "MiB", True, of("memory_mib"), ".0f"),
        Number("runs", "", None, of("runs"), ".0f"),
    ]
    if some.growth_mib is None:
        memory = "Memory is the peak that PyTorch had allocated on the GPU, weights included."
        columns.insert(5, Number("reserved", "MiB", True, of("reserved_mib"), ".0f"))
    else:
        memory = (
            "Memory is the growth of the process's resident memory up to its peak while it "
            "predicts; weights are in it, libraries are not."
        )
    named = {entry.contender.label: entry for entry in entries}
    best = [None if c.lower is None else min(map(c.value, entries)) for c in columns]
    filled = []
    for row in rows:
        values = [column.value(named[row["name"]]) for column in columns]
        cells = [
            (format(value, column.form), value == top)
            for value, column, top in zip(values, columns, best, strict=True)
        ]
        filled.append({**row, "cells": cells, "numbers": values})
    note = (
        f"One image of {some.height}x{some.width} px at a time on {some.device}, {some.threads} "
        "CPU threads, from the image in memory to its depth; the models took turns. "
        f"{NOT_COUNTED} {memory}"
    )
    shown = [(c.name, c.unit, None if c.lower is None else not c.lower) for c in columns]
    return {"title": "Cost", "note": note, "columns": shown, "rows": filled}
