"""The epoch as a plan: which row, in which step, on which worker.

A plan is a function of (seed, epoch) alone. Row groups are permuted over the whole dataset, rows
are mixed within windows of row groups, and the sequence is cut into global batches that are dealt
to the workers. So the order does not depend on timing or on the number of workers, and a position
in it is one integer.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mde.data.shards import Shard
from mde.errors import InputError

WINDOW = 8
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
    groups = [
        np.array([(i, group, row) for row in range(_group_rows(shard, group, rows_per_group))])
        for i, shard in enumerate(shards)
        for group in range(shard.row_groups)
    ]
    if not groups:
        return np.empty((0, 3), np.int64)
    if seed is None:
        return np.concatenate(groups)
    rng = np.random.default_rng([seed, epoch])
    groups = [groups[i] for i in rng.permutation(len(groups))]
    windows = [np.concatenate(groups[i : i + WINDOW]) for i in range(0, len(groups), WINDOW)]
    return np.concatenate([rng.permutation(window) for window in windows])


def worker_steps(
    order: NDArray[np.int64], batch_size: int, rank: int, world_size: int
) -> list[WorkerStep]:
    """Deal global batches to the workers; this worker's steps.

    All workers get the same number of steps and at least one row in each. A remainder that is too
    small for that joins the last step, so no row is dropped or repeated.
    Raises InputError when there are fewer rows, or a smaller batch, than workers.
    """
    if min(len(order), batch_size) < world_size:
        raise InputError(
            f"{world_size} workers cannot share batches of {batch_size} from {len(order)} rows; "
            "raise batch_size or lower cluster.num_workers"
        )
    starts = list(range(0, len(order), batch_size))
    if len(order) - starts[-1] < world_size:
        starts.pop()
    steps = []
    for step, start in enumerate(starts):
        end = starts[step + 1] if step + 1 < len(starts) else len(order)
        mine = order[start:end][rank::world_size]
        steps.append(WorkerStep(step, mine, len(mine) * world_size / (end - start)))
    return steps


def _group_rows(shard: Shard, group: int, rows_per_group: int) -> int:
    return min(rows_per_group, shard.rows - group * rows_per_group)
