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

import heapq
import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mde.data.shards import Shard
from mde.errors import InputError

LANES = 8
"""Row groups that are mixed with each other: 128 rows."""


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
    groups = _row_groups(shards, rows_per_group)
    if seed is None:
        return _rows_of(groups)
    rng = np.random.default_rng([seed, epoch])
    groups = rng.permutation(groups)
    order, sizes = _rows_of(groups), groups[:, 2]
    place, turn = np.repeat(np.arange(len(groups)), sizes), order[:, 2]
    # Sorted by chance within each group: a permutation of its rows.
    row = turn[np.lexsort((rng.random(len(order)), place))]
    lane, begin = _deal_to_lanes(sizes)
    taking_turns = np.lexsort((lane[place], begin[place] + turn))
    return np.column_stack([order[:, :2], row])[taking_turns]


def _rows_of(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """(G,3) of shard index, row group, rows in it → (N,3) of shard index, row group, row."""
    sizes = groups[:, 2]
    begins = np.repeat(np.cumsum(sizes) - sizes, sizes)
    row = np.arange(len(begins)) - begins
    return np.column_stack([np.repeat(groups[:, :2], sizes, axis=0), row])


def _deal_to_lanes(sizes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each group goes on where the shortest lane ends: its lane, and the rows before it there."""
    ends = [(0, lane) for lane in range(LANES)]
    dealt = []
    for size in sizes.tolist():
        end, lane = ends[0]
        dealt.append((lane, end))
        heapq.heapreplace(ends, (end + size, lane))
    lanes, begins = np.array(dealt, np.int64).reshape(-1, 2).T
    return lanes, begins


def _row_groups(shards: list[Shard], rows_per_group: int) -> NDArray[np.int64]:
    """(G,3) of shard index, row group, rows in it, in stored order."""
    groups = [
        (i, group, min(rows_per_group, shard.rows - group * rows_per_group))
        for i, shard in enumerate(shards)
        for group in range(shard.row_groups)
    ]
    return np.array(groups, np.int64).reshape(-1, 3)


def step_bounds(rows: int, batch_size: int, world_size: int) -> list[int]:
    """Where the global batches of `rows` rows begin, and where the last one ends.

    What is left after the last full batch is shared with it evenly, so that no step is small. Only
    if that would leave a worker without a row, in batches of less than 2 rows a worker, do both
    become a single step.
    Raises InputError when there are fewer rows, or a smaller batch, than workers.
    """
    if min(rows, batch_size) < world_size:
        raise InputError(
            f"{world_size} workers cannot share batches of {batch_size} from {rows} rows; "
            "raise batch_size or lower cluster.num_workers"
        )
    bounds = list(range(0, rows, batch_size))
    if rows % batch_size and len(bounds) > 1:
        both = rows - bounds[-2]
        bounds[-1] = bounds[-2] + (both + 1) // 2
        if both // 2 < world_size:
            bounds.pop()
    return [*bounds, rows]


def worker_steps(
    order: NDArray[np.int64], batch_size: int, rank: int, world_size: int
) -> list[WorkerStep]:
    """Deal the global batches to the workers; this worker's steps.

    All workers get the same number of steps and at least one row in each; no row is dropped or
    repeated. Raises InputError as `step_bounds` does.
    """
    bounds = step_bounds(len(order), batch_size, world_size)
    steps = []
    for step, (start, end) in enumerate(itertools.pairwise(bounds)):
        # By the place in the epoch, not in the batch: a worker stays with its lanes.
        mine = order[start + (rank - start) % world_size : end : world_size]
        steps.append(WorkerStep(step, mine, len(mine) * world_size / (end - start)))
    return steps


def whole_steps(
    order: NDArray[np.int64], batch_size: int, rank: int, world_size: int
) -> list[WorkerStep]:
    """Deal whole batches to the workers in turn; this worker's steps, perhaps none.

    For what is averaged over batches: the batches are the same for any number of workers.
    """
    starts = range(rank * batch_size, len(order), world_size * batch_size)
    return [
        WorkerStep(step, order[start : start + batch_size], 1.0)
        for step, start in enumerate(starts)
    ]
