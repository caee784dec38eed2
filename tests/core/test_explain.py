"""What objectives show of themselves: maps for a person, and the loss of each scale."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mde.models import ModelConfig, build_model
from mde.train.objectives import SupervisedConfig, build_objective
from tests.core.test_self_supervised import (
    SHIFT_PX,
    build,
    grey_batch,
    hills,
    noise_batch,
    plane_batch,
    planes,
)
from tests.core.test_train import SmallDepth, make_batch

WARPED = {
    "m": ["warped_prev", "warped_next"],
    "s": ["warped_stereo"],
    "ms": ["warped_prev", "warped_next", "warped_stereo"],
}


class Grey(nn.Module):
    """Takes the mean of the colours for the depth, at half the size."""

    def forward(self, image: Tensor) -> list[Tensor]:
        return [nn.functional.avg_pool2d(image.mean(1, keepdim=True), 2)]

    def native_to_depth(self, native: Tensor) -> Tensor:
        return 10 * native


def flat_batch(grey: int, depth: float) -> dict[str, Any]:
    return make_batch(0, 1) | {
        "image": torch.full((1, 3, 8, 8), grey, dtype=torch.uint8),
        "depth": torch.full((1, 1, 8, 8), depth),
    }


# --- Supervised -------------------------------------------------------------------------------


def test_depth_comes_at_the_size_of_the_target_and_its_error_is_relative():
    objective = build_objective(SupervisedConfig("supervised"), Grey())
    batch = flat_batch(51, 4.0)
    batch["depth"][..., :4] = 0
    maps = objective.explain(batch)
    assert list(maps) == ["image", "depth", "target", "error"]
    torch.testing.assert_close(maps["image"], torch.full((1, 3, 8, 8), 0.2))
    torch.testing.assert_close(maps["depth"], torch.full((1, 1, 8, 8), 2.0))
    assert (maps["error"][..., :4] == 0).all()
    torch.testing.assert_close(maps["error"][..., 4:], torch.full((1, 1, 8, 4), 0.5))


def test_a_perfect_prediction_has_no_error():
    objective = build_objective(SupervisedConfig("supervised"), Grey())
    maps = objective.explain(flat_batch(102, 4.0))
    torch.testing.assert_close(maps["error"], torch.zeros(1, 1, 8, 8), atol=1e-6, rtol=0)


def test_without_truth_the_depth_of_the_image_is_all_there_is():
    objective = build_objective(SupervisedConfig("supervised"), SmallDepth())
    batch = make_batch(0, 2)
    del batch["depth"]
    assert {key: values.shape for key, values in objective.explain(batch).items()} == {
        "image": (2, 3, 8, 8),
        "depth": (2, 1, 8, 8),
    }


def test_explaining_changes_neither_weights_nor_statistics_nor_the_mode():
    torch.manual_seed(0)
    model = build_model(ModelConfig("resfpn", "resnet18", "scratch", 0.1, 10.0))
    objective = build_objective(SupervisedConfig("supervised"), model)
    before = {name: values.clone() for name, values in objective.state_dict().items()}
    maps = objective.explain(make_batch(0, 2, size=64))
    torch.testing.assert_close(objective.state_dict(), before, rtol=0, atol=0)
    assert objective.training
    assert not any(values.requires_grad for values in maps.values())
    assert not objective.eval().explain(make_batch(0, 2, size=64))["depth"].requires_grad
    assert not objective.training


# --- Self-supervised --------------------------------------------------------------------------


@pytest.mark.parametrize("mode", WARPED)
def test_a_mode_shows_the_sources_that_it_has(mode: str):
    maps = build(mode, hills(batch=2)).explain(noise_batch(2))
    assert list(maps) == ["image", "disparity", *WARPED[mode], "automask", "photometric"]
    assert {values.shape[1:] for key, values in maps.items() if "warped" in key} == {(3, 32, 64)}
    assert maps["automask"].shape == maps["photometric"].shape == (2, 1, 32, 64)


def test_sources_are_shown_as_they_look_from_the_target():
    batch = plane_batch()
    maps = build("ms", planes()).explain(batch)
    inside = slice(SHIFT_PX + 1, -SHIFT_PX - 1)
    for name in WARPED["ms"]:
        warped = maps[name][..., inside]
        torch.testing.assert_close(warped, maps["image"][..., inside], atol=1e-3, rtol=0)
    assert maps["photometric"][..., inside].mean() < 1e-4
    assert maps["automask"][..., inside].float().mean() > 0.95


def test_without_motion_a_source_is_shown_as_it_is():
    batch = noise_batch(1)
    maps = build("m", planes(), step_m=0.0).explain(batch)
    torch.testing.assert_close(maps["warped_prev"], batch["image_prev"] / 255, atol=1e-4, rtol=0)


def test_nothing_of_a_scene_that_stands_still_is_used():
    batch = plane_batch()
    still = {key: batch["image"] for key in ("image_prev", "image_next", "image_stereo")}
    assert not build("ms", hills()).explain(batch | still)["automask"].any()


@pytest.mark.parametrize("reprojection", ["min", "average"])
def test_the_error_map_is_the_loss_of_the_finest_scale(reprojection: str):
    objective = build("ms", hills(), automask=False, reprojection=reprojection)
    batch = noise_batch(1)
    maps, terms = objective.explain(batch), objective(batch)
    assert "automask" not in maps
    torch.testing.assert_close(maps["photometric"].mean(), terms["photometric_0"])


def test_a_batch_without_sources_shows_the_disparity_alone():
    batch = grey_batch(100, 100, 100, 100)
    alone = {key: batch[key] for key in ("image", "color_matrix", "K")}
    maps = build("ms", hills()).explain(alone)
    assert list(maps) == ["image", "disparity"]
    torch.testing.assert_close(maps["disparity"], hills()[0])


def test_the_scales_have_losses_of_their_own_whose_mean_is_the_loss():
    terms = build("ms", hills())(noise_batch(1))
    for name in ("photometric", "smoothness"):
        scales = [terms[f"{name}_{scale}"] for scale in range(4)]
        assert len({scale.item() for scale in scales}) == 4
        assert not any(scale.requires_grad for scale in scales)
        torch.testing.assert_close(torch.stack(scales).mean(), terms[name].detach())
