"""The self-supervised mode: its contract, each switch by hand, and a scene of known geometry."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mde.intrinsics import resize_K
from mde.models import ModelConfig, build_mask, build_model, build_pose
from mde.train.objectives import SelfSupervised, SelfSupervisedConfig, build_objective

HEIGHT, WIDTH, FOCAL_PX, DEPTH_M = 32, 64, 40.0, 4.0
SHIFT_PX = 3
METRES_PER_UNIT = 2.0
STEP_M = SHIFT_PX * DEPTH_M / FOCAL_PX
SWITCHES: dict[str, dict[str, Any]] = {
    "monodepth2": {},
    "no_automask": {"automask": False},
    "average": {"reprojection": "average"},
    "l1": {"ssim": False},
    "native": {"multiscale": "native"},
    "predictive": {"automask": False, "predictive_mask": True},
    "predictive_native_average": {
        "automask": False, "predictive_mask": True, "multiscale": "native",
        "reprojection": "average",
    },
}  # fmt: skip
every_switch = pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES.keys())


class KnownMaps(nn.Module):
    """Gives maps that it was given, whatever it sees."""

    def __init__(self, *maps: Tensor) -> None:
        super().__init__()
        self.maps = nn.ParameterList(maps)

    def forward(self, features: Any) -> list[Tensor]:
        return list(self.maps)


class KnownDepth(nn.Module):
    """A depth model that knows the depth, and works in units of two metres."""

    metres_per_unit = METRES_PER_UNIT

    def __init__(self, *natives: Tensor) -> None:
        super().__init__()
        self.encoder = nn.Identity()
        self.decoder = KnownMaps(*natives)

    def forward(self, image: Tensor) -> list[Tensor]:
        return self.decoder(self.encoder(image))

    def native_to_depth(self, native: Tensor) -> Tensor:
        return native

    def check_size(self, image: Tensor) -> None:
        pass


class KnownMotion(nn.Module):
    """The camera moves by `step` (x, y, z) model units from each frame to the next."""

    def __init__(self, step: tuple[float, float, float]) -> None:
        super().__init__()
        # Points move against the camera.
        self.translation = nn.Parameter(-torch.tensor([step]))

    def forward(self, earlier: Tensor, later: Tensor) -> tuple[Tensor, Tensor]:
        translation = self.translation.expand(len(earlier), 3)
        return torch.zeros_like(translation), translation


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def build(
    mode: str, natives: list[Tensor], masks: list[Tensor] | None = None, step_m: float = STEP_M,
    **switches: Any,
) -> SelfSupervised:  # fmt: skip
    config = SelfSupervisedConfig("self_supervised", mode, **switches)  # type: ignore[arg-type]
    if config.needs_mask and masks is None:
        masks = [
            torch.sigmoid(random(len(native), config.num_sources, *native.shape[-2:], seed=9))
            for native in natives
        ]
    pose = KnownMotion((step_m / METRES_PER_UNIT, 0.0, 0.0))
    mask = KnownMaps(*masks) if masks is not None else None
    objective = build_objective(config, KnownDepth(*natives), pose, mask)
    assert isinstance(objective, SelfSupervised)
    return objective


def planes(scales: int = 1, depth: float = DEPTH_M, batch: int = 1) -> list[Tensor]:
    return [torch.full((batch, 1, HEIGHT >> s, WIDTH >> s), depth) for s in range(scales)]


def hills(scales: int = 4, batch: int = 1) -> list[Tensor]:
    return [3 + random(batch, 1, HEIGHT >> s, WIDTH >> s, seed=s) for s in range(scales)]


def view(camera_right_px: int) -> Tensor:
    """What a camera sees that stands so much to the right that the plane moves by that many px."""
    # Blurred noise, so that bilinear sampling costs little.
    noise = random(1, 3, HEIGHT, WIDTH + 2 * SHIFT_PX, seed=3)
    texture = F.avg_pool2d(F.pad(noise, (2, 2, 2, 2), mode="reflect"), 5, 1)
    start = SHIFT_PX + camera_right_px
    return (texture[..., start : start + WIDTH] * 255).round().to(torch.uint8)


def make_batch(images: list[Tensor], baseline_m: float = STEP_M) -> dict[str, Tensor]:
    """images: target, previous, next, stereo (B,3,H,W) uint8."""
    size = len(images[0])
    K = torch.tensor([[FOCAL_PX, 0, WIDTH / 2], [0, FOCAL_PX, HEIGHT / 2], [0, 0, 1]])
    keys = ("image", "image_prev", "image_next", "image_stereo")
    return dict(zip(keys, images, strict=True)) | {
        "color_matrix": torch.eye(3, 4).repeat(size, 1, 1),
        "K": K.repeat(size, 1, 1),
        "baseline_m": torch.full((size,), baseline_m),
    }


def plane_batch() -> dict[str, Tensor]:
    return make_batch([view(0), view(-SHIFT_PX), view(SHIFT_PX), view(SHIFT_PX)])


def noise_batch(size: int, height: int = HEIGHT, width: int = WIDTH) -> dict[str, Tensor]:
    images = (255 * random(4, size, 3, height, width, seed=5)).to(torch.uint8)
    return make_batch(list(images))


def grey_batch(*greys: int) -> dict[str, Tensor]:
    """Images of one grey each, so that a warp changes nothing."""
    return make_batch([torch.full((1, 3, HEIGHT, WIDTH), g, dtype=torch.uint8) for g in greys])


def gradients(objective: SelfSupervised, term: Tensor) -> list[Tensor]:
    params = list(objective.parameters())
    grads = torch.autograd.grad(term, params, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(params, grads, strict=True)]


# --- The contract of every loss ---------------------------------------------------------------


@every_switch
@pytest.mark.parametrize("grey", [0, 128, 255])
def test_value_and_gradient_are_finite_at_a_perfect_prediction(switches, grey: int):
    objective = build("ms", hills(), **switches)
    terms = objective(grey_batch(grey, grey, grey, grey))
    assert terms["photometric"].item() == pytest.approx(0, abs=1e-6)
    assert all(torch.isfinite(term) for term in terms.values())
    assert all(torch.isfinite(g).all() for g in gradients(objective, terms["loss"]))


@every_switch
def test_the_order_of_the_batch_does_not_matter(switches):
    order, batch, natives = torch.tensor([2, 0, 1]), noise_batch(3), hills(batch=3)
    straight = build("ms", natives, **switches)
    masks = [m.detach() for m in straight.mask.maps] if straight.mask else None
    turned = build(
        "ms", [n[order] for n in natives], masks and [m[order] for m in masks], **switches
    )
    terms = straight(batch)
    turned_terms = turned({key: values[order] for key, values in batch.items()})
    torch.testing.assert_close(turned_terms, terms)
    pairs = zip(
        torch.autograd.grad(terms["loss"], list(straight.model.decoder.maps)),
        torch.autograd.grad(turned_terms["loss"], list(turned.model.decoder.maps)),
        strict=True,
    )
    for expected, found in pairs:
        torch.testing.assert_close(found, expected[order])


@every_switch
def test_is_computed_in_float32_inside_autocast(switches):
    objective, batch = build("ms", hills(), **switches), noise_batch(1)
    expected = objective(batch)
    with torch.autocast("cpu", torch.bfloat16):
        terms = objective(batch)
    assert {term.dtype for term in terms.values()} == {torch.float32}
    torch.testing.assert_close(terms, expected, rtol=1e-6, atol=0)


@every_switch
def test_takes_bfloat16_maps_and_computes_in_float32(switches):
    rounded = [native.bfloat16() for native in hills()]
    objective = build("s", rounded, **switches)
    expected = build("s", [native.float() for native in rounded], **switches)
    torch.testing.assert_close(objective(noise_batch(1)), expected(noise_batch(1)))


def test_what_no_ray_reaches_changes_nothing():
    batch = plane_batch()
    objective = build("s", planes(4), automask=False)
    expected = objective(batch)
    # The plane moves by three pixels to the left, so nothing looks at the last three columns.
    stereo = batch["image_stereo"].clone()
    stereo[..., -SHIFT_PX:] = 255 - stereo[..., -SHIFT_PX:]
    torch.testing.assert_close(objective(batch | {"image_stereo": stereo}), expected)
    stereo[..., -SHIFT_PX - 1] = 255 - stereo[..., -SHIFT_PX - 1]
    changed = objective(batch | {"image_stereo": stereo})
    assert changed["photometric"] > 1.1 * expected["photometric"]


@pytest.mark.parametrize("reprojection", ["min", "average"])
def test_masked_pixels_pull_nothing(reprojection: str):
    batch = plane_batch()
    still = {key: batch["image"] for key in ("image_prev", "image_next", "image_stereo")}
    objective = build("ms", hills(), reprojection=reprojection)
    terms = objective(batch | still)
    assert terms["automask"] == 0
    assert all((g == 0).all() for g in gradients(objective, terms["photometric"]))
    moving = objective(batch)
    assert any((g != 0).any() for g in gradients(objective, moving["photometric"]))


@pytest.mark.parametrize("depth_m", [1e-3, STEP_M, 1e4])
def test_points_at_the_camera_and_far_away_keep_it_finite(depth_m: float):
    config = SelfSupervisedConfig("self_supervised", "m", automask=False)
    # The camera drives through what is nearer than its step.
    pose = KnownMotion((0.0, 0.0, STEP_M / METRES_PER_UNIT))
    objective = build_objective(config, KnownDepth(*planes(4, depth_m)), pose)
    terms = objective(noise_batch(1))
    assert all(torch.isfinite(term) for term in terms.values())
    assert all(torch.isfinite(g).all() for g in gradients(objective, terms["loss"]))


# --- Each switch by hand ----------------------------------------------------------------------

# 0.4 against 0.2, 0.6 and 0.8: errors of 0.2, 0.2 and 0.4.
GREYS = (102, 51, 153, 204)


@pytest.mark.parametrize("multiscale", ["full", "native"])
def test_reprojection_min_or_average_of_plain_l1_by_hand(multiscale: str):
    switches = {"automask": False, "ssim": False, "multiscale": multiscale}
    least = build("ms", planes(4), **switches)(grey_batch(*GREYS))
    mean = build("ms", planes(4), **switches, reprojection="average")(grey_batch(*GREYS))
    assert least["loss"].item() == pytest.approx(0.2)
    assert mean["loss"].item() == pytest.approx((0.2 + 0.2 + 0.4) / 3)
    assert least["automask"] == mean["automask"] == 1


def test_ssim_and_l1_by_hand():
    def error(a: float, b: float) -> float:
        # Images of one grey have no variance, so SSIM is its luminance term.
        ssim = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
        return 0.85 * (1 - ssim) / 2 + 0.15 * abs(a - b)

    terms = build("s", planes(), automask=False)(grey_batch(*GREYS))
    assert terms["photometric"].item() == pytest.approx(error(0.4, 0.8), rel=1e-4)


@pytest.mark.parametrize("multiscale", ["full", "native"])
@pytest.mark.parametrize(("reprojection", "expected"), [("min", 0.1), ("average", 0.4 / 3)])
def test_predictive_mask_weights_the_sources_by_hand(multiscale, reprojection, expected):
    weights = torch.tensor([0.5, 1.0, 0.25])
    masks = [weights.view(1, 3, 1, 1).expand(1, 3, HEIGHT >> s, WIDTH >> s) for s in range(4)]
    objective = build(
        "ms", planes(4), masks, automask=False, predictive_mask=True, ssim=False,
        multiscale=multiscale, reprojection=reprojection,
    )  # fmt: skip
    terms = objective(grey_batch(*GREYS))
    # Errors 0.2, 0.2, 0.4 become 0.1, 0.2, 0.1.
    assert terms["photometric"].item() == pytest.approx(expected)
    penalty = (math.log(2) + 0 + math.log(4)) / 3
    assert terms["mask"].item() == pytest.approx(penalty)
    assert terms["loss"].item() == pytest.approx(expected + 0.2 * penalty)


def test_predictive_mask_hides_what_cannot_be_explained_and_shows_what_can():
    masks = [torch.full((1, 2, HEIGHT, WIDTH), 0.5)]
    switches = {"automask": False, "predictive_mask": True, "reprojection": "average"}
    objective = build("m", planes(), masks, **switches)
    batch = plane_batch() | {"image_next": 255 - plane_batch()["image_next"]}
    objective(batch)["photometric"].backward()
    (gradient,) = (parameter.grad for parameter in objective.mask.parameters())
    shown, hidden = gradient.mean((0, 2, 3))
    assert hidden > 10 * shown > 0


def test_smoothness_halves_with_every_scale_by_hand():
    # Disparities 1 and 3 in turn: steps of 1 once their mean is 1; no edges in the image.
    natives = [1 + 2 * (torch.arange(WIDTH >> s) % 2).float() for s in range(4)]
    maps = [row.expand(1, 1, HEIGHT >> s, WIDTH >> s) for s, row in enumerate(natives)]
    terms = build("s", maps, automask=False, smoothness=0.1)(grey_batch(102, 102, 102, 102))
    assert terms["smoothness"].item() == pytest.approx((1 + 1 / 2 + 1 / 4 + 1 / 8) / 4)
    assert terms["loss"].item() == pytest.approx(0.1 * terms["smoothness"].item(), rel=1e-5)


def test_native_scales_see_averaged_images_by_hand():
    # One pixel of each 4x4 block is 240, the others are 0: their mean is 15.
    dots = torch.zeros(1, 3, HEIGHT, WIDTH, dtype=torch.uint8)
    dots[..., ::4, ::4] = 240
    batch = grey_batch(0, 0, 0, 15) | {"image": dots}
    quarter = [plane[..., ::4, ::4] for plane in planes()]
    full = build("s", quarter, automask=False, ssim=False)(batch)
    native = build("s", quarter, automask=False, ssim=False, multiscale="native")(batch)
    by_hand = (225 / 255 + 15 * 15 / 255) / 16
    assert full["photometric"].item() == pytest.approx(by_hand)
    assert native["photometric"].item() == pytest.approx(0, abs=1e-6)


def test_a_native_scale_is_the_loss_of_a_smaller_data_set():
    small = noise_batch(1)
    small = {key: v[..., ::2, ::2] if "image" in key else v for key, v in small.items()}
    large = dict(small)
    for key in ("image", "image_prev", "image_next", "image_stereo"):
        large[key] = small[key].repeat_interleave(2, -2).repeat_interleave(2, -1)
    K = resize_K(large["K"][0].numpy(), (HEIGHT, WIDTH), (HEIGHT // 2, WIDTH // 2))
    small["K"] = torch.from_numpy(K.astype(np.float32))[None]
    half = [native[..., ::2, ::2] for native in hills(1)]
    expected = build("ms", half)(small)
    found = build("ms", half, multiscale="native")(large)
    torch.testing.assert_close(found, expected)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(build("ms", half)(large), expected)


@pytest.fixture(scope="module")
def networks() -> tuple[nn.Module, nn.Module, nn.Module]:
    """The real depth, pose and mask network."""
    torch.manual_seed(0)
    config = ModelConfig("monodepth2", "resnet18", "scratch", 0.1, 100.0)
    model = build_model(config)
    return model, build_pose(config), build_mask(model, num_sources=2)


def learning_parts(config: SelfSupervisedConfig, networks: tuple[nn.Module, ...]) -> set[str]:
    """Names of the networks of which every parameter, not just some, gets a gradient."""
    networks[0].requires_grad_(True)
    objective = build_objective(config, *networks)
    objective.zero_grad()
    terms = objective(noise_batch(2, 64, 64))
    scales = [f"{name}_{s}" for name in ("photometric", "smoothness") for s in range(4)]
    assert list(terms) == ["loss", "photometric", "smoothness", "automask", "mask", *scales]
    terms["loss"].backward()
    model = objective.model
    parts = {"encoder": model.encoder, "decoder": model.decoder, "pose": objective.pose,
             "mask": objective.mask}  # fmt: skip
    grads = {name: [p.grad is not None for p in part.parameters()] for name, part in parts.items()}
    assert all(any(found) == all(found) for found in grads.values())
    assert {name for name, part in parts.items() if part.training} == {
        name for name, found in grads.items() if all(found)
    }
    return {name for name, found in grads.items() if all(found)}


@pytest.mark.parametrize("freeze_encoder", [False, True])
def test_every_network_learns_but_a_frozen_encoder(networks, freeze_encoder: bool):
    config = SelfSupervisedConfig(
        "self_supervised", "m", automask=False, predictive_mask=True,
        freeze_encoder=freeze_encoder,
    )  # fmt: skip
    learning = {"encoder", "decoder", "pose", "mask"} - ({"encoder"} if freeze_encoder else set())
    assert learning_parts(config, networks) == learning


# --- A textured plane of known geometry -------------------------------------------------------


# Small images of noise are rough for fractions of a pixel.
@pytest.mark.parametrize(
    ("multiscale", "scales", "limit"), [("full", 4, 0.01), ("native", 2, 0.03)]
)
@pytest.mark.parametrize("mode", ["m", "s", "ms"])
def test_true_depth_and_pose_explain_the_views(mode, multiscale, scales, limit):
    terms = build(mode, planes(scales), automask=False, multiscale=multiscale)(plane_batch())
    # What remains is the strip of 3 in 64 columns that a source does not see.
    assert terms["photometric"] < limit
    assert terms["smoothness"] < 1e-6


def test_a_baseline_of_the_wrong_sign_does_not():
    batch, objective = plane_batch(), build("s", planes(), automask=False)
    right = objective(batch)["photometric"]
    assert objective(batch | {"baseline_m": -batch["baseline_m"]})["photometric"] > 8 * right


def test_a_motion_of_the_wrong_sign_does_not():
    right, wrong = (
        build("m", planes(), automask=False, step_m=step)(plane_batch())["photometric"]
        for step in (STEP_M, -STEP_M)
    )
    assert wrong > 8 * right


@pytest.mark.parametrize("factor", [0.7, 1.4])
def test_a_wrong_depth_costs_more_and_its_gradient_points_to_the_true_one(factor: float):
    loss = build("s", planes(depth=factor * DEPTH_M), automask=False)(plane_batch())["photometric"]
    assert loss > 3 * build("s", planes(), automask=False)(plane_batch())["photometric"]
    # Near the optimum the texture is smooth enough for the gradient to be right.
    near = build("s", planes(depth=(1 + 0.1 * (factor - 1)) * DEPTH_M), automask=False)
    (gradient,) = gradients(near, near(plane_batch())["photometric"])[:1]
    assert (gradient.sum() > 0) == (factor > 1)


@pytest.mark.parametrize("reprojection", ["min", "average"])
def test_auto_mask_drops_everything_when_nothing_moves_and_keeps_what_does(reprojection: str):
    batch, objective = plane_batch(), build("s", planes(), reprojection=reprojection)
    assert objective(batch | {"image_stereo": batch["image"]})["automask"] < 0.05
    assert objective(batch)["automask"] > 0.9


def test_colour_jitter_reaches_the_networks_and_not_the_loss():
    seen: list[Tensor] = []
    objective, batch = build("ms", planes()), plane_batch()
    objective.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    objective.pose.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    clean = objective(batch)["photometric"]
    # The depth network sees the target, the pose network both pairs in the order of time.
    order = ("image", "image_prev", "image", "image", "image_next")
    torch.testing.assert_close(seen, [batch[key] / 255 for key in order])
    jittered = objective(batch | {"color_matrix": 0.5 * torch.eye(3, 4)[None]})
    torch.testing.assert_close(seen[5:], [0.5 * image for image in seen[:5]])
    torch.testing.assert_close(jittered["photometric"], clean)


# --- What it refuses --------------------------------------------------------------------------


def test_neighbours_need_a_pose_network_and_a_predictive_mask_its_network():
    config = SelfSupervisedConfig("self_supervised", "ms")
    with pytest.raises(ValueError, match="pose network"):
        build_objective(config, KnownDepth(*planes()))
    config = SelfSupervisedConfig("self_supervised", "s", automask=False, predictive_mask=True)
    with pytest.raises(ValueError, match="mask network"):
        build_objective(config, KnownDepth(*planes()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "x"}, "mode: found 'x', allowed: m, s, ms"),
        ({"reprojection": "max"}, "reprojection: found 'max', allowed: min, average"),
        ({"multiscale": "v1"}, "multiscale: found 'v1', allowed: full, native"),
        ({"smoothness": -1.0}, "smoothness: found -1.0, allowed: 0 or more"),
        ({"smoothness": math.nan}, "smoothness: found nan"),
        ({"predictive_mask": True}, "predictive_mask: .* automask false"),
    ],
)
def test_senseless_configurations_are_refused(changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        SelfSupervisedConfig(**{"kind": "self_supervised", "mode": "ms", **changes})


@pytest.mark.parametrize(("mode", "num_sources"), [("m", 2), ("s", 1), ("ms", 3)])
def test_the_configuration_tells_what_its_mode_needs(mode: str, num_sources: int):
    config = SelfSupervisedConfig("self_supervised", mode)  # type: ignore[arg-type]
    assert config.num_sources == num_sources
    assert config.needs_pose == ("m" in mode)
    assert ("image_stereo" in config.images) == ("s" in mode)
    assert not config.needs_mask
    masked = SelfSupervisedConfig("self_supervised", "m", automask=False, predictive_mask=True)
    assert masked.needs_mask
