"""What protocols do beside masking and scaling: views, flips, pooling, histograms, faults."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mde.crops import FASTDEPTH_SIZE, fastdepth_box, fastdepth_view, resize_prediction
from mde.errors import InputError
from mde.metrics import METRICS, average, bin_metrics, bin_names, depth_metrics
from mde.models.depth_model import DepthModel, join_by_ramp
from mde.protocols import PROTOCOLS, Protocol, find_protocol

PLAIN = Protocol("plain", 1, 1e-3, 10.0, "none", "none", error_limit=2.0)


def depth(*shape: int, seed: int = 0) -> Tensor:
    return 0.5 + 9 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_says_what_it_is_and_gives_all_its_metrics(name: str):
    protocol = PROTOCOLS[name]
    size = (480, 640) if name.startswith("nyu") else (375, 1242)
    target, pred = protocol.view_target(depth(*size)), depth(*size, seed=1)
    values = protocol.compare(protocol.fit(pred, tuple(target.shape)), target)
    assert protocol.ground_truth
    assert set(values) == {*protocol.names, "scale", "clipped", "pixels", "log_bias"}
    assert all(values[metric] is not None for metric in METRICS)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_perfect_prediction_has_no_error_under_any_protocol(name: str):
    protocol = PROTOCOLS[name]
    size = (480, 640) if name.startswith("nyu") else (375, 1242)
    target = protocol.view_target(depth(*size))
    for metric, value in protocol.compare(target.clone(), target).items():
        if metric in ("scale", "pixels") or value is None:
            continue
        perfect = metric.startswith(("a1", "a2", "a3", "mssim", "edge"))
        assert value == pytest.approx(float(perfect), abs=1e-6), metric


def test_pooled_numbers_are_those_of_all_pixels_together():
    rng = np.random.default_rng(0)
    images = [(depth(n, 7, seed=n), depth(n, 7, seed=n + 50)) for n in (3, 11, 40)]
    per_image = [
        depth_metrics(pred, target, torch.ones_like(target, dtype=torch.bool))
        for pred, target in images
    ]
    pred, target = (torch.cat([pair[i] for pair in images]) for i in (0, 1))
    expected = depth_metrics(pred, target, torch.ones_like(target, dtype=torch.bool))
    pooled = average(per_image, METRICS, "pixel")
    assert pooled == pytest.approx({name: expected[name] for name in METRICS}, rel=1e-9)
    shuffled = [per_image[i] for i in rng.permutation(3)]
    assert average(shuffled, METRICS, "pixel") == pooled
    assert average(per_image, METRICS)["rmse"] != pytest.approx(pooled["rmse"], rel=1e-3)


def test_an_image_without_a_value_is_left_out_of_the_mean():
    rows = [{"abs_rel_0_2m": None}, {"abs_rel_0_2m": 0.5}]
    assert average(rows, ["abs_rel_0_2m"]) == {"abs_rel_0_2m": 0.5}
    assert average(rows[:1], ["abs_rel_0_2m"]) == {"abs_rel_0_2m": None}


def test_depth_ranges_have_their_lower_and_not_their_upper_end():
    target = torch.tensor([1.0, 2.0, 2.0, 5.0])
    pred = torch.tensor([1.1, 2.0, 4.0, 5.0])
    edges = (0.0, 2.0, 4.0, 5.0)
    found = bin_metrics(pred, target, torch.ones(4, dtype=torch.bool), edges)
    assert list(found) == bin_names(edges)
    assert found["abs_rel_0_2m"] == pytest.approx(0.1)
    assert (found["abs_rel_2_4m"], found["a1_2_4m"]) == (0.5, 0.5)
    assert (found["abs_rel_4_5m"], found["a1_4_5m"]) == (None, None)


def test_the_error_histogram_is_numpys_with_the_rest_at_its_ends():
    pred, target = depth(30, 40), depth(30, 40, seed=1)
    found = PLAIN.align(pred, target).error_histogram().numpy()
    error = (pred - target).double().numpy().clip(-1.9999, 1.9999)
    expected, _ = np.histogram(error, PLAIN.error_edges.numpy())
    np.testing.assert_array_equal(found, expected)


def test_clipped_pixels_are_counted():
    values = PLAIN.compare(torch.tensor([[-1.0, 0.0, 20.0, 5.0]]), torch.full((1, 4), 5.0))
    assert values["clipped"] == 0.75


def test_infinite_depth_is_clipped_and_nan_is_refused_where_it_counts():
    target = torch.tensor([[5.0, 5.0, 0.0]])
    values = PLAIN.compare(torch.tensor([[math.inf, 5.0, math.nan]]), target)
    assert values["mae"] == 2.5
    with pytest.raises(ValueError, match="1 predicted pixels are NaN"):
        PLAIN.compare(torch.tensor([[math.nan, 5.0, 1.0]]), target)


def test_stereo_units_are_of_the_prediction_and_metres_stay():
    protocol = PROTOCOLS["kitti_eigen_stereo"]
    target = depth(375, 1242)
    assert protocol.metres_per_unit == 5.4
    in_units = protocol.compare(target / 5.4, target, protocol.metres_per_unit)
    assert in_units["abs_rel"] == pytest.approx(0, abs=1e-6)
    assert protocol.compare(target, target)["abs_rel"] == 0


def test_swapped_arguments_divide_by_the_prediction():
    pred, target = torch.full((480, 640), 4.0), torch.full((480, 640), 5.0)
    assert PROTOCOLS["nyu_densedepth"].compare(pred, target)["abs_rel"] == pytest.approx(0.2)
    assert PROTOCOLS["nyu_densedepth_pooled"].compare(pred, target)["abs_rel"] == 0.25


def test_a_prediction_and_a_target_of_other_sizes_are_refused():
    with pytest.raises(ValueError, match=r"different sizes: \(3, 4\) and \(4, 4\)"):
        PLAIN.compare(torch.ones(3, 4), torch.ones(4, 4))


def test_a_protocol_is_found_by_name_and_by_id():
    assert find_protocol("nyu_eigen") is find_protocol("nyu_eigen@1") is PROTOCOLS["nyu_eigen"]
    with pytest.raises(InputError, match="did you mean 'nyu_eigen'"):
        find_protocol("nyu_eigan")
    with pytest.raises(InputError, match="here it is nyu_eigen@1"):
        find_protocol("nyu_eigen@2")


# --- Sizes ------------------------------------------------------------------------------------


def test_kitti_resizes_disparity_and_nyu_depth():
    steep = torch.tensor([[1.0, 4.0]])
    disparity = resize_prediction(steep, (1, 4), "depth", "disparity")
    assert disparity[0, 1] == pytest.approx(1 / (0.75 * 1 + 0.25 * 0.25))
    assert resize_prediction(steep, (1, 4), "depth", "depth")[0, 1] == pytest.approx(1.75)
    assert torch.equal(resize_prediction(steep, (1, 2), "disparity", "depth"), 1 / steep)


def test_the_fastdepth_view_is_the_nearest_pixel_of_its_centre():
    rows = torch.arange(480.0)[:, None].expand(480, 640)
    columns = torch.arange(640.0)[None].expand(480, 640)
    top, bottom, left, right = fastdepth_box(480, 640)
    assert (top, bottom, left, right) == (21, 459, 27, 611)
    for coordinate, low, high in ((rows, top, bottom), (columns, left, right)):
        view = fastdepth_view(coordinate)
        assert view.shape == FASTDEPTH_SIZE
        assert view.min() == pytest.approx(low, abs=2)
        assert view.max() == pytest.approx(high, abs=2)
    view = fastdepth_view(rows)
    assert torch.equal(fastdepth_view(view), view)


def test_a_prediction_of_the_lower_middle_is_put_there():
    protocol = PROTOCOLS["kitti_eigen_supervised"]
    target = depth(375, 1242)
    fitted = protocol.fit(target[23:, 13:1229], (375, 1242))
    assert protocol.compare(fitted, target)["abs_rel"] == 0
    with pytest.raises(ValueError, match="does not fit into 300x1242"):
        protocol.fit(torch.ones(352, 1216), (300, 1242))


# --- Flips ------------------------------------------------------------------------------------


class Columns(DepthModel):
    """Sees the red channel as depth, plus 1 in the left half of whatever it is shown."""

    def __init__(self) -> None:
        super().__init__(0.1, 100.0)
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, image: Tensor) -> list[Tensor]:
        left = torch.zeros_like(image[:, :1])
        left[..., : image.shape[-1] // 2] = 1
        return [image[:, :1] + left]

    def native_to_depth(self, native: Tensor) -> Tensor:
        return native


def test_the_mean_of_both_views_is_symmetric():
    image = 0.2 + 0.5 * torch.rand(1, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    model = Columns()
    found = model.predict_depth(image, flip="mean")
    assert torch.allclose(found, image[:, :1] + 0.5)
    mirrored = model.predict_depth(image.flip(-1), flip="mean")
    assert torch.allclose(mirrored.flip(-1), found)


def test_the_ramp_takes_each_border_from_the_view_that_sees_it():
    first, second = torch.full((1, 1, 2, 201), 2.0), torch.full((1, 1, 2, 201), 4.0)
    joined = join_by_ramp(first, second)[0, 0, 0]
    assert joined[:11].tolist() == pytest.approx([4.0] * 11)
    assert joined[100] == 3
    assert joined[-11:].tolist() == pytest.approx([2.0] * 11)
    # Between 0.05 and 0.1 of the width it goes straight from one to the other.
    assert joined[15] == pytest.approx(3.5)
