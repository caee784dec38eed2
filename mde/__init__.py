"""Monocular depth estimation: `mde.load("models:/mde-resfpn-resnet18@champion").predict(image)`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mde.predictor import Predictor

__all__ = ["load"]


def load(source: str | Path, *, root: str | Path = ".", **options: Any) -> Predictor:
    """A depth model, ready to use: `mde.load("models/fastdepth-mobilenet").predict("room.jpg")`.

    source: a checkpoint folder, the name of a trained variant, `models:/<name>@<alias>`,
    `models:/<name>/<version>`, `runs:/<id>`, or a file that `mde export` has written. root: where
    models/ and mlflow.db are, unless MLFLOW_TRACKING_URI names a server. options: of a checkpoint
    `device`, `image_size`, `flip`, `precision`, `channels_last`, `compile`, as of
    `mde.predictor.load_predictor`; of an exported file those of `mde.export.OnnxPredictor`.
    Raises InputError when there is no such model, or a file of it differs from its SHA-256.
    """
    # Stages import this package too, and need none of it.
    if str(source).endswith(".onnx"):
        from mde.export import OnnxPredictor

        return OnnxPredictor(Path(source), **options)
    from mde.model_source import checkpoint_of
    from mde.predictor import load_predictor

    with checkpoint_of(str(source), Path(root)) as folder:
        return load_predictor(folder, **options)
