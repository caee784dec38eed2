"""A training that notes when it asked for each batch and when it came, whoever launched it.

The notes are taken between the loop and its batches, so they are of the same kind on both sides.
"""

import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.timing import Run
from mde.files import read_json
from mde.schema import Batch
from mde.train.loop import Batches

Notes = list[dict[str, Any]]
"""For each epoch: `steps`, of [asked, came, samples], and `end`: times of `time.time()`."""


class Timed:
    """Batches that keep notes in a file, which is complete after each epoch."""

    def __init__(self, batches: Batches, file: Path) -> None:
        self.batches, self.file = batches, file
        self.notes: Notes = []

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return self.batches.steps_per_epoch

    def train(self, epoch: int, start: int = 0) -> Iterator[tuple[Batch, float]]:
        """The epoch, with notes."""
        steps: list[tuple[float, float, int]] = []
        items, asked = self.batches.train(epoch, start), time.time()
        for batch, weight in items:
            steps.append((asked, time.time(), len(batch["sample_id"])))
            yield batch, weight
            asked = time.time()
        self.notes.append({"steps": steps, "end": asked})
        self.file.write_text(json.dumps(self.notes))

    def val(self) -> Iterator[tuple[Batch, float]]:
        """The validation split, without notes."""
        return self.batches.val()


def timed_loop(train: Callable[..., Any], folder: Path) -> Callable[..., Any]:
    """`mde.train.loop.train`, each rank of which notes its times in a file of the folder."""

    def run(
        objective: Any, batches: Batches, recipe: Any, context: Any, *rest: Any, **keys: Any
    ) -> Any:
        timed = Timed(batches, folder / f"rank{context.rank}.json")
        return train(objective, timed, recipe, context, *rest, **keys)

    return run


def read_notes(folder: Path) -> list[Notes]:
    """The notes of all ranks."""
    return [read_json(path) for path in sorted(folder.glob("rank*.json"))]


def steady_epochs(ranks: list[Notes]) -> list[list[dict[str, Any]]]:
    """Each steady epoch's notes of all ranks.

    Without the first epoch, which starts everything, and the last one, for which no epoch is read
    ahead any more. Raises ValueError when there are fewer than three.
    """
    if len(ranks[0]) < 3:
        raise ValueError(f"a steady state needs 3 epochs, found {len(ranks[0])}")
    return [list(epoch) for epoch in zip(*ranks, strict=True)][1:-1]


def window(ranks: list[Notes]) -> tuple[float, float]:
    """When the steady epochs began and ended, as rank 0 saw it."""
    epochs = steady_epochs(ranks)
    return epochs[0][0]["steps"][0][0], epochs[-1][0]["end"]


def summarise(ranks: list[Notes], started: float, ended: float) -> Run:
    """Rates and waiting in the steady epochs, and what the start took.

    samples_per_s: of all ranks, while an epoch lasts; between_s: the pause after an epoch.
    wait: share of an epoch that ranks waited for batches, their mean; wait_most: of the rank that
    waited most. first_step_s: from `started` to the end of the first step. end_s: to `ended`.
    """
    epochs = steady_epochs(ranks)
    lasted = [epoch[0]["end"] - epoch[0]["steps"][0][0] for epoch in epochs]
    samples = sum(step[2] for epoch in epochs for rank in epoch for step in rank["steps"])
    waits = [
        sum(came - asked for epoch in epochs for asked, came, _ in epoch[rank]["steps"])
        for rank in range(len(ranks))
    ]
    # After each steady epoch, to the next one's first batch being asked for.
    pauses = [
        after["steps"][0][0] - epoch["end"] for epoch, after in itertools.pairwise(ranks[0][1:])
    ]
    return {
        "samples_per_s": samples / sum(lasted),
        "samples": samples,
        "wait": sum(waits) / len(waits) / sum(lasted),
        "wait_most": max(waits) / sum(lasted),
        "first_batch_s": max(first_wait(rank) for epoch in epochs for rank in epoch),
        "between_s": sum(pauses) / len(pauses),
        "first_step_s": ranks[0][0]["steps"][1][0] - started,
        "end_s": ended - started,
    }


def first_wait(epoch: dict[str, Any]) -> float:
    """Seconds that a rank waited for an epoch's first batch."""
    asked, came, _ = epoch["steps"][0]
    return came - asked
