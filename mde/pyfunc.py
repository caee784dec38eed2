"""A registered version for MLflow: `mlflow.pyfunc.load_model("models:/mde-…@champion")`.

`MLmodel` beside the checkpoint names this module. It reads what `mde` itself reads of a checkpoint,
safetensors and JSON.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mde.errors import InputError
from mde.inference import BATCH_SIZE, load_depth_model


class DepthFunction:
    """The depth model of a checkpoint folder, on a GPU when there is one."""

    def __init__(self, folder: Path) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = load_depth_model(folder)[0].to(self.device)

    @torch.inference_mode()
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
        depths = [
            self._predict_batch(images[start : start + BATCH_SIZE])
            for start in range(0, len(images), BATCH_SIZE)
        ]
        return np.concatenate(depths) if depths else np.zeros(images.shape[:3], np.float32)

    def _predict_batch(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        batch = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        depth = self.model.predict_depth(batch.permute(0, 3, 1, 2).float() / 255)
        return depth[:, 0].float().cpu().numpy()


def _load_pyfunc(path: str) -> DepthFunction:
    """What MLflow calls. path: a local copy of the version's files."""
    return DepthFunction(Path(path))
