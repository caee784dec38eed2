"""How long the training of each variant waits for data, and how much faster the feed could be."""

import functools
from typing import Any

from benchmarks.engine_runs import EngineSetup, run_training, work_of
from benchmarks.engine_worker import Work
from benchmarks.reading import feed_of, time_feed
from benchmarks.timing import (
    Figure,
    Run,
    alone,
    alternate,
    compare,
    describe,
    describe_figures,
    median_of,
)  # fmt: skip

TRAINING, FEED = "training", "feed alone"
MOST_WAIT = 0.02


def measure_wait(setup: EngineSetup) -> dict[str, Any]:
    """Every variant of the params file, and every stage of its recipe, as `fit` trains it."""
    ratios, figures = [], []
    kept: dict[str, list[Run]] = {}
    for variant in setup.variants():
        for name, work in work_of(setup, variant, setup.wait_steps).items():
            setup.console.print(f"  {name}", highlight=False)
            sides = {
                TRAINING: functools.partial(run_training, setup, "fit", work),
                FEED: functools.partial(_feed_alone, work),
            }
            runs = alternate(sides, setup.rounds, setup.console)
            kept |= {f"{name}: {side}": found for side, found in runs.items()}
            ratios.append(compare(f"headroom, {name}", runs, FEED, TRAINING, 1.0))
            figures += figures_of(name, runs[TRAINING])
    settings = {"steps": setup.wait_steps, "params": str(setup.params)}
    return {**describe(ratios, kept, **settings), **describe_figures(figures)}


def _feed_alone(work: Work) -> Run:
    """The feed with as many decode tasks as all training workers have together."""
    variant, tasks = work.variant, work.workers * work.cluster["decode_tasks"]
    feed = feed_of(
        work.data, variant.objective.images, work.with_depth, variant.recipe.batch_size,
        variant.augment, tasks,
    )  # fmt: skip
    return alone(time_feed, feed)


def figures_of(name: str, runs: list[Run]) -> list[Figure]:
    """The share of waiting; of all ranks, and of the one that waited most."""
    return [
        Figure(f"waiting for data, {name}", median_of(runs, "wait"), "of step time", MOST_WAIT),
        Figure(f"waiting most, {name}", median_of(runs, "wait_most"), "of step time"),
        Figure(f"first batch of an epoch, {name}", median_of(runs, "first_batch_s"), "s"),
    ]
