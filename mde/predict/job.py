"""A whole run of `mde predict`: all inputs through one model into one folder."""

from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from mde.errors import InputError
from mde.files import disk_fault
from mde.predict.clips import Clip, StreamClip, VideoClip
from mde.predict.images import predict_images
from mde.predict.inputs import Inputs
from mde.predict.outputs import Options, meaning
from mde.predict.record import Record
from mde.predict.videos import predict_clip
from mde.predict.writers import ImageWriter
from mde.predictor import Predictor


class _Speed(ProgressColumn):
    """Images or frames per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f} per s" if speed else "", "progress.data.speed")


def progress_bar() -> Progress:
    """What is shown in a terminal while a run goes on."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Speed(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def open_streams(inputs: Inputs) -> dict[str, Clip]:
    """Cameras and URLs by source. Raises InputError when one cannot be opened."""
    return {item.source: StreamClip(item) for item in inputs.of("stream")}


def predict_all(
    predictor: Predictor,
    inputs: Inputs,
    streams: dict[str, Clip],
    out: Path,
    options: Options,
    model: dict[str, Any],
) -> Record:
    """Predict all inputs into a folder of `prepare_folder`, and write the record of it.

    model: what the record is to say of the model besides its ModelInfo. Ctrl-C ends the run early,
    with everything in place that is whole. Raises InputError when the disk is full or gone.
    """
    kinds = (options.of_image if inputs.of("image") else ()) + (
        options.of_clip if len(inputs.of("image")) < len(inputs.found) else ()
    )
    about = {kind: meaning(kind, predictor.info) for kind in dict.fromkeys(kinds)}
    record = Record(
        out, {"model": model | predictor.info.as_dict(), "kinds": about}, inputs.ignored
    )
    try:
        with progress_bar() as progress:
            _predict(predictor, inputs, streams, ImageWriter(out, options), record, progress)
    except KeyboardInterrupt:
        record.interrupted = True
    except OSError as error:
        if fault := disk_fault(error, out):
            raise InputError(
                f"{out}: {fault}; the {record.files} files that are there are whole, without a "
                "record"
            ) from error
        raise
    record.write()
    return record


def _predict(
    predictor: Predictor,
    inputs: Inputs,
    streams: dict[str, Clip],
    writer: ImageWriter,
    record: Record,
    progress: Progress,
) -> None:
    if images := inputs.of("image"):
        task = progress.add_task("images", total=len(images))
        predict_images(predictor, images, writer, record, partial(progress.advance, task))
    for item in (*inputs.of("video"), *inputs.of("stream")):
        clip = streams.get(item.source) or VideoClip(item.path)
        total = min(filter(None, (clip.count, writer.options.max_frames)), default=None)
        task = progress.add_task(item.name, total=total)
        predict_clip(predictor, item, clip, writer, record, partial(progress.advance, task))
