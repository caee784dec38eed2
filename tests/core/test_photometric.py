"""The self-supervised loss: its parts by hand, and the whole on a scene of known geometry."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mde.photometric import PhotometricError, min_reprojection, smoothness
from mde.train.objectives import SelfSupervised, SelfSupervisedConfig, build_objective


def random_image(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# --- SSIM -------------------------------------------------------------------------------------


def ssim_error(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return PhotometricError(target).ssim_error(pred[:, None])[:, 0]


def photometric_error(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return PhotometricError(target)(pred)


def ssim_error_by_loops(pred: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(H,W) → (H,W): the formula of Wang et al. 2004 over 3x3 boxes, one pixel at a time."""
    p, t = (np.pad(image.astype(np.float64), 1, mode="reflect") for image in (pred, target))
    error = np.empty(pred.shape)
    for y, x in np.ndindex(pred.shape):
        a, b = p[y : y + 3, x : x + 3].ravel(), t[y : y + 3, x : x + 3].ravel()
        cov = np.cov(a, b, bias=True)
        luminance = (2 * a.mean() * b.mean() + 1e-4) / (a.mean() ** 2 + b.mean() ** 2 + 1e-4)
        structure = (2 * cov[0, 1] + 9e-4) / (cov[0, 0] + cov[1, 1] + 9e-4)
        error[y, x] = np.clip((1 - luminance * structure) / 2, 0, 1)
    return error


def test_ssim_error_is_the_published_formula():
    pred, target = random_image(2, 3, 7, 9), random_image(2, 3, 7, 9, seed=1)
    error = ssim_error(pred, target).numpy()
    for n, c in np.ndindex(2, 3):
        expected = ssim_error_by_loops(pred[n, c].numpy(), target[n, c].numpy())
        np.testing.assert_allclose(error[n, c], expected, atol=1e-5)


