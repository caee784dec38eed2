"""What `mde.score` has found: on the terminal, and as files."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.table import Table

from mde.errors import InputError
from mde.evaluate import write_per_image
from mde.files import fresh_folder, write_json
from mde.metrics import METRICS, UNITS, bin_names, higher_is_better
from mde.protocol_words import describe
from mde.protocols import PROTOCOLS, Protocol
from mde.score import Score
from mde.structure import structure_names

FILES = ("metrics.json", "per_image.parquet", "table.csv", "table.md")


def protocol_table() -> Table:
    """All protocols, with what each fixes."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    for protocol in PROTOCOLS.values():
        parts = (f"[dim]{name}:[/] {text}" for name, text in describe(protocol).items())
        table.add_row(protocol.id, " · ".join(parts) + "\n")
    return table


def groups(protocol: Protocol) -> dict[str, list[str]]:
    """Names of a protocol's metrics, in the groups that people read them in."""
    structure = structure_names(protocol.data_ranges) if protocol.data_ranges else []
    found = {"": [*METRICS], "structure": structure, "by true depth": bin_names(protocol.bins)}
    return {title: names for title, names in found.items() if names}


def metric_table(summary: dict[str, Any], protocol: Protocol) -> Table:
    """The numbers of a score, group by group."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", style="bold")
    for title, names in groups(protocol).items():
        if title:
            table.add_section()
            table.add_row(f"[dim]{title}[/]", "")
        for name in names:
            table.add_row(heading(name), number(summary["metrics"][name]))
    return table


def heading(name: str) -> str:
    """A metric's name with its unit, and an arrow to where better is."""
    unit = f" ({UNITS[name]})" if name in UNITS else ""
    return f"{name}{unit} {'↑' if higher_is_better(name) else '↓'}"


def number(value: float | None) -> str:
    """Four digits behind the point, or a dash where there was nothing to average."""
    return "–" if value is None else f"{value:.4f}"


def scale_text(scale: dict[str, float]) -> str:
    """`5.402, spread 0.081`: the median of the ratios, and their deviation relative to it."""
    return f"{scale['median']:.4g}, spread {scale['spread']:.3f}"


def check_out(out: Path) -> None:
    """Raises InputError when `out` is there and holds something else than an earlier score."""
    if out.exists() and (out.is_file() or {path.name for path in out.iterdir()} - {*FILES}):
        raise InputError(f"{out}: is there and is no earlier score; give a new folder with --out")


def write_score(out: Path, result: Score, protocol: Protocol) -> None:
    """Write FILES into the folder `out`, which is there whole or not at all.

    Raises InputError as `check_out` does.
    """
    check_out(out)
    summary = result.summary
    row: dict[str, Any] = {key: summary[key] for key in ("predictions", "protocol", "images")}
    row |= summary["metrics"] | {"clipped": summary["clipped"]}
    row |= {f"scale_{key}": value for key, value in summary.get("scale", {}).items()}
    with fresh_folder(out) as folder:
        write_json(folder / "metrics.json", summary)
        write_per_image(folder / "per_image.parquet", result.per_image, summary)
        with (folder / "table.csv").open("w", newline="") as file:
            csv.writer(file).writerows([row.keys(), row.values()])
        (folder / "table.md").write_text(markdown(summary, protocol))


def markdown(summary: dict[str, Any], protocol: Protocol) -> str:
    """A table of one row, to be pasted, of all metrics but those by ranges of depth."""
    names = [name for name in protocol.names if name not in bin_names(protocol.bins)]
    head = ["predictions", "protocol", "images", *map(heading, names)]
    cells = [summary["predictions"], summary["protocol"], str(summary["images"])]
    cells += [number(summary["metrics"][name]) for name in names]
    if "scale" in summary:
        head.append("scale ratio")
        cells.append(scale_text(summary["scale"]))
    rule = ["---"] * 2 + ["---:"] * (len(head) - 2)
    return "".join(map(_line, (head, rule, cells)))


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |\n"
