"""What MLflow gets of a run beside its numbers, each once: datasets, files, pictures.

Everything here may be done twice, by a process that was killed before it remembered: MLflow has a
dataset, a file or a tag by its name, so the second time changes nothing.
"""

import io
import re
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_IMAGES

from mde.errors import InputError
from mde.tracking.run_folder import INPUTS, LATER_COMMIT, PICTURES, RunFolder
from mde.tracking.store import log_datasets

THUMBNAIL = 256
"""Pixels of the longer side, as of MLflow's own."""


def send_once(client: MlflowClient, run_id: str, folder: RunFolder, name: str) -> None:
    """Deliver one of `RunFolder.waiting_once`. Raises InputError when a picture is damaged."""
    record = folder.record
    if name == INPUTS and record is not None:
        log_datasets(client, run_id, record.inputs)
    elif name.startswith(f"{LATER_COMMIT}="):
        client.set_tag(run_id, LATER_COMMIT, name.partition("=")[2])
    elif name.startswith(f"{PICTURES}/"):
        _send_picture(client, run_id, folder, name)
    else:
        place = PurePosixPath(name)
        with local_copy(place.name, folder.storage.read(name)) as file:
            client.log_artifact(run_id, str(file), place.parent.as_posix())


def _send_picture(client: MlflowClient, run_id: str, folder: RunFolder, name: str) -> None:
    """Upload a picture under the names by which MLflow's pages show it by step.

    They are those of `MlflowClient.log_image`, which gives other ones each time: here the same
    picture has the same names, so that it is there once.
    """
    record, place = folder.record, PurePosixPath(name)
    if record is None or not re.fullmatch(r"\d+", place.stem):
        raise InputError(f"{folder.uri}/{name}: expected pictures/<key>/<step>.png")
    data = folder.storage.read(name)
    same = uuid.uuid5(uuid.NAMESPACE_URL, f"{record.key}/{name}")
    stem = f"{place.parent.name}+step+{int(place.stem)}+timestamp+{record.created_ms}+{same}"
    small = {f"{stem}+compressed.webp": _thumbnail(data, f"{folder.uri}/{name}")}
    for file_name, content in {f"{stem}.png": data, **small}.items():
        with local_copy(file_name, content) as file:
            client.log_artifact(run_id, str(file), "images")
    client.set_tag(run_id, MLFLOW_LOGGED_IMAGES, "True")


def _thumbnail(data: bytes, where: str) -> bytes:
    # Most of what imports this module has no picture to send.
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(data)).convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise InputError(f"{where}: not a picture: {error}; delete it") from error
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    out = io.BytesIO()
    image.save(out, "WEBP")
    return out.getvalue()


@contextmanager
def local_copy(name: str, data: bytes) -> Iterator[Path]:
    """A local file of that name, as long as the block runs: MLflow uploads files by their names."""
    with tempfile.TemporaryDirectory(prefix="mde-") as folder:
        file = Path(folder, name)
        file.write_bytes(data)
        yield file
