"""Pictures of a training: drawn by its first worker after an epoch, into the run's storage."""

from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mde.cluster.decode import stack
from mde.cluster.feed import Feed, to_batch
from mde.data.augment import load_sample
from mde.data.codecs import CodecError, decode_depth
from mde.data.curated import PicturesConfig, choose_rows
from mde.data.pick import pick_rows
from mde.errors import InputError
from mde.schema import Batch, Row
from mde.storage import Storage
from mde.train.objectives import Objective
from mde.training_pictures import Frame, Prediction, draw_frames, draw_training, to_png

FOLDER = "pictures"
"""In a run's storage: `<sheet>/<optimizer step>.png`."""
SAMPLES = 3
"""Rows of the train split in the sheet `training`."""


class Painter:
    """Draws the sheets `training` and `frames`; fits `mde.train.loop.Paint`.

    feed: how rows are prepared; here as for the validation, without chance. title: of every sheet.
    Rows are read when it is made, decoded when they are first drawn. Raises InputError for a frame
    that the dataset does not have, and for a damaged shard.
    """

    def __init__(self, feed: Feed, config: PicturesConfig, storage: Storage, title: str) -> None:
        self.feed, self.config, self.storage, self.title = feed, config, storage, title
        self.watched = choose_rows(feed.folder, feed.manifest, config)
        rows = pick_rows(feed.folder, feed.manifest, SAMPLES, "train")
        self.samples = [row for _, row in rows]

    def __call__(self, objective: Objective, epoch: int, step: int) -> None:
        """Draw and write both sheets, when it is their turn."""
        if epoch % self.config.every_epochs:
            return
        title = f"{self.title} · epoch {epoch} · step {step}"
        for key, draw in {"training": self.draw_training, "frames": self.draw_frames}.items():
            self.storage.write(f"{FOLDER}/{key}/{step:09d}.png", to_png(draw(objective, title)))

    def draw_training(self, objective: Objective, title: str) -> Image.Image:
        """What the objective explains of a few samples of the train split."""
        maps = objective.explain(_move(self.batch, objective))
        arrays = {key: values.cpu().numpy() for key, values in maps.items()}
        return draw_training(f"{title} · training", self.batch["sample_id"], arrays)

    def draw_frames(self, objective: Objective, title: str) -> Image.Image:
        """The watched frames, as the model predicts them, one by one."""
        predictions = [self.predict(objective, batch) for batch, _ in self.frames]
        return draw_frames(f"{title} · frames", [frame for _, frame in self.frames], predictions)

    def predict(self, objective: Objective, batch: Batch) -> Prediction:
        """The depth of a batch of one, within the model's range as in an evaluation."""
        model, maps = objective.model, objective.explain(_move(batch, objective))
        disparity = maps.get("disparity")
        with torch.no_grad():
            depth = maps["depth"] if disparity is None else model.native_to_depth(disparity)
            depth = depth.clamp(model.min_depth, model.max_depth)
        shown = None if disparity is None else _plain(disparity)
        return Prediction(_plain(depth), shown, model.is_metric)

    @cached_property
    def batch(self) -> Batch:
        """The samples, with all that the objective needs."""
        return self._prepare(self.samples, self.feed.images, self.feed.with_depth)

    @cached_property
    def frames(self) -> list[tuple[Batch, Frame]]:
        """Each watched frame: its image alone as a batch, since a test row may have no more."""
        watched = []
        for row in self.watched:
            batch = self._prepare([row], ("image",), with_depth=False)
            pixels = batch["image"][0].permute(1, 2, 0).numpy()
            watched.append((batch, Frame(row["sample_id"], pixels, self._truth(row))))
        return watched

    def _prepare(self, rows: list[Row], images: tuple[str, ...], with_depth: bool) -> Batch:
        still = self.feed.augment and self.feed.augment.still()
        return to_batch(stack([load_sample(row, images, with_depth, still, [0]) for row in rows]))

    def _truth(self, row: Row) -> NDArray[np.float32] | None:
        """The ground truth, or else the depth to train on, of what the batch shows of the image."""
        data, size = row["gt_depth"], (row["gt_height"], row["gt_width"])
        if data is None:
            data, size = row["depth"], (row["height"], row["width"])
        if data is None:
            return None
        try:
            depth = decode_depth(data, *size, row["depth_scale"])
        except CodecError as error:
            raise InputError(f"sample {row['sample_id']}: {error}") from error
        cut = (1 - self.feed.augment.crop) / 2 if self.feed.augment else 0.0
        top, left = round(cut * size[0]), round(cut * size[1])
        return depth[top : size[0] - top, left : size[1] - left]


def _move(batch: Batch, objective: Objective) -> Batch:
    """The tensors of a batch, where the networks are."""
    device = next(objective.parameters()).device
    moved: Batch = {k: v.to(device) for k, v in batch.items() if isinstance(v, Tensor)}  # type: ignore[assignment]
    return moved


def _plain(values: Tensor) -> NDArray[np.float32]:
    """(1,1,H,W) → (H,W)."""
    return values[0, 0].float().cpu().numpy()
