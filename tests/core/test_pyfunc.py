"""The model that MLflow loads: what it takes, what it gives, and what its MLmodel says."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from mde.errors import InputError
from mde.models import ModelConfig, build_model
from mde.pyfunc import _load_pyfunc
from mde.tracking.model_card import mlmodel
from mde.train.checkpoint import save_model
from mde.train.foreign import is_own_mlmodel

MODEL = {"family": "resfpn", "encoder": "resnet18", "weights": "scratch", "min_depth": 0.1}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    save_model(
        folder, build_model(ModelConfig(**MODEL)), {"variant": {"name": "x", "model": MODEL}}
    )
    return folder


def test_images_of_any_number_and_size_become_depths(checkpoint: Path) -> None:
    function = _load_pyfunc(str(checkpoint))
    images = np.random.default_rng(0).integers(0, 256, (3, 50, 70, 3)).astype(np.uint8)
    depth = function.predict(images)
    assert (depth.shape, depth.dtype) == ((3, 50, 70), np.float32)
    np.testing.assert_allclose(function.predict(images[1:2]), depth[1:2], rtol=1e-4)
    assert function.predict(images[:0]).shape == (0, 50, 70)


@pytest.mark.parametrize("bad", [np.zeros((2, 8, 8, 3)), np.zeros((8, 8, 3), np.uint8)])
def test_other_arrays_are_refused(checkpoint: Path, bad: np.ndarray) -> None:
    with pytest.raises(InputError, match="expected images"):
        _load_pyfunc(str(checkpoint)).predict(bad)


@pytest.mark.parametrize(("is_metric", "unit"), [(True, "depth_m"), (False, "depth_up_to_scale")])
def test_the_card_says_the_unit_and_is_known_as_ours(is_metric: bool, unit: str) -> None:
    text = json.dumps(mlmodel(is_metric, {"variant": {"name": "x"}})).encode()
    assert is_own_mlmodel(text)
    assert unit in yaml.safe_load(text)["signature"]["outputs"]
