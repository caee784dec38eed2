"""Every family learns one sample by heart, through its objective and the training step."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mde.models import ModelConfig, build_model
from mde.train.context import LocalContext
from mde.train.objectives import SelfSupervisedConfig, SupervisedConfig, build_objective
from mde.train.recipe import Recipe, Stage
from mde.train.step import Stepper

HEIGHT, WIDTH = 64, 96
FOCAL_PX, BASELINE_M = 60.0, 0.5


def smooth_noise(seed: int, cells: int, width: int = WIDTH) -> Tensor:
    """(1,3,H,width) in [0,1], with details of about H / cells px."""
    noise = torch.rand(1, 3, cells, cells * width // HEIGHT, generator=seeded(seed))
    return F.interpolate(noise, (HEIGHT, width), mode="bicubic", align_corners=False).clamp(0, 1)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def room() -> dict[str, Any]:
    """A floor that comes nearer, with a box on it; the image tells them apart."""
    rows = torch.linspace(5.0, 1.5, HEIGHT).view(1, 1, -1, 1).expand(1, 1, HEIGHT, WIDTH)
    depth = rows.clone()
    depth[..., 20:44, 30:60] = 2.0
    image = (0.6 * depth / 5 + 0.4 * smooth_noise(0, 8)).clamp(0, 1)
    return as_batch(image=image) | {"depth": depth}


def stereo_wall() -> dict[str, Any]:
    """Two views of a wall at 10 m: what is at u on the left is at u - 3 px on the right."""
    shift = int(FOCAL_PX * BASELINE_M / 10)
    wide = smooth_noise(1, 6, WIDTH + 2 * shift)
    left, right = wide[..., shift : shift + WIDTH], wide[..., 2 * shift : 2 * shift + WIDTH]
    return as_batch(image=left, image_stereo=right)


def as_batch(**images: Tensor) -> dict[str, Any]:
    K = torch.tensor([[FOCAL_PX, 0, WIDTH / 2], [0, FOCAL_PX, HEIGHT / 2], [0, 0, 1]])
    return {
        "sample_id": ["one"],
        **{name: (255 * image).round().to(torch.uint8) for name, image in images.items()},
        "color_matrix": torch.eye(3, 4)[None],
        "K": K[None],
        "baseline_m": torch.tensor([BASELINE_M]),
    }


def learn(objective: Any, batch: dict[str, Any], recipe: Recipe, folder: Path) -> float:
    """Train on one batch over and over; returns the last loss as a share of the first."""
    seen = []
    for stage in recipe.all_stages:
        objective.start_stage(stage.train, stage.output)
        stepper = Stepper(objective, recipe, stage, LocalContext(folder))
        for number in range(stage.epochs):
            seen.append(stepper.step(batch, 1.0, number, 1)["loss"].item())
    return seen[-1] / seen[0]


def model_of(family: str, encoder: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    settings = {"min_depth": 0.5, "max_depth": 10.0} | settings
    return build_model(ModelConfig(family, encoder, "scratch", **settings))


SUPERVISED: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], float]] = {
    "resfpn": ({"encoder": "resnet18"}, {"loss": "mse"}, {"epochs": 25, "lr": 1e-3}, 0.2),
    "fastdepth": (
        {"encoder": "mobilenet_v1"},
        {"loss": "l1"},
        {"epochs": 35, "lr": 0.03, "optimizer": "sgd"},
        0.2,
    ),
    "densedepth": (
        {"encoder": "densenet169", "width": 0.25},
        {"loss": "densedepth", "space": "inverse", "at": "native"},
        {"epochs": 35, "lr": 1e-3},
        0.5,
    ),
}


@pytest.mark.parametrize("family", SUPERVISED)
def test_a_supervised_family_learns_one_room(family: str, tmp_path: Path):
    settings, loss, recipe, share = SUPERVISED[family]
    objective = build_objective(
        SupervisedConfig("supervised", **loss), model_of(family, **settings)
    )
    assert learn(objective, room(), Recipe(batch_size=1, **recipe), tmp_path) < share


def test_eigen_learns_one_room_in_two_stages(tmp_path: Path):
    model = model_of("eigen", "vgg16", width=0.125, input_size=(HEIGHT, WIDTH))
    config = SupervisedConfig("supervised", "silog", at="native")
    stages = (Stage(80, train=("scale1", "scale2"), output=1), Stage(60, train=("scale3",)))
    recipe = Recipe(epochs=140, batch_size=1, lr=1e-3, stages=stages)
    assert learn(build_objective(config, model), room(), recipe, tmp_path) < 0.3


@pytest.mark.parametrize(("encoder", "lr"), [("resnet18", 1e-3), ("densenet121", 5e-4)])
def test_monodepth2_finds_the_distance_of_a_wall(encoder: str, lr: float, tmp_path: Path):
    model = model_of("monodepth2", encoder, min_depth=3.0, max_depth=100.0)
    objective = build_objective(SelfSupervisedConfig("self_supervised", "s"), model)
    batch = stereo_wall()
    # What only one of the two sees keeps its error.
    assert learn(objective, batch, Recipe(epochs=30, batch_size=1, lr=lr), tmp_path) < 0.7
    with torch.no_grad():
        depth = objective.model.native_to_depth(model(batch["image"] / 255)[0])
    # What lies near the border is not in both views.
    assert depth[..., 8:-8].median() == pytest.approx(10, rel=0.1)
