"""On the built-in sample, true depth and poses explain the images; small mistakes do not."""

from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mde import geometry
from mde.data.scenes.kitti_text import calibration_files
from mde.data.scenes.raycast import Camera, Frame
from mde.data.scenes.streets import Drive
from mde.data.sources.kitti.calibration import read_calibration
from mde.intrinsics import crop_K, flip_K, resize_K
from mde.photometric import PhotometricError
from mde.train.objectives import SelfSupervised, SelfSupervisedConfig

HEIGHT, WIDTH, CUT = 96, 256, 64
METRES_PER_UNIT = 5.4
VIEWS = {"image": (3, "image_02"), "image_prev": (2, "image_02"),
         "image_next": (4, "image_02"), "image_stereo": (3, "image_03")}  # fmt: skip
MODES = pytest.mark.parametrize("mode", ["m", "s", "ms"])


class SmallDrive(Drive):
    """Seen in a quarter of the size, without the left fifth: the centre is off the middle."""

    def camera(self, frame: int, camera: str) -> Camera:
        """The camera of `Drive` after resize and crop."""
        full = super().camera(frame, camera)
        K = crop_K(resize_K(full.K, (full.height, full.width), (HEIGHT, WIDTH + CUT)), 0, CUT)
        return Camera(K, full.T_cam_world, WIDTH, HEIGHT)


@cache
def frames() -> dict[str, Frame]:
    drive = SmallDrive(seed=3, index=0, num_frames=6)
    return {key: drive.frame(*place) for key, place in VIEWS.items()}


def true_depth() -> Tensor:
    """(1,1,H,W) m; the sky is far away."""
    depth = frames()["image"].depth
    return torch.from_numpy(np.where(np.isfinite(depth), depth, 1e4))[None, None]


def true_motion(earlier: str, later: str) -> Tensor:
    """(4,4): points of the earlier frame → the later one."""
    T = frames()[later].T_cam_world @ np.linalg.inv(frames()[earlier].T_cam_world)
    return torch.from_numpy(T).float()


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A training batch; the baseline comes from the calibration that is written to disk."""
    folder = tmp_path_factory.mktemp("calibration")
    for name, text in calibration_files().items():
        (folder / name).write_text(text)
    calibration = read_calibration(Path(folder), "calib_cam_to_cam.txt", "")
    K = crop_K(resize_K(calibration.K(2), calibration.sizes[2], (HEIGHT, WIDTH + CUT)), 0, CUT)
    images = {
        key: torch.from_numpy(frame.image.transpose(2, 0, 1).copy())[None]
        for key, frame in frames().items()
    }
    return images | {
        "color_matrix": torch.eye(3, 4)[None],
        "K": torch.from_numpy(K).float()[None],
        "baseline_m": torch.tensor([calibration.baseline_m(2, 3)]),
    }


class TrueDepth(nn.Module):
    """A depth model that knows the depth."""

    metres_per_unit = METRES_PER_UNIT

    def __init__(self, depth: Tensor) -> None:
        super().__init__()
        self.depth = depth

    def forward(self, image: Tensor) -> list[Tensor]:
        return [self.depth]

    def native_to_depth(self, native: Tensor) -> Tensor:
        return native


class TrueMotion(nn.Module):
    """A pose network that knows both motions, which come in the order of time."""

    def __init__(self, *motions: Tensor) -> None:
        super().__init__()
        self.motions = motions
        self.calls = 0

    def forward(self, earlier: Tensor, later: Tensor) -> tuple[Tensor, Tensor]:
        T = self.motions[self.calls % 2]
        self.calls += 1
        axis_angle, _ = cv2.Rodrigues(T[:3, :3].double().numpy())
        return torch.from_numpy(axis_angle).float().view(1, 3), T[None, :3, 3] / METRES_PER_UNIT


def config(mode: str) -> SelfSupervisedConfig:
    return SelfSupervisedConfig("self_supervised", mode, automask=False)  # type: ignore[arg-type]


def objective(mode: str, depth: Tensor | None = None, invert: bool = False) -> SelfSupervised:
    motions = [true_motion("image_prev", "image"), true_motion("image", "image_next")]
    if invert:
        motions = [torch.linalg.inv(T) for T in motions]
    model = TrueDepth(true_depth() if depth is None else depth)
    return SelfSupervised(config(mode), model, TrueMotion(*motions))


def error(objective: SelfSupervised, batch: dict[str, Any]) -> float:
    """Median over pixels of the best source's error: occlusions and borders weigh little."""
    images = {key: batch[key] / 255 for key in objective.config.images}
    poses = objective.source_poses(objective.source_motions(images), batch)
    target, *sources = images.values()
    warped = geometry.warp(torch.stack(sources, 1), objective.model.depth, batch["K"], poses)
    return PhotometricError(target)(warped).amin(1).median().item()


