"""What a Ray Data task of the feed does: read, verify, decode, augment.

No torch here: a task's process is half a gigabyte smaller and seconds faster without it.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from mde.data.augment import Augment, columns_of, load_sample
from mde.data.plan import WorkerStep
from mde.data.shards import read_row_group
from mde.errors import InputError

FIRST_TASK_ROWS = 16


def pack_tasks(steps: list[WorkerStep], rows_per_task: int) -> list[dict[str, str]]:
    """Group consecutive steps into tasks of about `rows_per_task` rows; the first ones are shorter.

    A task costs Ray some tens of milliseconds, whatever it does; but nothing can be trained on
    before the first one has ended. A task is `{"steps": JSON of [[step, [[shard, row group, row],
    …]], …]}`.
    """
    tasks: list[list[Any]] = []
    room = 0
    for step in steps:
        if room <= 0:
            room = min(rows_per_task, FIRST_TASK_ROWS * 2 ** len(tasks))
            tasks.append([])
        tasks[-1].append([step.step, step.rows.tolist()])
        room -= len(step.rows)
    return [{"steps": json.dumps(task)} for task in tasks]


@dataclass(frozen=True)
class Decode:
    """The task: takes packed steps, yields the arrays of each."""

    files: list[Path]
    images: tuple[str, ...]
    with_depth: bool
    augment: Augment | None
    key: list[int]

    def __call__(self, task: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yields, for each step, its samples stacked, with the column `step`."""
        cv2.setNumThreads(1)
        columns = columns_of(self.images, self.with_depth)
        groups: dict[tuple[int, int], pa.Table] = {}
        for step, places in json.loads(task["steps"][0]):
            samples = []
            for shard, group, index in places:
                if (shard, group) not in groups:
                    groups[shard, group] = read_row_group(self.files[shard], group, columns)
                table = groups[shard, group]
                # A slice of one row, as a list, costs several times as much.
                row: Any = {name: table.column(name)[index].as_py() for name in columns}
                samples.append(
                    load_sample(row, self.images, self.with_depth, self.augment, self.key)
                )
            yield {"step": np.full(len(samples), step), **_stack(samples)}


def _stack(samples: list[dict[str, Any]]) -> dict[str, Any]:
    sizes = {sample["image"].shape[:2] for sample in samples}
    if len(sizes) > 1:
        raise InputError(
            f"images of several sizes are in one batch: {sorted(sizes)}; set augment.height and "
            "augment.width, or convert the dataset with a height and a width"
        )
    return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}
