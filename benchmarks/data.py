"""Speed of the data end: conversion, reading, formats. `python -m benchmarks.data --help`.

Raw data are made from the built-in sample. Every part runs its sides in turn, A B A B …, each in
a fresh process, and keeps all runs in a JSON; nothing is asserted. `benchmarks/README.md` says
what is compared.
"""

import importlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from mde.files import read_json, write_json

# Imported when needed: every process that a part starts imports this file first.
PARTS = {
    "conversion": ("benchmarks.conversion", "measure_conversion"),
    "nyu": ("benchmarks.reading", "measure_nyu"),
    "kitti": ("benchmarks.reading", "measure_kitti"),
    "loaders": ("benchmarks.loaders", "measure_loaders"),
    "checksums": ("benchmarks.loaders", "measure_checksums"),
    "slabs": ("benchmarks.conversion", "measure_slabs"),
}
RESULTS = Path("benchmarks/results/data.json")


def main(
    only: Annotated[str, typer.Option(help="Parts, with commas.")] = ",".join(PARTS),
    runs: Annotated[int, typer.Option(min=1, help="Runs of each side.")] = 5,
    frames: Annotated[int, typer.Option(min=64, help="NYU frames.")] = 1024,
    triplets: Annotated[int, typer.Option(min=24, help="KITTI triplets.")] = 240,
    work: Annotated[Path | None, typer.Option(help="Folder to keep raw data in.")] = None,
    out: Annotated[Path, typer.Option(help="Results; other parts in it stay.")] = RESULTS,
) -> None:
    """Measure the data end and print the ratios."""
    from benchmarks.setup import Setup

    names = names_of(only, PARTS)
    console = Console()
    with kept_or_temporary(work) as folder:
        from benchmarks.setup import Setup

        setup = Setup(folder, frames, triplets, runs, console, os.cpu_count() or 1)
        measure_parts(PARTS, names, setup, out)


def names_of(only: str, parts: Mapping[str, tuple[str, str]]) -> list[str]:
    """The parts of an option. Raises typer.BadParameter when there is no such part."""
    names = only.split(",")
    if unknown := set(names) - set(parts):
        raise typer.BadParameter(f"no part {', '.join(sorted(unknown))}; parts: {', '.join(parts)}")
    return names


@contextmanager
def kept_or_temporary(work: Path | None) -> Iterator[Path]:
    """A folder for raw data and datasets, as an absolute path: the one given, or one for now."""
    with ExitStack() as stack:
        folder = work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mde-bench-")))
        folder.mkdir(parents=True, exist_ok=True)
        yield folder.resolve()


def measure_parts(
    parts: Mapping[str, tuple[str, str]], names: list[str], setup: Any, out: Path
) -> None:
    """Measure parts, given as module and function of a `Setup`, and print what was found."""
    for name in names:
        setup.console.print(f"[bold]{name}[/]")
        module, function = parts[name]
        found = getattr(importlib.import_module(module), function)(setup)
        # Written after each part, so that nothing is lost when a later one fails.
        results = read_json(out) if out.is_file() else {}
        write_json(out, {**results, name: found})
    results = read_json(out)
    setup.console.print(tabulate({name: results[name] for name in names}))
    if any(results[name].get("figures") for name in names):
        setup.console.print(tabulate_figures({name: results[name] for name in names}))
    setup.console.print(f"all runs: {out}", highlight=False)


def tabulate(results: dict[str, Any]) -> Table:
    """The ratios of some parts."""
    table = Table(title="Samples/s, medians", title_justify="left")
    for heading in ("what", "ours", "peer", "ratio", "of CPU", "target", "met"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for part in results.values():
        for ratio in part["ratios"]:
            target, met = ratio["target"], ratio["met"]
            table.add_row(
                ratio["name"],
                f"{ratio['ours']:.1f}",
                f"{ratio['peer']:.1f}",
                f"{ratio['ratio']:.2f}x",
                f"{ratio['cpu_ratio']:.2f}x",
                "" if target is None else f">= {target:g}x",
                _tick(met),
            )
        table.add_section()
    return table


def tabulate_figures(results: dict[str, Any]) -> Table:
    """What is no ratio of two rates."""
    table = Table(title="Figures", title_justify="left")
    for heading in ("what", "value", "unit", "target", "met"):
        table.add_column(heading, justify="left" if heading in ("what", "unit") else "right")
    for part in results.values():
        for figure in part.get("figures", []):
            bound, sign = figure["bound"], ">=" if figure["at_least"] else "<="
            table.add_row(
                figure["name"],
                f"{figure['value']:.4g}",
                figure["unit"],
                "" if bound is None else f"{sign} {bound:g}",
                _tick(figure["met"]),
            )
        table.add_section()
    return table


def _tick(met: bool | None) -> str:
    return "" if met is None else "[green]yes[/]" if met else "[red]no[/]"


if __name__ == "__main__":
    typer.run(main)
