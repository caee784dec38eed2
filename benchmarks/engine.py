"""Speed of the engine: feed, training, scaling, memory. `python -m benchmarks.engine --help`.

Every part runs its sides in turn, A B A B …, each in a process of its own, and keeps all runs in a
JSON; nothing is asserted. `benchmarks/README.md` says what is compared.
"""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.data import kept_or_temporary, measure_parts, names_of

# Imported when needed: every process that a part starts imports this file first.
PARTS = {
    "wait": ("benchmarks.engine_wait", "measure_wait"),
    "feed": ("benchmarks.engine_feed", "measure_feed"),
    "ddp": ("benchmarks.engine_ddp", "measure_ddp"),
    "memory": ("benchmarks.engine_memory", "measure_memory"),
    "estimate": ("benchmarks.engine_estimate", "measure_estimate"),
}
RESULTS = Path("benchmarks/results/engine.json")
Work = Annotated[Path | None, typer.Option(help="Folder to keep raw data in.")]
GpuRate = Annotated[
    float | None,
    typer.Option(help="Samples/s of one GPU, for the estimate; else measured, or as published."),
]


def main(
    only: Annotated[str, typer.Option(help="Parts, with commas.")] = ",".join(PARTS),
    runs: Annotated[int, typer.Option(min=1, help="Runs of each side.")] = 3,
    rows: Annotated[int, typer.Option(min=256, help="Samples of the feed's epoch.")] = 4000,
    steps: Annotated[int, typer.Option(min=4, help="Steps of an epoch beside torchrun.")] = 80,
    wait_steps: Annotated[int, typer.Option(min=4, help="Steps of a variant's epoch.")] = 24,
    variant: Annotated[str, typer.Option(help="Trained beside torchrun.")] = "fastdepth-mobilenet",
    gpu_rate: GpuRate = None,
    frames: Annotated[int, typer.Option(min=64, help="NYU frames.")] = 1024,
    triplets: Annotated[int, typer.Option(min=24, help="KITTI triplets.")] = 240,
    params: Annotated[Path, typer.Option(help="The params file.")] = Path("params.yaml"),
    work: Work = None,
    out: Annotated[Path, typer.Option(help="Results; other parts in it stay.")] = RESULTS,
) -> None:
    """Measure the engine and print ratios and figures."""
    names = names_of(only, PARTS)
    with kept_or_temporary(work) as folder:
        from benchmarks.engine_runs import EngineSetup

        setup = EngineSetup(
            folder, frames, triplets, runs, Console(), os.cpu_count() or 1, params.resolve(),
            steps=steps, wait_steps=wait_steps, rows=rows, variant=variant, gpu_rate=gpu_rate,
        )  # fmt: skip
        measure_parts(PARTS, names, setup, out)


if __name__ == "__main__":
    typer.run(main)