def with_K(batch: dict[str, Any], K: np.ndarray) -> dict[str, Any]:
    return batch | {"K": torch.from_numpy(K).float()[None]}


def K_of(batch: dict[str, Any]) -> np.ndarray:
    return batch["K"][0].double().numpy()


@MODES
def test_poses_of_the_mode_are_those_of_the_cameras(batch, mode: str):
    mode_objective = objective(mode)
    keys = mode_objective.config.images
    images = {key: batch[key] / 255 for key in keys}
    poses = mode_objective.source_poses(mode_objective.source_motions(images), batch)[0]
    expected = torch.stack([true_motion("image", key) for key in keys[1:]])
    # Real cameras are not quite side by side: 3 mm in height.
    torch.testing.assert_close(poses, expected, rtol=0, atol=4e-3)


@MODES
def test_true_depth_and_poses_explain_the_target(batch, mode: str):
    still = objective(mode, torch.full_like(true_depth(), 1e9))
    assert error(objective(mode), batch) < 0.01
    # Seen from nowhere else, nothing moves: what the auto-mask compares with.
    assert error(still, batch) > 5 * error(objective(mode), batch)
    terms = objective(mode)(batch)
    assert terms["photometric"] < 0.06


@MODES
def test_inverted_motions_and_baselines_do_not(batch, mode: str):
    wrong = batch | {"baseline_m": -batch["baseline_m"]}
    assert error(objective(mode, invert=True), wrong) > 10 * error(objective(mode), batch)


@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_a_wrong_focal_length_shows_in_stereo(batch, factor: float):
    # Driving straight ahead hides it: u - cx grows by z / z' whatever the focal length.
    K = np.diag([factor, 1, 1]) @ K_of(batch)
    K[0, 2] = K_of(batch)[0, 2]
    assert error(objective("s"), with_K(batch, K)) > 5 * error(objective("s"), batch)


def test_a_wrong_centre_shows_when_driving(batch):
    # Side by side hides it: a disparity is f b / z wherever the centre is.
    K = K_of(batch)
    K[0, 2] = WIDTH - 1 - K[0, 2]
    assert error(objective("m"), with_K(batch, K)) > 4 * error(objective("m"), batch)


@pytest.mark.parametrize("factor", [0.7, 1.4])
@MODES
def test_a_wrong_depth_does_not(batch, mode: str, factor: float):
    right = error(objective(mode), batch)
    assert error(objective(mode, factor * true_depth()), batch) > 3 * right


def test_a_flipped_sample_needs_a_flipped_centre_and_baseline(batch):
    flipped = batch | {key: batch[key].flip(-1) for key in VIEWS}
    mirror = np.diag([-1.0, 1, 1, 1])
    motions = [
        torch.from_numpy(mirror @ true_motion(*pair).numpy() @ mirror).float()
        for pair in (("image_prev", "image"), ("image", "image_next"))
    ]
    stereo, driving = (
        SelfSupervised(config(mode), TrueDepth(true_depth().flip(-1)), TrueMotion(*motions))
        for mode in ("s", "m")
    )
    right = with_K(flipped, flip_K(K_of(batch), WIDTH)) | {"baseline_m": -batch["baseline_m"]}
    assert error(stereo, right) == pytest.approx(error(objective("s"), batch), rel=0.05)
    assert error(driving, right) == pytest.approx(error(objective("m"), batch), rel=0.05)
    assert error(stereo, right | {"baseline_m": batch["baseline_m"]}) > 8 * error(stereo, right)
    assert error(driving, right | {"K": batch["K"]}) > 4 * error(driving, right)
