"""What a decode task of the feed does: read, verify, decode, augment.

No torch here: a task's process is half a gigabyte smaller and seconds faster without it.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mde.data.augment import Augment, columns_of, load_sample
from mde.data.place import Place, join
from mde.data.plan import WorkerStep
from mde.data.shards import read_footer, read_row_group
from mde.errors import InputError
from mde.schema import Row

footer_of = functools.lru_cache(maxsize=1024)(read_footer)
"""Kept by a process over its tasks: shards do not change while they are trained on."""
SLACK = 0.5
"""A task may be longer or shorter by this share, to end where few row groups are in use."""


def pack_tasks(steps: list[WorkerStep], rows_per_task: int) -> list[list[WorkerStep]]:
    """Group consecutive steps into tasks of about `rows_per_task` rows.

    A task ends where it cuts the fewest row groups, since each that is cut is read twice: where the
    lanes change to their next groups, when that is not far.
    """
    if not steps:
        return []
    cut = _groups_cut(steps)
    rows = np.cumsum([0, *(len(step.rows) for step in steps)])
    tasks, start = [], 0
    while start < len(steps):
        least, most = rows[start] + rows_per_task * np.array([1 - SLACK, 1 + SLACK])
        first = max(start + 1, int(np.searchsorted(rows, least)))
        last = max(first, int(np.searchsorted(rows, most, "right")) - 1)
        ends = np.arange(first, min(last, len(steps)) + 1)
        # Of equals, the one nearest to the wanted size.
        off = np.abs(rows[ends] - rows[start] - rows_per_task)
        end = int(ends[np.lexsort((off, cut[ends]))[0]]) if len(ends) else len(steps)
        tasks.append(steps[start:end])
        start = end
    return tasks


def _groups_cut(steps: list[WorkerStep]) -> NDArray[np.int64]:
    """(steps+1,) row groups that are in use on both sides of each end of a step."""
    step = np.repeat(np.arange(len(steps)), [len(step.rows) for step in steps])
    groups = np.concatenate([step.rows[:, :2] for step in steps])
    _, group = np.unique(groups, axis=0, return_inverse=True)
    first = np.full(group.max() + 1, len(steps))
    last = np.zeros(group.max() + 1, np.int64)
    np.minimum.at(first, group, step)
    np.maximum.at(last, group, step)
    change = np.zeros(len(steps) + 2, np.int64)
    np.add.at(change, first + 1, 1)
    np.add.at(change, last + 1, -1)
    return np.cumsum(change)[:-1]


@dataclass(frozen=True)
class Decode:
    """What all tasks of a split have in common; folder: of the shards."""

    folder: Place
    images: tuple[str, ...]
    with_depth: bool
    augment: Augment | None
    seed: int

    def __call__(
        self, steps: list[WorkerStep], names: dict[int, str], epoch: int
    ) -> Iterator[dict[str, Any]]:
        """Yields the samples of each step: sample_id as a list, arrays stacked.

        names: files of the shards in these steps. Those of a whole dataset would be a burden.
        """
        cv2.setNumThreads(1)
        columns = columns_of(self.images, self.with_depth)
        groups: dict[tuple[int, int], list[Row]] = {}
        for step in steps:
            samples = []
            for shard, group, index in step.rows.tolist():
                if (shard, group) not in groups:
                    file = join(self.folder, names[shard])
                    table = read_row_group(file, group, columns, footer_of(file))
                    groups[shard, group] = table.to_pylist()
                row = groups[shard, group][index]
                key = [self.seed, epoch]
                samples.append(load_sample(row, self.images, self.with_depth, self.augment, key))
            yield stack(samples)


def run_task(
    decode: Decode, steps: list[WorkerStep], names: dict[int, str], epoch: int, predecessor: Any
) -> Iterator[dict[str, Any]]:
    """Decode, as a Ray task. predecessor: what must have ended before, so that few run at once."""
    yield from decode(steps, names, epoch)


def stack(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Samples of one size → their arrays stacked; raises InputError when sizes differ."""
    sizes = {sample["image"].shape[:2] for sample in samples}
    if len(sizes) > 1:
        raise InputError(
            f"images of several sizes are in one batch: {sorted(sizes)}; set augment.height and "
            "augment.width, or convert the dataset with a height and a width"
        )
    columns = {name: [sample[name] for sample in samples] for name in samples[0]}
    names = columns.pop("sample_id")
    return {"sample_id": names, **{name: np.stack(values) for name, values in columns.items()}}
