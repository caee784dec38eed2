"""What is done to a sample: flips, colours, sizes, and what decides them."""

import dataclasses

import numpy as np
import pytest

from mde.data.augment import Augment, color_matrix, columns_of, load_sample
from mde.data.codecs import encode_depth, encode_image
from mde.errors import InputError

ALL_IMAGES = ("image", "image_prev", "image_next", "image_stereo")
FLIP = Augment(flip=1, color=0)
COLOR = Augment(flip=0, color=1)


@pytest.fixture
def row(make_row):
    """Frames that differ from each other, and depth that grows to the right."""
    frames = {}
    for shade, name in enumerate(ALL_IMAGES):
        image = np.zeros((24, 32, 3), np.uint8)
        image[:, :, 0] = np.arange(32) * 6
        image[:, :, 1] = 40 * shade
        frames[name] = encode_image(image)
    depth = np.tile(1 + np.arange(32) / 10, (24, 1))
    return make_row(**frames, depth=encode_depth(depth, 1e-3))


def load(row, augment: Augment | None, seed: int = 0, epoch: int = 0):
    return load_sample(row, ALL_IMAGES, True, augment, [seed, epoch])


def assert_same(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])


def test_without_augmentation_a_row_is_only_decoded(row):
    sample = load(row, None)
    assert sample["sample_id"] == row["sample_id"]
    assert all(sample[name].shape == (24, 32, 3) for name in ALL_IMAGES)
    assert all(sample[name].dtype == np.uint8 for name in ALL_IMAGES)
    np.testing.assert_allclose(sample["depth"][0], 1 + np.arange(32) / 10, atol=5e-4)
    np.testing.assert_array_equal(sample["K"].ravel(), row["K"])
    assert sample["baseline_m"] == 0.5
    np.testing.assert_array_equal(sample["color_matrix"], np.eye(3, 4))


def test_seed_epoch_and_sample_decide_the_augmentation(row):
    same = load(row, Augment(), seed=1, epoch=2)
    assert_same(same, load(row, Augment(), seed=1, epoch=2))
    for other in (
        load(row, COLOR, seed=2, epoch=2),
        load(row, COLOR, seed=1, epoch=3),
        load({**row, "sample_id": "another"}, COLOR, seed=1, epoch=2),
    ):
        assert (other["color_matrix"] != load(row, COLOR, 1, 2)["color_matrix"]).any()


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_flips_are_as_frequent_as_asked_for(row, probability: float):
    augment = Augment(flip=probability, color=0)
    flipped = [load(row, augment, epoch=i)["baseline_m"] < 0 for i in range(100)]
    assert np.mean(flipped) == pytest.approx(probability, abs=0.15 * (probability == 0.5))


def test_a_flip_mirrors_all_images_and_depth(row):
    plain, flipped = load(row, None), load(row, FLIP)
    for name in (*ALL_IMAGES, "depth"):
        np.testing.assert_array_equal(flipped[name], plain[name][:, ::-1])
        assert flipped[name].flags.c_contiguous


def test_a_flip_mirrors_the_principal_point_and_puts_the_other_camera_on_the_other_side(row):
    row = row | {"K": [20.0, 0, 10.0, 0, 20, 11.5, 0, 0, 1]}
    flipped = load(row, FLIP)
    np.testing.assert_allclose(flipped["K"], [[20, 0, 31 - 10], [0, 20, 11.5], [0, 0, 1]])
    assert flipped["baseline_m"] == -0.5
    assert flipped["K"].dtype == flipped["baseline_m"].dtype == np.float32


def test_colour_jitter_leaves_the_images_and_the_geometry_alone(row):
    plain, jittered = load(row, None), load(row, COLOR)
    assert (jittered.pop("color_matrix") != plain.pop("color_matrix")).any()
    assert_same(plain, jittered)


def test_jitter_with_empty_ranges_is_the_identity():
    still = Augment(brightness=0, contrast=0, saturation=0, hue=0)
    matrix = color_matrix(still, np.random.default_rng(0))
    np.testing.assert_allclose(matrix, np.eye(3, 4), atol=1e-12)


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_channels_change_places_as_often_as_asked_for_and_in_all_five_orders(
    row, probability: float
):
    augment = Augment(flip=0, color=0, channel_swap=probability)
    matrices = [load(row, augment, epoch=i)["color_matrix"] for i in range(200)]
    assert all(not matrix[:, 3].any() for matrix in matrices)
    orders = [tuple(matrix[:, :3].argmax(1).tolist()) for matrix in matrices]
    for matrix, order in zip(matrices, orders, strict=True):
        np.testing.assert_array_equal(matrix[:, :3], np.eye(3)[list(order)])
    swapped = [order for order in orders if order != (0, 1, 2)]
    assert len(swapped) / 200 == pytest.approx(probability, abs=0.1 * (probability == 0.25))
    assert len(set(swapped)) == (5 if probability else 0)


