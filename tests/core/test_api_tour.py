"""`docs/api_tour.py`, which a page of the documentation shows, does what it says."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mde.models import ModelConfig, build_model
from mde.train.checkpoint import save_model

TOUR = Path(__file__).parents[2] / "docs/api_tour.py"
MODEL = {
    "family": "fastdepth", "encoder": "mobilenet_v1", "weights": "scratch",
    "min_depth": 0.1, "max_depth": 10.0,
}  # fmt: skip


def test_the_tour_leads_from_a_checkpoint_to_a_point_cloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, photo, out = tmp_path / "checkpoint", tmp_path / "photo.png", tmp_path / "out"
    checkpoint.mkdir()
    torch.manual_seed(0)
    state = {"variant": {"name": "small", "model": MODEL}, "image_size": [64, 96]}
    save_model(checkpoint, build_model(ModelConfig(**MODEL)), state)
    pixels = np.random.default_rng(0).integers(0, 256, (80, 120, 3), np.uint8)
    Image.fromarray(pixels).save(photo)

    monkeypatch.setattr("sys.argv", [str(TOUR), str(checkpoint), str(photo), str(out)])
    runpy.run_path(str(TOUR), run_name="__main__")
    said = capsys.readouterr().out
    assert "small: depth from 0.1 to 10.0, m" in said
    depth = np.load(out / "depth.npy")
    assert (depth.shape, depth.dtype) == ((80, 120), np.float32)
    codes = np.asarray(Image.open(out / "depth.png"))
    np.testing.assert_allclose(codes / 1000, depth, atol=6e-4)
    assert Image.open(out / "colours.png").size == (120, 80)
    count = re.search(rb"element vertex (\d+)", (out / "points.ply").read_bytes())
    assert count is not None
    assert f"{count[1].decode()} points" in said
