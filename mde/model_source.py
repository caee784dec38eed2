"""What a model may be called, and where its checkpoint is then found."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mde.errors import InputError
from mde.layout import Layout

KINDS = (
    "a checkpoint folder, the name of a trained variant, models:/<name>@<alias>, "
    "models:/<name>/<version>, runs:/<id> or the 32 digits of a run"
)


def find_checkpoint(root: Path, source: str, into: Path) -> Path:
    """The verified checkpoint folder of a model; what lies in MLflow is downloaded to `into`.

    root: where models/ and the MLflow store are, unless MLFLOW_TRACKING_URI names a server.
    Raises InputError for a source that is nothing of KINDS or not there, and as `fetch_version`.
    """
    run = re.fullmatch(r"(?:runs:/)?([0-9a-f]{32})(?:/checkpoint)?", source)
    if run or source.startswith("models:/"):
        # Only here: MLflow takes seconds to import.
        from mde.registry import fetch_run, fetch_version

        return fetch_run(root, run[1], into) if run else fetch_version(root, source, into)
    layout = Layout(root)
    for folder in (Path(source), Path(source) / "checkpoint", layout.model(source) / "checkpoint"):
        if (folder / "state.json").is_file():
            return folder
    trained = sorted(path.parent.parent.name for path in _trained(layout))
    raise InputError(
        f"{source}: no model is there; expected {KINDS}. "
        f"Trained below {root}: {', '.join(trained) or 'none'}"
    )


@contextmanager
def checkpoint_of(
    source: str, root: Path = Path(), downloads: Path | None = None
) -> Iterator[Path]:
    """The checkpoint folder of `find_checkpoint`; a downloaded one is gone afterwards.

    downloads: a folder to download into, for others than this process to read.
    """
    with tempfile.TemporaryDirectory(prefix=".model-", dir=downloads) as folder:
        yield find_checkpoint(root, source, Path(folder) / "checkpoint")


def _trained(layout: Layout) -> list[Path]:
    return list(layout.model("*").parent.glob("*/checkpoint/state.json"))
