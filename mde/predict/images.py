"""Depth of many images: files are read and written while the network runs."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mde.errors import InputError
from mde.predict.inputs import Input
from mde.predict.record import Entry, Record
from mde.predict.writers import ImageWriter
from mde.predictor import BATCH_SIZE, DepthMap, Predictor, as_pixels

THREADS = 3
AHEAD = 6
"""Images that wait before and after the network, at most."""
BATCH_PIXELS = 16 * 2**20
"""Of a batch, unless one image alone has more."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Photo:
    """An image that was read: (H,W,3) uint8 RGB, upright."""

    item: Input
    image: NDArray[np.uint8]


def predict_images(
    predictor: Predictor,
    items: list[Input],
    writer: ImageWriter,
    record: Record,
    advance: Callable[[], None],
) -> None:
    """Predict and write each image; one that cannot be read is a failure in the record.

    advance: called once an image is done.
    """

    def read(item: Input) -> Photo | None:
        try:
            return Photo(item, as_pixels(item.path))
        except InputError as error:
            record.fail(item.label, str(error))
            advance()
            return None

    def write(work: tuple[Input, DepthMap]) -> None:
        item, view = work
        entry = Entry(item.label, (view.depth.shape[0], view.depth.shape[1]))
        for part in (writer.write_maps, writer.write_scenes):
            try:
                files, about = part(item, view)
                entry.files.extend(files)
                entry.about.update(about)
            except InputError as error:
                record.fail(item.label, str(error))
        if entry.files:
            record.add(entry)
        advance()

    with threads(THREADS) as pool:
        photos = (photo for photo in ahead(pool, read, items, AHEAD) if photo)
        for _ in ahead(pool, write, _predict(predictor, photos), AHEAD):
            pass


def _predict(predictor: Predictor, photos: Iterator[Photo]) -> Iterator[tuple[Input, DepthMap]]:
    for batch in _batches(photos):
        depths = predictor.predict_batch(np.stack([photo.image for photo in batch]))
        for photo, depth in zip(batch, depths, strict=True):
            yield photo.item, DepthMap(depth, photo.image, predictor.info)


def _batches(photos: Iterator[Photo]) -> Iterator[list[Photo]]:
    """Runs of images of one size."""
    batch: list[Photo] = []
    for photo in photos:
        if batch and (
            photo.image.shape != batch[0].image.shape
            or len(batch) == BATCH_SIZE
            or (len(batch) + 1) * photo.image.size > 3 * BATCH_PIXELS
        ):
            yield batch
            batch = []
        batch.append(photo)
    if batch:
        yield batch


def ahead(
    pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], most: int
) -> Iterator[R]:
    """`map` in threads, in order, with at most `most` results that are waited for."""
    pending: deque[Future[R]] = deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) >= most:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


@contextmanager
def threads(number: int) -> Iterator[ThreadPoolExecutor]:
    """Threads; when the block is left early, what has not begun is not begun any more."""
    pool = ThreadPoolExecutor(number)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown(wait=True)