def test_ssim_error_is_zero_for_equal_images_and_near_one_for_inverted_ones():
    image = (torch.arange(64).view(1, 1, 8, 8) // 8 + torch.arange(8)) % 2 * 1.0
    assert ssim_error(image, image).abs().max() < 1e-6
    assert ssim_error(image, 1 - image).min() > 0.9


def test_ssim_error_stays_within_zero_and_one():
    error = ssim_error(random_image(4, 3, 16, 16), random_image(4, 3, 16, 16, seed=1))
    assert error.min() >= 0
    assert error.max() <= 1


# --- Photometric error ------------------------------------------------------------------------


def test_photometric_error_of_constant_images_by_hand():
    pred = torch.full((1, 1, 3, 4, 4), 0.5)
    target = torch.full((1, 3, 4, 4), 0.3)
    # Constant images have no variance, so SSIM is its luminance term.
    ssim = (2 * 0.5 * 0.3 + 1e-4) / (0.5**2 + 0.3**2 + 1e-4)
    expected = 0.85 * (1 - ssim) / 2 + 0.15 * 0.2
    error = photometric_error(pred, target)
    assert error.shape == (1, 1, 4, 4)
    torch.testing.assert_close(error, torch.full_like(error, expected), rtol=1e-4, atol=1e-6)


def test_photometric_error_compares_every_source_with_its_own_target():
    target = random_image(2, 3, 8, 8)
    sources = torch.stack([target, target.flip(0)], 1)
    error = photometric_error(sources, target)
    assert error[:, 0].abs().max() < 1e-6
    assert error[:, 1].mean() > 0.1


def test_min_reprojection_takes_the_best_source_of_each_pixel():
    reprojection = torch.tensor([[[[0.1, 0.9]], [[0.8, 0.2]]]])
    value, mask = min_reprojection(reprojection, None)
    assert float(value) == pytest.approx((0.1 + 0.2) / 2)
    assert mask.tolist() == [[[True, True]]]


def test_auto_mask_leaves_out_pixels_that_an_unwarped_source_explains_better():
    reprojection = torch.tensor([[[[0.1, 0.9]], [[0.8, 0.7]]]], requires_grad=True)
    identity = torch.tensor([[[[0.5, 0.6]], [[0.4, 0.3]]]])
    value, mask = min_reprojection(reprojection, identity)
    assert mask.tolist() == [[[True, False]]]
    assert not min_reprojection(identity, identity)[1].any()
    torch.testing.assert_close(value, torch.tensor((0.1 + 0.3) / 2))
    value.backward()
    # Only the winner of a used pixel learns.
    assert reprojection.grad is not None
    assert reprojection.grad.tolist() == [[[[0.5, 0.0]], [[0.0, 0.0]]]]


# --- Smoothness -------------------------------------------------------------------------------


def test_smoothness_is_zero_for_a_constant_disparity():
    assert smoothness(torch.full((2, 1, 6, 6), 0.3), random_image(2, 3, 6, 6)) == 0


def test_smoothness_by_hand():
    disparity = torch.tensor([[[[1.0, 3.0]]]])  # mean 2, so the normalised step is 1
    image = torch.tensor([0.2, 0.7]).expand(1, 3, 1, 2)
    padded = [F.pad(x, (0, 0, 0, 1), mode="replicate") for x in (disparity, image)]
    assert float(smoothness(*padded)) == pytest.approx(np.exp(-0.5), rel=1e-5)


def test_smoothness_does_not_depend_on_the_scale_of_the_disparity():
    disparity, image = 0.1 + random_image(2, 1, 6, 8), random_image(2, 3, 6, 8, seed=1)
    torch.testing.assert_close(smoothness(7 * disparity, image), smoothness(disparity, image))


def test_a_step_costs_less_where_the_image_has_an_edge():
    disparity = torch.ones(1, 1, 4, 8)
    disparity[..., 4:] = 2
    with_edge = torch.zeros(1, 3, 4, 8)
    with_edge[..., 4:] = 1
    on_edge = smoothness(disparity, with_edge)
    assert on_edge < 0.5 * smoothness(disparity, torch.zeros_like(with_edge))
    torch.testing.assert_close(on_edge, smoothness(disparity.mT, with_edge.mT))


# --- The objective on a textured plane --------------------------------------------------------

HEIGHT, WIDTH, FOCAL_PX, DEPTH_M = 32, 64, 40.0, 4.0
SHIFT_PX = 3


class KnownDepth(nn.Module):
    """Returns depth maps that are given, and works in units of two metres."""

    metres_per_unit = 2.0

    def __init__(self, *natives: Tensor) -> None:
        super().__init__()
        self.natives = nn.ParameterList(natives)

    def forward(self, image: Tensor) -> list[Tensor]:
        return list(self.natives)

    def native_to_depth(self, native: Tensor) -> Tensor:
        return native


class KnownMotion(nn.Module):
    """The camera moves by `x` model units to the right from each frame to the next."""

    def __init__(self, x: float) -> None:
        super().__init__()
        self.x = x

    def forward(self, earlier: Tensor, later: Tensor) -> tuple[Tensor, Tensor]:
        # Points move to the left in the frame of a camera that moves to the right.
        translation = torch.tensor([[-self.x, 0.0, 0.0]]).expand(len(earlier), 3)
        return torch.zeros(len(earlier), 3), translation


def plane(scales: int = 1, depth: float = DEPTH_M) -> KnownDepth:
    return KnownDepth(*(torch.full((1, 1, HEIGHT >> s, WIDTH >> s), depth) for s in range(scales)))


def texture() -> Tensor:
    """(3,H,W+2·SHIFT): blurred noise, so that bilinear sampling costs little."""
    noise = random_image(1, 3, HEIGHT, WIDTH + 2 * SHIFT_PX, seed=3)
    return F.avg_pool2d(F.pad(noise, (2, 2, 2, 2), mode="reflect"), 5, 1)[0]


def view(camera_right_px: int) -> Tensor:
    """What a camera sees that stands so much to the right that the plane moves by that many px."""
    start = SHIFT_PX + camera_right_px
    return (texture()[None, :, :, start : start + WIDTH] * 255).round().to(torch.uint8)


def plane_batch() -> dict[str, Tensor]:
    step_m = SHIFT_PX * DEPTH_M / FOCAL_PX
    K = torch.tensor([[FOCAL_PX, 0, WIDTH / 2], [0, FOCAL_PX, HEIGHT / 2], [0, 0, 1]])
    return {
        "image": view(0),
        "image_prev": view(-SHIFT_PX),
        "image_next": view(SHIFT_PX),
        "image_stereo": view(SHIFT_PX),
        "color_matrix": torch.eye(3, 4)[None],
        "K": K[None],
        "baseline_m": torch.tensor([step_m]),
    }


def objective(mode: str, model: nn.Module, automask: bool = False, step: float = 1) -> nn.Module:
    config = SelfSupervisedConfig("self_supervised", mode, automask=automask)  # type: ignore[arg-type]
    step_units = step * SHIFT_PX * DEPTH_M / FOCAL_PX / KnownDepth.metres_per_unit
    return build_objective(config, model, KnownMotion(step_units))


@pytest.mark.parametrize("mode", ["m", "s", "ms"])
def test_true_depth_and_pose_explain_the_views(mode: str):
    terms = objective(mode, plane(4))(plane_batch())
    # What remains is the strip of 3 in 64 columns that a source does not see.
    assert terms["photometric"] < 0.01
    assert terms["smoothness"] < 1e-6


def test_a_baseline_of_the_wrong_sign_does_not():
    batch = plane_batch()
    right = objective("s", plane())(batch)["photometric"]
    wrong = objective("s", plane())(batch | {"baseline_m": -batch["baseline_m"]})["photometric"]
    assert wrong > 8 * right


def test_a_motion_of_the_wrong_sign_does_not():
    batch = plane_batch()
    right = objective("m", plane())(batch)["photometric"]
    assert objective("m", plane(), step=-1)(batch)["photometric"] > 8 * right


@pytest.mark.parametrize("factor", [0.7, 1.4])
def test_a_wrong_depth_costs_more_and_its_gradient_points_to_the_true_one(factor: float):
    model = plane(depth=factor * DEPTH_M)
    loss = objective("s", model)(plane_batch())["photometric"]
    assert loss > 3 * objective("s", plane())(plane_batch())["photometric"]
    # Near the optimum the texture is smooth enough for the gradient to be right.
    near = plane(depth=(1 + 0.1 * (factor - 1)) * DEPTH_M)
    objective("s", near)(plane_batch())["photometric"].backward()
    assert (near.natives[0].grad.sum() > 0) == (factor > 1)


def test_auto_mask_drops_everything_when_nothing_moves_and_keeps_what_does():
    batch = plane_batch()
    still = batch | {"image_stereo": batch["image"]}
    torch.manual_seed(0)
    assert objective("s", plane(), automask=True)(still)["automask"] < 0.05
    assert objective("s", plane(), automask=True)(batch)["automask"] > 0.9


def test_colour_jitter_reaches_the_networks_and_not_the_loss():
    seen: list[Tensor] = []
    model = plane()
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    batch = plane_batch()
    clean = objective("s", model)(batch)["photometric"]
    jittered = objective("s", model)(batch | {"color_matrix": 0.5 * torch.eye(3, 4)[None]})
    torch.testing.assert_close(seen[1], 0.5 * seen[0])
    torch.testing.assert_close(jittered["photometric"], clean)


def test_poses_are_exact_float32_inside_autocast():
    mode = objective("m", plane(), step=1.2345)
    assert isinstance(mode, SelfSupervised)
    black = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    batch = {key: black for key in ("image", "image_prev", "image_next")}
    batch |= {"color_matrix": torch.eye(3, 4)[None], "K": torch.eye(3)[None]}
    # The poses are what this is about, not what is made of them.
    mode.view_synthesis = lambda natives, target, sources, poses, K: {"poses": poses}
    expected = mode(batch)["poses"]
    with torch.autocast("cpu", torch.bfloat16):
        poses = mode(batch)["poses"]
    torch.testing.assert_close(poses, expected, rtol=1e-6, atol=0)


def test_neighbours_need_a_pose_network():
    with pytest.raises(ValueError, match="pose network"):
        build_objective(SelfSupervisedConfig("self_supervised", "ms"), plane(), None)
