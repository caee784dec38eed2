"""The epoch as a plan: which row, in which step, on which worker.

The global batches of an epoch are a function of (seed, epoch, batch size) alone. Row groups are
permuted over the whole dataset and dealt to lanes, each group's rows are permuted, and the lanes
take turns. The sequence is cut into global batches, and its rows are dealt to the workers in turn.
So the order depends neither on timing nor on the number of workers, and a position in it is one
integer.

Taking turns mixes as well as a permutation of the groups that are open does, and keeps the workers
apart: of 2 workers each reads every other lane. Any number that divides the lanes does so; of 3
workers each reads nearly all row groups, and takes a third of their rows.
"""

import itertools
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mde.data.epoch import Epoch
from mde.data.shards import Shard
from mde.errors import InputError


class Order(Protocol):
    """Rows by their place in an epoch: an `Epoch`, or an array (N,3)."""

    def __len__(self) -> int: ...

    def __getitem__(self, stretch: slice, /) -> NDArray[np.int64]: ...


@dataclass(frozen=True)
class WorkerStep:
    """One worker's share of one step.

    rows: (n,3) int64 of shard index, row group, row in the group. weight: n x workers / rows of
    the step, which makes DDP's average over workers an average over samples.
    """

    step: int
    rows: NDArray[np.int64]
    weight: float


def epoch_order(
    shards: list[Shard], rows_per_group: int, seed: int | None, epoch: int
) -> NDArray[np.int64]:
    """Every row once: (N,3) of shard index, row group, row. seed None keeps the stored order."""
    return Epoch(shards, rows_per_group, seed, epoch)[:]


def num_steps(rows: int, batch_size: int, world_size: int) -> int:
    """Global batches of `rows` rows. Raises InputError as `step_bounds` does."""
    if min(rows, batch_size) < world_size:
        raise InputError(
            f"{world_size} workers cannot share batches of {batch_size} from {rows} rows; "
            "raise batch_size or lower cluster.num_workers"
        )
    full, left = divmod(rows, batch_size)
    joined = full and left and (batch_size + left) // 2 < world_size
    return full if not left or joined else full + 1


def step_bounds(
    rows: int, batch_size: int, world_size: int, start: int = 0, stop: int | None = None
) -> list[int]:
    """Where the global batches of `rows` rows begin, and where the last one ends.

    start, stop: of these steps alone. What is left after the last full batch is shared with it
    evenly, so that no step is small. Only if that would leave a worker without a row, in batches of
    less than 2 rows a worker, do both become a single step.
    Raises InputError when there are fewer rows, or a smaller batch, than workers.
    """
    steps = num_steps(rows, batch_size, world_size)
    shared = rows - (steps - 2) * batch_size
    last = {steps: rows}
    if steps > 1 and batch_size < shared < 2 * batch_size:
        last[steps - 1] = rows - shared // 2
    stop = steps if stop is None else min(stop, steps)
    return [last.get(step, step * batch_size) for step in range(start, stop + 1)]


def worker_steps(
    order: Order,
    batch_size: int,
    rank: int,
    world_size: int,
    start: int = 0,
    stop: int | None = None,
) -> list[WorkerStep]:
    """Deal the global batches to the workers; this worker's steps, from `start` to before `stop`.

    All workers get the same number of steps and at least one row in each; no row is dropped or
    repeated. Raises InputError as `step_bounds` does.
    """
    bounds = step_bounds(len(order), batch_size, world_size, start, stop)
    if not bounds:
        return []
    offset, rows = bounds[0], order[bounds[0] : bounds[-1]]
    steps = []
    for step, (begin, end) in enumerate(itertools.pairwise(bounds), start):
        # By the place in the epoch, not in the batch: a worker stays with its lanes.
        mine = rows[begin - offset + (rank - begin) % world_size : end - offset : world_size]
        steps.append(WorkerStep(step, mine, len(mine) * world_size / (end - begin)))
    return steps


def whole_steps(
    order: Order,
    batch_size: int,
    rank: int,
    world_size: int,
    start: int = 0,
    stop: int | None = None,
) -> list[WorkerStep]:
    """Deal whole batches to the workers in turn; this worker's steps, perhaps none.

    start, stop: of these steps alone. For what is averaged over batches: the batches are the same
    for any number of workers.
    """
    begins = range(rank * batch_size, len(order), world_size * batch_size)[start:stop]
    return [
        WorkerStep(step, order[begin : begin + batch_size], 1.0)
        for step, begin in enumerate(begins, start)
    ]
