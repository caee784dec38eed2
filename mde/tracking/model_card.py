"""What MLflow needs to know of a checkpoint: its signature, an example, and who loads it.

`MLmodel` names `mde.pyfunc`, which is in this package: no code and no pickle lies beside the
weights. It is JSON, which is YAML too, so that `mde.train.foreign` can tell it from others.
"""

import json
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from numpy.typing import NDArray

from mde.config import parse_section
from mde.data.codecs import decode_image
from mde.data.place import Place, join
from mde.data.shards import read_manifest, read_row_group
from mde.models import ModelConfig, build_model
from mde.train.checkpoint import read_state
from mde.train.foreign import LOADER, MLMODEL

EXAMPLE, SERVING_EXAMPLE = "input_example.json", "serving_input_example.json"
EXAMPLE_SIDE = 160
"""Pixels of the longer side, at most: the example is a text of numbers."""


def model_files(checkpoint: Path, data: Place) -> dict[str, bytes]:
    """Files that make a checkpoint folder a model for `mlflow.pyfunc.load_model`, by name.

    data: the dataset that the example is taken from, see `example_image`.
    Raises InputError when the checkpoint or the shard is damaged.
    """
    return files_about(checkpoint, example_image(data))


def files_about(checkpoint: Path, example: NDArray[np.uint8]) -> dict[str, bytes]:
    """As `model_files`, with an example (H,W,3) of one's own."""
    state = read_state(checkpoint)
    inputs = example[None].tolist()
    card = mlmodel(_is_metric(checkpoint, state), state)
    return {
        MLMODEL: json.dumps(card, indent=2).encode(),
        EXAMPLE: json.dumps(inputs).encode(),
        SERVING_EXAMPLE: json.dumps({"inputs": inputs}).encode(),
    }


def mlmodel(is_metric: bool, state: dict[str, Any]) -> dict[str, Any]:
    """Content of `MLmodel`. is_metric: whether depth is in m. state: of the checkpoint."""
    unit = "m" if is_metric else "up_to_scale"
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, -1, -1), f"depth_{unit}")]),
    )
    return {
        "flavors": {
            "python_function": {
                "loader_module": LOADER,
                "python_version": platform.python_version(),
            }
        },
        "signature": signature.to_dict(),
        # The signature is of arrays; for text beside them MLflow has no schema, so that it leaves
        # the check to `mde.pyfunc`.
        "is_signature_from_type_hint": True,
        "saved_input_example_info": {
            "artifact_path": EXAMPLE,
            "serving_input_path": SERVING_EXAMPLE,
            "type": "ndarray",
        },
        "mlflow_version": mlflow.__version__,
        "metadata": {
            "input": "images (N,H,W,3) uint8, RGB, of any size; or PNG, JPEG, WebP files in base64",
            "output": f"depth (N,H,W) float32, {'in m' if is_metric else 'right up to one factor'}",
            "variant": state["variant"]["name"],
            "mde_version": str(state.get("mde_version", "unknown")),
        },
    }


def example_image(data: Place) -> NDArray[np.uint8]:
    """A small image (H,W,3) of a dataset's test or val split; noise when both are empty."""
    manifest = read_manifest(data)
    shards = [*manifest.of_split("test"), *manifest.of_split("val")]
    if not shards:
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3))
        return noise.astype(np.uint8)
    row = read_row_group(join(data, shards[0].file), 0, ["image"]).slice(0, 1).to_pylist()[0]
    image = decode_image(row["image"])
    step = -(-max(image.shape[:2]) // EXAMPLE_SIDE)
    return np.ascontiguousarray(image[::step, ::step])


def _is_metric(checkpoint: Path, state: dict[str, Any]) -> bool:
    path = checkpoint / "state.json"
    config = parse_section(path, "variant.model", state["variant"]["model"], ModelConfig)
    with torch.device("meta"):
        return build_model(replace(config, weights="scratch")).is_metric
