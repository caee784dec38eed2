"""Go through a split of a dataset with a depth model, by row groups: to score it or to keep depths.

The row group is the unit of work and its rows are always batched in the same way, so that results
do not depend on who works on which group, or when.
"""

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn
from rich.progress import Task as ProgressTask
from rich.text import Text
from torch import Tensor

from mde.data.codecs import CodecError, decode_image
from mde.data.place import Place, join, show
from mde.data.shards import ROWS_PER_GROUP, read_manifest, read_row_group
from mde.errors import InputError
from mde.models import DepthModel
from mde.predictor import BATCH_SIZE, load_depth_model
from mde.schema import SPLITS, Flip


@dataclass(frozen=True)
class RowGroup:
    """A unit of work: row group `index` of the shard at `place`, with so many rows."""

    place: Place
    index: int
    rows: int

    def read(self, columns: list[str]) -> list[Any]:
        """Its rows, with these columns alone. Raises InputError when a page checksum is wrong."""
        return read_row_group(self.place, self.index, columns).to_pylist()


def row_groups(data: Place, split: str) -> list[RowGroup]:
    """The row groups of a split, in stored order.

    Raises InputError when there is no such split, or nothing in it.
    """
    if split not in SPLITS:
        raise InputError(f"{show(data)}: no split '{split}'; there are {', '.join(SPLITS)}")
    shards = read_manifest(data).of_split(split)
    groups = [
        RowGroup(join(data, shard.file), i, min(ROWS_PER_GROUP, shard.rows - i * ROWS_PER_GROUP))
        for shard in shards
        for i in range(shard.row_groups)
    ]
    if not groups:
        raise InputError(
            f"{show(data)}: the {split} split is empty; convert it with another division"
        )
    return groups


Work = Callable[[RowGroup, torch.device], pa.Table]
"""What is done with a row group on a device: a table with one row for each of its rows."""
Runner = Callable[[Work, list[RowGroup]], Iterator[pa.Table]]
"""Does a work on all row groups, somewhere; the tables come in the order of the groups."""


def run_one_by_one(work: Work, groups: list[RowGroup]) -> Iterator[pa.Table]:
    """The runner that needs nothing: this process, on CPU."""
    return (work(group, torch.device("cpu")) for group in groups)


def run_with_progress(
    run: Runner, work: Work, groups: list[RowGroup], title: str
) -> Iterator[pa.Table]:
    """Run, with a progress bar that counts images; the tables, one for each group, in order.

    Raises RuntimeError when a table has not one row for each of its group's.
    """
    text = TextColumn("{task.description}")
    with Progress(text, BarColumn(), MofNCompleteColumn(), ImagesPerSecond()) as progress:
        task = progress.add_task(title, total=sum(group.rows for group in groups))
        for group, table in zip(groups, run(work, groups), strict=True):
            if len(table) != group.rows:
                raise RuntimeError(f"{group}: {len(table)} results, expected {group.rows}")
            progress.advance(task, group.rows)
            yield table


class ImagesPerSecond(ProgressColumn):
    """The rate since the start; the start of Ray's workers counts too."""

    def render(self, task: ProgressTask) -> Text:
        """`12.3 images/s`."""
        seconds = task.finished_time or task.elapsed
        return Text(f"{task.completed / seconds:.1f} images/s" if seconds else "")


@dataclass(frozen=True)
class BatchPredictor:
    """The model of a checkpoint, loaded where it is first asked for; until then it travels light.

    batch_size: images at a time, at most. Other sizes change results by rounding errors alone.
    flip: as of `DepthModel.predict_depth`.
    """

    checkpoint: Path
    batch_size: int = BATCH_SIZE
    flip: Flip = "none"

    @functools.cached_property
    def model(self) -> DepthModel:
        """In eval mode, from verified files. Raises InputError as `load_depth_model` does."""
        # Ray's GPU workers compare with CPU ones: no TF32, no choice of algorithm by timing.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic = True
        return load_depth_model(self.checkpoint)[0]

    @torch.inference_mode()
    def predict(
        self,
        images: dict[str, NDArray[np.uint8]],
        sizes: dict[str, tuple[int, int]],
        device: torch.device,
    ) -> dict[str, Tensor]:
        """Images (H,W,3) RGB by sample_id → depths (h,w) of these sizes in m, on the device.

        Images of one size whose depths are of one size share batches. Up to scale when the model
        is. Raises InputError when a depth is not finite.
        """
        model = self.model.to(device)
        alike: defaultdict[Any, list[str]] = defaultdict(list)
        for name, image in images.items():
            alike[image.shape, sizes[name]].append(name)
        depths: dict[str, Tensor] = {}
        for (_, size), names in alike.items():
            for start in range(0, len(names), self.batch_size):
                chosen = names[start : start + self.batch_size]
                stack = torch.from_numpy(np.stack([images[name] for name in chosen])).to(device)
                found = model.predict_depth(
                    stack.permute(0, 3, 1, 2).float() / 255, size, self.flip
                )
                depths |= dict(zip(chosen, found[:, 0], strict=True))
        for name, depth in depths.items():
            if not bool(torch.isfinite(depth).all()):
                raise InputError(
                    f"{self.checkpoint}: predicts depths of {name} that are not finite; "
                    "train again, or take an earlier checkpoint"
                )
        return {name: depths[name] for name in images}


def decode_row_image(group: RowGroup, row: Any) -> NDArray[np.uint8]:
    """The image of a row, (H,W,3) RGB. Raises InputError that names the row when it is damaged."""
    try:
        return decode_image(row["image"])
    except CodecError as error:
        raise InputError(f"{show(group.place)}: {row['sample_id']}: {error}") from error
