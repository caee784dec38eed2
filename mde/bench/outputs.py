"""A benchmark as a table for people, as Markdown, and as plain values for JSON."""

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from mde.bench.benchmark import Benchmark, Group
from mde.bench.turns import Result
from mde.cost import Cost
from mde.export.loss import Loss

LIBRARIES = ("torch", "onnxruntime", "openvino", "numpy")
NONE = "–"


@dataclass(frozen=True)
class Column:
    """title: of the table. of: the cell's text of a measured result."""

    title: str
    of: Callable[[Result, Cost], str]


def _columns(on_gpu: bool) -> list[Column]:
    memory = (
        [
            Column("alloc. MiB", lambda _, cost: _number(cost.allocated_mib, 0)),
            Column("reserv. MiB", lambda _, cost: _number(cost.reserved_mib, 0)),
        ]
        if on_gpu
        else [Column("MiB", lambda _, cost: _number(cost.growth_mib, 0))]
    )
    return [
        Column("x eager", lambda one, _: _number(one.ratio, 2)),
        Column("quartiles", lambda one, _: f"{_number(one.low, 2)}–{_number(one.high, 2)}"),
        Column("median ms", lambda _, cost: _number(cost.median_ms, 1)),
        Column("p95 ms", lambda _, cost: _number(cost.p95_ms, 1)),
        Column("FPS", lambda _, cost: _number(1e3 / cost.median_ms, 1)),
        *memory,
        Column("Δ depth", lambda one, _: _share(one.difference)),
        Column("start s", lambda one, _: _number(one.started.start_s if one.started else None, 1)),
        Column("runs", lambda _, cost: str(cost.runs)),
    ]


def as_table(found: Benchmark) -> RenderableType:
    """For a terminal of 80 columns or more."""
    lines: list[RenderableType] = []
    columns = _columns(found.plan.device == "cuda")
    for group in found.groups:
        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 0), show_edge=False)
        table.add_column("\nmode", no_wrap=True)
        for column in columns:
            table.add_column(column.title.replace(" ", "\n"), justify="right", no_wrap=True)
        best = max((one.ratio or 0 for one in group.results), default=0)
        for one in group.results:
            style = "bold" if one.ratio and one.ratio == best > 1 else ""
            table.add_row(*_cells(one, columns), style=style if one.cost else "dim")
        lines += [Text(f"\n{_heading(group)}", style="bold"), table]
        lines += [Text(line, style="yellow") for line in _failures(group)]
        lines += [Text(line) for line in _losses(group)]
    return Lines(*lines, Text(""), *(Text(note, style="dim") for note in _notes(found)))


def as_markdown(found: Benchmark) -> str:
    """The same, for documents."""
    columns = _columns(found.plan.device == "cuda")
    lines: list[str] = []
    for group in found.groups:
        titles = ["mode", *(column.title for column in columns)]
        lines += [f"**{_heading(group)}**", "", _row(titles)]
        lines.append(_row(["---", *["---:"] * len(columns)]))
        lines += [_row(_cells(one, columns)) for one in group.results]
        lines += ["", *(f"- {line}" for line in [*_failures(group), *_losses(group)]), ""]
    return "\n".join([*lines, *(f"- {note}" for note in _notes(found))]) + "\n"


def as_content(found: Benchmark) -> dict[str, Any]:
    """Plain values: every single run too."""
    plan = found.plan
    return {
        "device": plan.device,
        "machine": describe_machine(found),
        "settings": {
            "threads": plan.num_threads,
            "runs": plan.pace.runs,
            "seconds": plan.pace.seconds,
            "images": plan.images and plan.images.name,
        },
        "notes": found.notes,
        "models": [_group_content(group) for group in found.groups],
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def describe_machine(found: Benchmark) -> dict[str, Any]:
    """The device's name and all that changes its speed."""
    versions: dict[str, str | None] = {}
    for library in LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            versions[library] = None
    return {
        "name": _device(found),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "libraries": versions,
    }


def _group_content(group: Group) -> dict[str, Any]:
    height, width = group.size
    counts = group.base and {"parameters": group.base.parameters, "macs": group.base.macs}
    return {
        "model": group.model.label,
        "height": height,
        "width": width,
        **(counts or {"parameters": None, "macs": None}),
        "modes": [_result_content(one, group.loss_of(one)) for one in group.results],
    }


def _result_content(one: Result, loss: Loss | None) -> dict[str, Any]:
    content: dict[str, Any] = {"mode": one.side.mode.name, "failed": one.reason}
    if one.cost is None or one.started is None:
        return content
    return content | {
        "ratio": one.ratio,
        "ratio_quartiles": [one.low, one.high],
        **{key: value for key, value in asdict(one.cost).items() if key not in _OF_GROUP},
        "fps": 1e3 / one.cost.median_ms,
        "depth_difference": one.difference,
        "loss": asdict(loss) if loss else None,
        "start_s": one.started.start_s,
        "warm_up": one.started.warm_up,
        "rounds_ms": one.rounds,
    }


_OF_GROUP = ("device", "threads", "height", "width", "parameters", "macs")


def _cells(one: Result, columns: list[Column]) -> list[str]:
    cost = one.cost
    cells = [NONE if cost is None else column.of(one, cost) for column in columns]
    return [one.side.mode.name, *cells]


def _heading(group: Group) -> str:
    height, width = group.size
    text = f"{group.model.label} · {height}x{width} (HxW)"
    if group.base:
        parameters, macs = group.base.parameters / 1e6, group.base.macs / 1e9
        text += f" · {parameters:.2f} M parameters · {macs:.2f} GMACs"
    return text


def _failures(group: Group) -> list[str]:
    return [f"{one.side.mode.name}: {one.reason}" for one in group.results if one.reason]


def _losses(group: Group) -> list[str]:
    found = [(one.side.mode.name, group.loss_of(one)) for one in group.results if one.cost]
    return [f"{name}: {loss}" for name, loss in found if loss is not None]


def _notes(found: Benchmark) -> list[str]:
    plan = found.plan
    return [
        f"{_device(found)}, threads: {plan.num_threads}; one image (uint8) at a time, from memory "
        "to its depth",
        "x eager: times as fast as plain torch in the same round; median, quartiles of the rounds",
        "Δ depth: mean relative difference from plain torch's depth",
        *found.notes,
    ]


def _device(found: Benchmark) -> str:
    costs = [one.cost for group in found.groups for one in group.results if one.cost]
    return costs[0].device if costs else found.plan.device


def _number(value: float | None, digits: int) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def _share(value: float | None) -> str:
    if value is None:
        return NONE
    return "<0.01 %" if 0 < value < 1e-4 else f"{100 * value:.2g} %" if value < 1 else ">100 %"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
