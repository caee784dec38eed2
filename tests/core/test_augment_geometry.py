"""Crop, zoom, rotation and size: one matrix for pixels, depth and K, so a 3D point stays itself."""

import cv2
import numpy as np
import pytest

from mde.data.augment import Augment, load_sample, placement
from mde.data.codecs import LOSSLESS, encode_depth, encode_image

H, W = 60, 80
K = np.array([[70.0, 0, 41], [0, 72, 28], [0, 0, 1]])
POINTS = np.array([[0.1, 0.05, 2.0], [-0.3, 0.1, 3.0], [0.2, -0.25, 2.5]])
STILL = {"flip": 0.0, "color": 0.0}


def blob(u: float, v: float) -> np.ndarray:
    """A soft white spot at (u, v)."""
    rows, columns = np.mgrid[:H, :W]
    spot = 255 * np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / 8)
    return np.repeat(spot[..., None], 3, -1).astype(np.uint8)


def project(K: np.ndarray, point: np.ndarray) -> np.ndarray:
    return (K @ point)[:2] / point[2]


def centre(image: np.ndarray) -> np.ndarray:
    weights = image[..., 0].astype(float) ** 2
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    return np.array([(columns * weights).sum(), (rows * weights).sum()]) / weights.sum()


@pytest.fixture
def spot_row(make_row):
    """The row whose image is a spot where `point` is seen, at its depth."""

    def make(point: np.ndarray):
        return make_row(
            height=H,
            width=W,
            image=encode_image(blob(*project(K, point)), lossless=True),
            depth=encode_depth(np.full((H, W), point[2]), LOSSLESS),
            depth_scale=LOSSLESS,
            K=K.ravel().tolist(),
        )

    return make


def load(row, augment: Augment, epoch: int = 0) -> dict:
    return load_sample(row, ("image",), True, augment, [0, epoch])


SETTINGS = [
    {"height": 60, "width": 80},
    {"height": 30, "width": 40},
    {"height": 48, "width": 48},
    {"height": 90, "width": 160, "crop": 0.8},
    {"zoom": 1.5},
    {"rotate": 10.0},
    {"height": 56, "width": 56, "crop": 0.9, "zoom": 1.3, "rotate": 5.0},
]


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("point", POINTS, ids=str)
def test_a_point_is_seen_where_the_new_k_projects_it(spot_row, setting, flip, point):
    sample = load(spot_row(point), Augment(**setting, flip=flip, color=0))
    # In the mirror x points the other way.
    seen = project(sample["K"], point * [-1 if flip else 1, 1, 1])
    np.testing.assert_allclose(centre(sample["image"]), seen, atol=0.35)


def test_zoom_divides_depth_by_the_factor_by_which_the_image_grows(spot_row):
    row = spot_row(POINTS[0])
    factors = []
    for epoch in range(20):
        sample = load(row, Augment(zoom=1.5, **STILL), epoch)
        factor = sample["K"][0, 0] / K[0, 0]
        np.testing.assert_allclose(sample["depth"], 2.0 / factor, rtol=1e-5)
        factors.append(factor)
    assert 1 <= min(factors) < 1.15
    assert 1.35 < max(factors) <= 1.5


def test_what_rotation_brings_in_from_outside_is_black_and_has_no_depth(spot_row):
    row = spot_row(POINTS[0]) | {"image": encode_image(np.full((H, W, 3), 200, np.uint8))}
    shares = []
    for epoch in range(5):
        sample = load(row, Augment(rotate=30, **STILL), epoch)
        outside = sample["depth"] == 0
        shares.append(outside.mean())
        assert set(np.unique(sample["depth"])) == {0.0, 2.0}
        inner = cv2.erode(outside.astype(np.uint8), np.ones((3, 3))) > 0
        assert sample["image"][inner].max(initial=0) < 20
    assert 0.05 < max(shares) < 0.4


def test_rotation_is_within_its_limit_to_both_sides(spot_row):
    turns = []
    for epoch in range(30):
        A = load(spot_row(POINTS[0]), Augment(rotate=10, **STILL), epoch)["K"] @ np.linalg.inv(K)
        turns.append(np.degrees(np.arctan2(A[1, 0], A[0, 0])))
    assert -10 <= min(turns) < -5
    assert 5 < max(turns) <= 10


def test_shrinking_to_half_averages_neighbours_as_resizing_does():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3)).astype(np.uint8)
    A = placement((8, 12), (4, 6), 1.0, 0.0)
    warped = cv2.warpAffine(pixels, A[:2], (6, 4), flags=cv2.INTER_LINEAR)
    resized = cv2.resize(pixels, (6, 4), interpolation=cv2.INTER_AREA)
    assert np.abs(warped.astype(int) - resized).max() <= 1


def test_rows_of_several_sizes_become_one_batch_size(make_row):
    augment = Augment(height=16, width=24, **STILL)
    shapes = {
        load(make_row(height=h, width=w), augment)["image"].shape
        for h, w in ((24, 32), (30, 50), (16, 24))
    }
    assert shapes == {(16, 24, 3)}


def test_validation_keeps_size_and_crop_and_leaves_nothing_to_chance(spot_row):
    augment = Augment(height=30, width=40, crop=0.9, zoom=1.5, rotate=10, flip=0.5, color=0.5)
    samples = [load(spot_row(POINTS[0]), augment.still(), epoch) for epoch in range(5)]
    for sample in samples:
        assert sample["image"].shape == (30, 40, 3)
        np.testing.assert_array_equal(sample["K"], samples[0]["K"])
        np.testing.assert_array_equal(sample["image"], samples[0]["image"])
    assert samples[0]["K"][0, 0] == pytest.approx(70 * 40 / (0.9 * 80))


def test_an_identity_leaves_every_pixel_as_it_is(spot_row):
    row = spot_row(POINTS[0])
    plain = load_sample(row, ("image",), True, None, [0, 0])
    sample = load(row, Augment(height=H, width=W, **STILL))
    for name in ("image", "depth", "K"):
        np.testing.assert_array_equal(sample[name], plain[name])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"height": 10}, "height and width must both"),
        ({"height": 0, "width": 5}, "height and width must both"),
        ({"crop": 0.0}, "crop is a share"),
        ({"crop": 1.1}, "crop is a share"),
        ({"zoom": 0.9}, "zoom is a factor of at least 1"),
        ({"rotate": -1.0}, "rotate is within 0 and 180"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_name(setting: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Augment(**setting)