def test_swapped_channels_are_the_jittered_ones_and_nothing_else_is_drawn_anew(row):
    augment = Augment(flip=0.5, color=0.5, zoom=1.5, rotate=5)
    for epoch in range(10):
        plain = load(row, augment, epoch=epoch)
        swapped = load(row, dataclasses.replace(augment, channel_swap=1), epoch=epoch)
        before, after = plain.pop("color_matrix"), swapped.pop("color_matrix")
        assert sorted(map(tuple, before.tolist())) == sorted(map(tuple, after.tolist()))
        assert (before != after).any()
        assert_same(plain, swapped)


def test_validation_has_no_chance_in_it(row):
    augment = Augment(zoom=1.5, rotate=5, flip=0.5, color=1, channel_swap=1).still()
    for epoch in range(5):
        assert_same(load(row, augment, epoch=epoch), load(row, None))


NOTHING = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
GREY, COLOUR = np.array([0.4, 0.4, 0.4, 1]), np.array([0.7, 0.2, 0.4, 1])
LUMA = np.array([0.299, 0.587, 0.114])


@pytest.mark.parametrize("seed", range(5))
def test_each_jitter_changes_what_it_is_named_after(seed: int):
    def apply(colour: np.ndarray, **ranges: float) -> np.ndarray:
        return color_matrix(Augment(**NOTHING | ranges), np.random.default_rng(seed)) @ colour

    brighter = apply(COLOUR, brightness=0.2) / COLOUR[:3]
    np.testing.assert_allclose(brighter, brighter[0])
    assert 0.8 <= brighter[0] <= 1.2
    contrast = (apply(COLOUR, contrast=0.2) - 0.5) / (COLOUR[:3] - 0.5)
    np.testing.assert_allclose(contrast, contrast[0])
    # Saturation and hue change neither grey nor the luma.
    for ranges in ({"saturation": 0.2}, {"hue": 0.1}):
        np.testing.assert_allclose(apply(GREY, **ranges), GREY[:3], atol=1e-6)
        changed = apply(COLOUR, **ranges)
        assert np.abs(changed - COLOUR[:3]).max() > 1e-4
        assert LUMA @ changed == pytest.approx(LUMA @ COLOUR[:3], abs=1e-5)


def test_only_what_the_objective_needs_is_read_and_decoded(row):
    always = ["sample_id", "height", "width", "K"]
    assert columns_of(("image",), False) == [*always, "image"]
    assert columns_of(("image",), True) == [*always, "image", "depth", "depth_scale"]
    assert columns_of(("image", "image_stereo"), False) == [
        *always, "image", "image_stereo", "baseline_m",
    ]  # fmt: skip
    for images, with_depth in ((("image",), True), (ALL_IMAGES, False), (ALL_IMAGES, True)):
        read = {key: row[key] for key in columns_of(images, with_depth)}
        sample = load_sample(read, images, with_depth, FLIP, [0, 0])  # type: ignore[arg-type]
        assert ("depth" in sample) == with_depth


@pytest.mark.parametrize("absent", ["image", "image_prev", "image_stereo", "depth"])
def test_what_a_mode_needs_and_a_row_lacks_is_an_error_that_names_both(row, absent: str):
    with pytest.raises(InputError, match=rf"sample_0000: the row has no {absent}"):
        load(row | {absent: None}, None)


def test_a_stereo_image_without_its_baseline_is_an_error(row):
    with pytest.raises(InputError, match="baseline_m"):
        load(row | {"baseline_m": None}, None)


@pytest.mark.parametrize("damaged", ["image", "depth"])
def test_damaged_bytes_are_an_error_that_names_the_sample(row, damaged: str):
    with pytest.raises(InputError, match="sample sample_0000: "):
        load(row | {damaged: b"\x00garbage"}, None)


@pytest.mark.parametrize("name", ["flip", "color", "channel_swap"])
def test_a_probability_above_one_is_refused(name: str):
    with pytest.raises(ValueError, match=f"{name} is a probability, found 1.5"):
        Augment(**{name: 1.5})
