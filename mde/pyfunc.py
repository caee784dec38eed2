"""A registered version for MLflow: `mlflow.pyfunc.load_model("models:/mde-…@champion")`.

`MLmodel` beside the checkpoint names this module. It reads what `mde` itself reads of a checkpoint,
safetensors and JSON.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mde.errors import InputError
from mde.predictor import Predictor, load_predictor


class DepthFunction:
    """The depth model of a checkpoint folder, on a GPU when there is one."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def predict(
        self, images: NDArray[np.uint8], params: dict[str, Any] | None = None
    ) -> NDArray[np.float32]:
        """Images (N,H,W,3) uint8, RGB → depth (N,H,W) in m, or up to scale when the model is.

        params: of MLflow; there are none. Raises InputError for other arrays.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise InputError(
                f"expected images (N,H,W,3) of uint8, RGB; found {images.shape} of {images.dtype}"
            )
        return self.predictor.predict_batch(images)


def _load_pyfunc(path: str) -> DepthFunction:
    """What MLflow calls. path: a local copy of the version's files."""
    return DepthFunction(load_predictor(Path(path)))
