"""Shards → batches: Ray Data executes a worker's plan, one task reads, verifies, decodes, augments.

Each training worker runs its own Ray Data pipeline over its own share of the plan. Ray's own
`read_parquet` lists files in every epoch, ignores page checksums and keeps no position; a plan of
rows has an order that is a function of (seed, epoch) alone.
"""

import functools
import itertools
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray.data
import torch
from ray.data import TaskPoolStrategy

from mde.cluster.decode import Decode, pack_tasks
from mde.data.augment import Augment
from mde.data.plan import WorkerStep, epoch_order, worker_steps
from mde.data.shards import ROWS_PER_GROUP, Manifest, read_manifest
from mde.schema import Batch

# Nothing writes to a batch, and a copy would cost as much as half of the decoding.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")

TASK_BYTES = 2**24
"""Encoded bytes of a task: about 128 MiB decoded."""
TASKS_PER_DECODER = 4
"""At least so many in an epoch, if it is long enough."""


@dataclass(frozen=True)
class Feed:
    """Batches of one worker; fits `mde.train.loop.Batches`.

    folder: a dataset. images, with_depth: what the objective needs; no other column is read.
    batch_size: over all workers. augment None: as stored.
    """

    folder: Path
    images: tuple[str, ...]
    with_depth: bool
    batch_size: int
    seed: int
    augment: Augment | None
    rank: int
    world_size: int
    decode_tasks: int = 1
    cpus_per_decode: float = 0.5

    @functools.cached_property
    def manifest(self) -> Manifest:
        """The dataset's manifest."""
        return read_manifest(self.folder)

    @functools.cached_property
    def num_steps(self) -> dict[str, int]:
        """Batches of each split: the same number for all workers."""
        counts = self.manifest.counts
        return {s: len(self._steps(s, 0)) if counts[s] else 0 for s in ("train", "val")}

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return self.num_steps["train"]

    def train(self, epoch: int) -> Iterator[tuple[Batch, float]]:
        """One shuffled, augmented epoch of (batch, weight)."""
        return self._batches("train", epoch, self.augment)

    def val(self) -> Iterator[tuple[Batch, float]]:
        """The validation split in stored order, without chance; nothing when it is empty."""
        if not self.manifest.counts["val"]:
            return iter(())
        return self._batches("val", 0, self.augment and self.augment.still())

    def _steps(self, split: str, epoch: int) -> list[WorkerStep]:
        shards = self.manifest.of_split(split)
        seed = self.seed if split == "train" else None
        order = epoch_order(shards, ROWS_PER_GROUP, seed, epoch)
        return worker_steps(order, self.batch_size, self.rank, self.world_size)

    def _rows_per_task(self, split: str, steps: list[WorkerStep]) -> int:
        shards, rows = self.manifest.of_split(split), sum(len(step.rows) for step in steps)
        row_bytes = sum(shard.bytes for shard in shards) / sum(shard.rows for shard in shards)
        return min(int(TASK_BYTES / row_bytes), rows // (TASKS_PER_DECODER * self.decode_tasks))

    def _batches(
        self, split: str, epoch: int, augment: Augment | None
    ) -> Iterator[tuple[Batch, float]]:
        steps = self._steps(split, epoch)
        files = [self.folder / shard.file for shard in self.manifest.of_split(split)]
        decode = Decode(files, self.images, self.with_depth, augment, [self.seed, epoch])
        tasks = pack_tasks(steps, self._rows_per_task(split, steps))
        dataset = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map_batches(
            decode,
            batch_size=1,
            num_cpus=self.cpus_per_decode,
            compute=TaskPoolStrategy(size=self.decode_tasks),
        )
        blocks = dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=2)
        for step, rows in zip(steps, regroup(blocks), strict=True):
            yield to_batch(rows), step.weight


def regroup(blocks: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Cut a stream of blocks where the column `step` changes: one dict of arrays for each step."""
    held: list[dict[str, Any]] = []
    for block in blocks:
        edges = np.flatnonzero(np.diff(block["step"])) + 1
        bounds = [0, *edges.tolist(), len(block["step"])]
        for start, end in itertools.pairwise(bounds):
            part = {name: values[start:end] for name, values in block.items()}
            if held and held[0]["step"][0] != part["step"][0]:
                yield _join(held)
                held = []
            held.append(part)
    if held:
        yield _join(held)


def _join(parts: list[dict[str, Any]]) -> dict[str, Any]:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def to_batch(rows: dict[str, Any]) -> Batch:
    """Stacked arrays → a Batch; images become (B,3,H,W), channels last, and stay uint8.

    The tensors share the memory of the arrays, which may be Ray's: they are not to be written to.
    """
    batch: Any = {"sample_id": [str(name) for name in rows["sample_id"]]}
    for name, values in rows.items():
        if name.startswith("image"):
            batch[name] = torch.from_numpy(values).permute(0, 3, 1, 2)
        elif name == "depth":
            batch[name] = torch.from_numpy(values).unsqueeze(1)
        elif name not in ("sample_id", "step"):
            batch[name] = torch.from_numpy(values.copy())
    return batch
