"""A torch `DataLoader` over the feed's own plan: the same samples in the same batches.

What a person would write who trains with torchrun on the same shards. Its workers live on, read
whole row groups with their checksums verified, and keep the last ones.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, Dataset

from benchmarks.formats import collate, one_thread
from mde.cluster.decode import footer_of
from mde.data.augment import Augment, columns_of, load_sample
from mde.data.epoch import LANES
from mde.data.place import Place, join, resolve
from mde.data.plan import WorkerStep, epoch_order, worker_steps
from mde.data.shards import ROWS_PER_GROUP, Manifest, read_manifest, read_row_group
from mde.schema import Batch, Row

Step = tuple[int, list[list[int]]]
"""Epoch, and (shard, row group, row) of each sample of a step."""


@dataclass(frozen=True)
class TorchFeed:
    """Batches of one worker; fits `mde.train.loop.Batches` and has `mde.cluster.feed.Feed`'s keys.

    workers: processes of the DataLoader; 0: this process decodes. There is no validation.
    """

    folder: Place
    images: tuple[str, ...]
    with_depth: bool
    batch_size: int
    seed: int
    augment: Augment | None
    rank: int
    world_size: int
    workers: int

    @functools.cached_property
    def manifest(self) -> Manifest:
        """The dataset's manifest."""
        return read_manifest(self.folder)

    @functools.cached_property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return len(self._steps(0))

    def train(self, epoch: int, start: int = 0) -> Iterator[tuple[Batch, float]]:
        """One shuffled, augmented epoch of (batch, weight), from step `start` on."""
        steps = self._steps(epoch)[start:]
        self._sampler[:] = [(epoch, step.rows.tolist()) for step in steps]
        for step, batch in zip(steps, self._loader, strict=True):
            yield batch, step.weight

    def val(self) -> Iterator[tuple[Batch, float]]:
        """Nothing."""
        return iter(())

    def _steps(self, epoch: int) -> list[WorkerStep]:
        order = epoch_order(self.manifest.of_split("train"), ROWS_PER_GROUP, self.seed, epoch)
        return worker_steps(order, self.batch_size, self.rank, self.world_size)

    @functools.cached_property
    def _sampler(self) -> list[Step]:
        return []

    @functools.cached_property
    def _loader(self) -> "DataLoader[Batch]":
        folder = resolve(self.folder)
        files = [join(folder, shard.file) for shard in self.manifest.of_split("train")]
        dataset = _Steps(files, self.images, self.with_depth, self.augment, self.seed)
        # Linux's own way: a spawned worker would import everything anew.
        living: dict[str, Any] = {"persistent_workers": True, "multiprocessing_context": "fork"}
        return DataLoader(
            dataset, batch_size=None, sampler=self._sampler, num_workers=self.workers,
            collate_fn=_as_it_is, worker_init_fn=one_thread, **(living if self.workers else {}),
        )  # fmt: skip


class _Steps(Dataset[Batch]):
    """A step → its batch."""

    def __init__(
        self,
        files: list[Place],
        images: tuple[str, ...],
        with_depth: bool,
        augment: Augment | None,
        seed: int,
    ) -> None:
        self.files, self.images, self.with_depth = files, images, with_depth
        self.augment, self.seed = augment, seed
        self.columns = columns_of(images, with_depth)

    def __getitem__(self, step: Step) -> Batch:
        epoch, rows = step
        samples = []
        for shard, group, index in rows:
            row = _read(self.files[shard], group, tuple(self.columns))[index]
            key = [self.seed, epoch]
            samples.append(load_sample(row, self.images, self.with_depth, self.augment, key))
        return collate(samples)


# Twice as many as the plan mixes with each other.
@functools.lru_cache(2 * LANES)
def _read(file: Place, row_group: int, columns: tuple[str, ...]) -> list[Row]:
    rows: Any = read_row_group(file, row_group, list(columns), footer_of(file)).to_pylist()
    return rows


def _as_it_is(batch: Any) -> Any:
    return batch


@dataclass
class Epochs:
    """Epoch after epoch of a feed, each time that it is iterated over: batches alone."""

    feed: TorchFeed
    epoch: int = 0

    def __iter__(self) -> Iterator[Batch]:
        self.epoch += 1
        return (batch for batch, _ in self.feed.train(self.epoch - 1))
