"""Ray Train and Ray Data against torchrun and a DataLoader: the same loop, model and batches."""

import functools
import statistics
from typing import Any

from benchmarks.engine_runs import EngineSetup, run_training, work_of
from benchmarks.timing import (
    Figure,
    Run,
    alternate,
    compare,
    describe,
    describe_figures,
    median_of,
)  # fmt: skip

WORKERS = (1, 2)
SIDES = {"mde": "fit", "torchrun": "torchrun"}
TIMES = {
    "first_step_s": "from the command to the end of the first step",
    "end_s": "from the command to its end",
    "between_s": "between two epochs: validation, checkpoint",
    "first_batch_s": "first batch of a later epoch",
}


def measure_ddp(setup: EngineSetup) -> dict[str, Any]:
    """Steady rates and times of both sides with one worker and with two, and how they scale."""
    sides = {}
    for workers in reversed(WORKERS):
        work = next(iter(work_of(setup, setup.variant, setup.steps, workers).values()))
        for name, side in SIDES.items():
            sides[side_name(name, workers)] = functools.partial(run_training, setup, side, work)
    runs = alternate(sides, setup.rounds, setup.console)
    ratios = [
        compare(
            f"steady, workers: {n}", runs, side_name("mde", n), side_name("torchrun", n), target
        )
        for n, target in ((2, 1.0), (1, None))
    ]
    figures = [*scaling(runs, setup.workers), *times(runs)]
    settings = {"variant": setup.variant, "steps": setup.steps, "cores": setup.workers}
    return {**describe(ratios, runs, **settings), **describe_figures(figures)}


def side_name(name: str, workers: int) -> str:
    """How a side is called in the results."""
    return f"{name}, workers: {workers}"


def scaling(runs: dict[str, list[Run]], cores: int) -> list[Figure]:
    """How much faster two workers are than one, and how much the cores would allow.

    The limit is the rate at which all cores do nothing but what two workers' samples cost in CPU
    time. One worker shares the cores with its decoding, so two cannot be twice as fast where the
    cores are two.
    """
    figures, factors = [], {}
    for name in SIDES:
        one, two = (runs[side_name(name, n)] for n in WORKERS)
        factors[name] = [
            b["samples_per_s"] / a["samples_per_s"] for a, b in zip(one, two, strict=True)
        ]
        limits = [
            1e3 * cores / b["cpu_ms_per_sample"] / a["samples_per_s"]
            for a, b in zip(one, two, strict=True)
        ]
        figures += [
            Figure(f"1 → 2 workers, {name}", statistics.median(factors[name]), "x"),
            Figure(
                f"1 → 2 workers, {name}, at most on {cores} cores", statistics.median(limits), "x"
            ),
        ]
    both = zip(factors["mde"], factors["torchrun"], strict=True)
    ratio = statistics.median(ours / theirs for ours, theirs in both)
    return [*figures, Figure("1 → 2 workers, mde / torchrun", ratio, "x", 1.0, at_least=True)]


def times(runs: dict[str, list[Run]]) -> list[Figure]:
    """What a person waits for, and the share of waiting for data."""
    figures = [
        Figure(f"{what}, {side}", median_of(found, key), "s")
        for key, what in TIMES.items()
        for side, found in runs.items()
    ]
    waits = [
        Figure(f"waiting for data, {side}", median_of(found, "wait"), "of step time")
        for side, found in runs.items()
    ]
    return [*figures, *waits]
