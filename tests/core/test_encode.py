"""The encoder: stored sizes, K, what it counts, and depth that is not one."""

import numpy as np
import pytest

from mde.data.codecs import CodecError, decode_depth, decode_image
from mde.data.encode import Encoder, Statistics
from mde.data.frames import Frame

FRAME = Frame("kitchen_1", "train", "kitchen", {})
K = np.array([[40.0, 0, 31.5], [0, 40, 23.5], [0, 0, 1]])


def image(height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    smooth = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return np.kron(smooth, np.ones((height // 6, width // 8, 1), np.uint8))


def plane(height: int = 48, width: int = 64) -> np.ndarray:
    v, u = np.mgrid[:height, :width]
    return (1 + u / width + v / height).astype(np.float32)


def make_row(encoder: Encoder, **given):
    return encoder.row(FRAME, encoder.image(image()), K, depth_scale=1e-3, **given)


def test_a_row_is_stored_at_the_asked_size_and_its_truth_at_its_own():
    row = make_row(Encoder((24, 32)), depth=plane(), gt=plane(96, 128))
    assert (row["height"], row["width"], row["gt_height"], row["gt_width"]) == (24, 32, 96, 128)
    assert decode_image(row["image"]).shape == (24, 32, 3)
    assert decode_depth(row["depth"], 24, 32, row["depth_scale"]).max() > 2.9
    assert decode_depth(row["gt_depth"], 96, 128, row["depth_scale"]).shape == (96, 128)
    # Half the size: half the focal length, and the centre stays the centre.
    np.testing.assert_allclose(
        np.reshape(row["K"], (3, 3)), [[20, 0, 15.5], [0, 20, 11.5], [0, 0, 1]]
    )


def test_native_rows_keep_the_size_of_their_image():
    row = make_row(Encoder(None), depth=plane())
    assert (row["height"], row["width"]) == (48, 64)
    np.testing.assert_allclose(np.reshape(row["K"], (3, 3)), K)


def test_lossless_rows_change_nothing_at_all():
    encoder = Encoder(None, lossless=True)
    row = make_row(encoder, depth=plane())
    np.testing.assert_array_equal(decode_image(row["image"]), image())
    np.testing.assert_array_equal(decode_depth(row["depth"], 48, 64, row["depth_scale"]), plane())
    assert (encoder.statistics.image_mse, encoder.statistics.depth_error) == (0, 0)


def test_what_the_codecs_change_is_measured_not_assumed():
    encoder = Encoder(None)
    depth = plane()
    row = make_row(encoder, depth=depth)
    stored = decode_depth(row["depth"], 48, 64, row["depth_scale"])
    assert encoder.statistics.depth_error == np.abs(stored - depth).max()
    assert 0 < encoder.statistics.depth_error <= 0.5e-3 + 1e-6
    error = decode_image(row["image"]).astype(float) - image()
    assert encoder.statistics.image_mse == pytest.approx(np.mean(error**2), rel=1e-5)


def test_nan_infinite_and_negative_pixels_are_counted_and_stored_as_no_depth():
    depth = plane()
    depth[0, :3], depth[1, :2], depth[2, 0], depth[3, 0] = np.nan, np.inf, -1, 0
    encoder = Encoder(None)
    row = make_row(encoder, depth=depth)
    assert encoder.statistics.invalid == {"nan": 3, "infinite": 2, "negative": 1}
    stored = decode_depth(row["depth"], 48, 64, row["depth_scale"])
    assert (stored == 0).sum() == 7
    assert encoder.statistics.depth_pixels == 48 * 64 - 7


@pytest.mark.parametrize(
    ("value", "found"), [(0, "3072 zero"), (np.nan, "3072 NaN"), (-2, "3072 negative")]
)
def test_a_depth_map_without_a_valid_pixel_is_refused_with_what_it_holds(value, found: str):
    encoder = Encoder(None)
    with pytest.raises(CodecError, match=f"depth without a valid pixel: {found}") as error:
        make_row(encoder, depth=np.full((48, 64), value, np.float32))
    assert error.value.reason == "no valid depth"
    assert encoder.statistics.rows == 0


def test_points_that_are_lost_in_storing_count_as_no_depth():
    close = np.full((48, 64), 0.0002, np.float32)
    with pytest.raises(CodecError, match="depth without a valid pixel"):
        make_row(Encoder(None), depth=close)
    close[0, 0] = 1
    encoder = Encoder(None)
    make_row(encoder, depth=close)
    assert (encoder.statistics.depth_pixels, encoder.statistics.depth_min) == (1, 1)


def test_depth_beyond_the_codes_is_refused_and_counted_nowhere():
    encoder = Encoder(None)
    with pytest.raises(CodecError, match=r"70\.0 m is beyond 65\.5 m"):
        make_row(encoder, depth=np.full((48, 64), 70, np.float32))
    assert (encoder.statistics.rows, encoder.statistics.depth_pixels) == (0, 0)


def test_neighbours_of_another_size_are_refused():
    encoder = Encoder((24, 32))
    other = encoder.image(image(96, 64))
    with pytest.raises(CodecError, match=r"image_prev has \(96, 64\) px, the image has \(48, 64\)"):
        make_row(encoder, neighbours={"image_prev": other})


def test_neighbours_land_in_their_columns():
    encoder = Encoder((24, 32))
    before, beside = encoder.image(image(seed=1)), encoder.image(image(seed=2))
    row = make_row(encoder, neighbours={"image_prev": before, "image_stereo": beside})
    assert (row["image_prev"], row["image_stereo"]) == (before.data, beside.data)
    assert row["image_next"] is None
    assert row["depth"] is None


def test_statistics_of_parts_add_up_to_those_of_the_whole():
    depths = [plane() * factor for factor in (0.5, 1, 3)]
    whole, parts = Encoder(None), [Encoder(None) for _ in depths]
    for part, depth in zip(parts, depths, strict=True):
        make_row(whole, depth=depth)
        make_row(part, depth=depth)
    merged = Statistics()
    for part in parts:
        merged = merged.merge(part.statistics)
    assert vars(merged) == pytest.approx(
        vars(whole.statistics) | {"images_checked": 3, "image_mse": merged.image_mse}
    )
    assert merged.depth_error == whole.statistics.depth_error
    assert merged.depth_min == 0.5
    assert merged.depth_max == pytest.approx(plane().max() * 3, abs=0.5e-3)
