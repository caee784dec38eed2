"""Depth metrics by hand, and what each evaluation protocol masks, crops, caps and scales."""

import math

import pytest
import torch
from torch import Tensor

from mde.crops import crop_box
from mde.metrics import METRICS, average, depth_metrics, higher_is_better
from mde.protocols import PROTOCOLS, Protocol


def all_valid(pred: Tensor, target: Tensor) -> dict[str, float]:
    return depth_metrics(pred, target, torch.ones_like(target, dtype=torch.bool))


def known(values: dict[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


def random_depth(*shape: int, seed: int = 0) -> Tensor:
    return 1 + 8 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# --- Metrics ----------------------------------------------------------------------------------


def test_every_metric_by_hand():
    values = all_valid(torch.tensor([2.0, 4.0]), torch.tensor([1.0, 5.0]))
    d1, d2 = math.log(2), math.log(0.8)
    expected = {
        "abs_rel": (1 / 1 + 1 / 5) / 2,
        "sq_rel": (1 / 1 + 1 / 5) / 2,
        "rmse": 1.0,
        "rmse_log": math.sqrt((d1**2 + d2**2) / 2),
        "log10": (math.log10(2) + math.log10(1.25)) / 2,
        "silog": 100 * math.sqrt((d1**2 + d2**2) / 2 - ((d1 + d2) / 2) ** 2),
        "si_rmse": math.sqrt((d1**2 + d2**2) / 2 - ((d1 + d2) / 2) ** 2),
        "mae": 1.0,
        "irmse": math.sqrt((500**2 + 50**2) / 2),  # 1/km
        "imae": 275.0,
        "a1": 0.0,  # ratios 2 and 1.25, and 1.25 is not below 1.25
        "a2": 0.5,
        "a3": 0.5,
    }
    assert set(expected) == set(METRICS)
    assert values == pytest.approx({**expected, "pixels": 2, "log_bias": (d1 + d2) / 2})


def test_sq_rel_divides_by_the_target_and_not_by_its_square():
    assert all_valid(torch.tensor([6.0]), torch.tensor([4.0]))["sq_rel"] == pytest.approx(1)


def test_the_three_thresholds_are_powers_of_a_quarter_more():
    values = all_valid(torch.tensor([1.2, 1.5, 1.9, 2.0]), torch.ones(4))
    assert [values[f"a{n}"] for n in (1, 2, 3)] == [0.25, 0.5, 0.75]


def test_a_perfect_prediction_has_no_error_and_full_accuracy():
    depth = random_depth(20)
    expected = {name: float(higher_is_better(name)) for name in METRICS}
    assert all_valid(depth, depth) == {**expected, "pixels": 20, "log_bias": 0}


@pytest.mark.parametrize("factor", [0.3, 1.7])
def test_silog_ignores_a_global_factor_and_the_others_do_not(factor: float):
    target = random_depth(50)
    values = all_valid(factor * target, target)
    assert values["silog"] == pytest.approx(0, abs=1e-3)
    assert values["abs_rel"] == pytest.approx(abs(factor - 1), rel=1e-5)
    assert values["rmse_log"] == pytest.approx(abs(math.log(factor)), rel=1e-5)


def test_only_valid_pixels_count_whatever_stands_in_the_others():
    pred = torch.tensor([2.0, math.nan, -1.0, math.inf])
    target = torch.tensor([1.0, 1.0, 1.0, 0.0])
    values = depth_metrics(pred, target, torch.tensor([True, False, False, False]))
    assert values["abs_rel"] == 1


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_predictions_that_are_not_positive_and_finite_are_refused(bad: float):
    with pytest.raises(ValueError, match="positive and finite"):
        all_valid(torch.tensor([1.0, bad]), torch.tensor([1.0, 1.0]))


def test_an_image_without_a_valid_pixel_is_refused():
    with pytest.raises(ValueError, match="no valid pixel"):
        depth_metrics(torch.ones(4), torch.ones(4), torch.zeros(4, dtype=torch.bool))


def test_the_mean_counts_images_and_not_pixels():
    small = all_valid(torch.tensor([2.0]), torch.ones(1))
    large = all_valid(torch.ones(99), torch.ones(99))
    assert average([small, large], ["abs_rel"]) == {"abs_rel": 0.5}
    with pytest.raises(ValueError, match="no images"):
        average([], METRICS)


# --- Protocols --------------------------------------------------------------------------------


def test_garg_crop_box_of_a_kitti_image():
    assert crop_box("garg", 375, 1242) == (153, 371, 44, 1197)


def test_eigen_nyu_crop_is_defined_at_one_size_only():
    assert crop_box("eigen_nyu", 480, 640) == (45, 471, 41, 601)
    with pytest.raises(ValueError, match="240x320"):
        crop_box("eigen_nyu", 240, 320)


def test_no_crop_keeps_the_whole_image():
    assert crop_box("none", 3, 5) == (0, 3, 0, 5)


def test_the_mask_is_the_crop_and_the_open_depth_range():
    protocol = PROTOCOLS["kitti_eigen_stereo"]
    assert int(protocol.valid_mask(torch.full((375, 1242), 5.0)).sum()) == (371 - 153) * (1197 - 44)
    target = torch.tensor([[0.0, 1e-3, 5.0, 80.0, 81.0, math.nan]])
    whole = Protocol("test", 1, 1e-3, 80.0, "none", "none")
    assert whole.valid_mask(target).tolist() == [[False, False, True, False, False, False]]


def test_predictions_are_clipped_to_the_cap_and_the_floor():
    protocol = Protocol("test", 1, 0.5, 10.0, "none", "none")
    far = protocol.compare(torch.tensor([[500.0]]), torch.tensor([[5.0]]))
    near = protocol.compare(torch.tensor([[0.0]]), torch.tensor([[5.0]]))
    assert (far["mae"], near["mae"]) == (5.0, 4.5)


def test_without_scaling_a_wrong_scale_costs():
    target = random_depth(375, 1242)
    values = PROTOCOLS["kitti_eigen_stereo"].compare(1.1 * target, target)
    assert values["abs_rel"] == pytest.approx(0.1, rel=1e-3)
    assert values["scale"] == 1


@pytest.mark.parametrize("factor", [0.01, 1.0, 300.0])
def test_median_scaling_makes_the_scale_of_a_prediction_irrelevant(factor: float):
    target = random_depth(375, 1242)
    pred = target * (1 + 0.1 * random_depth(375, 1242, seed=1))
    expected = PROTOCOLS["kitti_eigen_mono"].compare(pred, target)
    values = PROTOCOLS["kitti_eigen_mono"].compare(factor * pred, target)
    assert values.pop("scale") == pytest.approx(expected.pop("scale") / factor, rel=1e-4)
    assert known(values) == pytest.approx(known(expected), rel=1e-4, abs=1e-6)


def test_the_scale_is_the_ratio_of_medians_within_the_mask_and_before_the_cap():
    protocol = Protocol("test", 1, 1e-3, 10.0, "none", "median")
    target = torch.tensor([[2.0, 4.0, 8.0, 0.0, 50.0]])
    pred = torch.tensor([[100.0, 200.0, 300.0, 7.0, 7.0]])
    values = protocol.compare(pred, target)
    assert values["scale"] == pytest.approx(4 / 200)
    assert values["mae"] == pytest.approx((0 + 0 + 2) / 3)


def test_an_even_number_of_pixels_has_its_median_between_the_middle_two_as_published():
    protocol = Protocol("test", 1, 1e-3, 10.0, "none", "median")
    values = protocol.compare(torch.tensor([[2.0, 2.0]]), torch.tensor([[1.0, 3.0]]))
    assert values["scale"] == pytest.approx(1)


def test_an_image_whose_truth_is_outside_the_mask_is_refused():
    for name in ("kitti_eigen_stereo", "kitti_eigen_mono"):
        with pytest.raises(ValueError, match="no valid pixel"):
            PROTOCOLS[name].compare(torch.ones(375, 1242), torch.zeros(375, 1242))


def test_an_id_names_protocol_and_version():
    assert PROTOCOLS["nyu_eigen"].id == "nyu_eigen@1"
    assert all(name == protocol.name for name, protocol in PROTOCOLS.items())
