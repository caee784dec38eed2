"""SSIM and edges of depth maps beside the libraries that published numbers come from."""

import kornia
import pytest
import pytorch_msssim
import torch
from torch import Tensor

from mde.structure import EDGE_NAMES, sobel_magnitude, structure_metrics, structure_names

RANGES = (10.0, 255.0)


def rooms(seed: int, height: int = 96, width: int = 128) -> tuple[Tensor, Tensor]:
    """Dense depth with blocks in front of a slope, and a prediction of it."""
    generator = torch.Generator().manual_seed(seed)
    target = 4 + torch.linspace(0, 3, width).expand(height, width).clone()
    for _ in range(8):
        top, left = (int(torch.randint(0, n, (), generator=generator)) for n in (60, 90))
        target[top : top + 25, left : left + 30] = 1 + 4 * torch.rand((), generator=generator)
    noise = torch.randn(height, width, generator=generator)
    return (target + 0.3 * noise).clamp(0.5, 10), target


def everywhere(target: Tensor) -> Tensor:
    return torch.ones_like(target, dtype=torch.bool)


@pytest.mark.parametrize("data_range", RANGES)
def test_mssim_is_that_of_pytorch_msssim_with_the_data_range_in_its_name(data_range: float):
    pred, target = rooms(0)
    expected = pytorch_msssim.ssim(pred[None, None], target[None, None], data_range=data_range)
    found = structure_metrics(pred, target, everywhere(target), RANGES)
    assert found[f"mssim_range{data_range:g}"] == pytest.approx(float(expected), rel=1e-5)


def test_the_wrong_data_range_makes_random_depth_look_good():
    generator = torch.Generator().manual_seed(0)
    _, target = rooms(1)
    noise = 10 * torch.rand(target.shape, generator=generator)
    found = structure_metrics(noise, target, everywhere(target), RANGES)
    assert found["mssim_range255"] > 0.6
    assert found["mssim_range10"] < 0.1


@pytest.mark.parametrize(
    ("kind", "normalized", "limit"), [("norm_0.2", True, 0.2), ("raw_0.5", False, 0.5)]
)
def test_edges_are_those_of_kornia(kind: str, normalized: bool, limit: float):
    pred, target = rooms(2)
    found, true = (
        kornia.filters.sobel(depth[None, None], normalized=normalized, eps=0)[0, 0] > limit
        for depth in (pred, target)
    )
    hits = int((found & true).sum())
    precision, recall = hits / int(found.sum()), hits / int(true.sum())
    values = structure_metrics(pred, target, everywhere(target), RANGES)
    assert values[f"edge_precision_sobel_{kind}"] == pytest.approx(precision, rel=1e-6)
    assert values[f"edge_recall_sobel_{kind}"] == pytest.approx(recall, rel=1e-6)
    f1 = 2 * precision * recall / (precision + recall)
    assert values[f"edge_f1_sobel_{kind}"] == pytest.approx(f1, rel=1e-6)


@pytest.mark.parametrize("step", [0.3, 1.0, 2.5])
def test_a_step_of_h_metres_has_a_magnitude_of_4h_and_normalised_of_half_of_h(step: float):
    depth = torch.full((9, 9), 2.0)
    depth[:, 5:] += step
    assert float(sobel_magnitude(depth).max()) == pytest.approx(4 * step, rel=1e-6)
    assert float(sobel_magnitude(depth).max() / 8) == pytest.approx(step / 2, rel=1e-6)


def test_a_step_counts_above_0_4_m_normalised_and_above_an_eighth_of_a_metre_raw():
    def true_edges(step: float) -> list[bool]:
        target = torch.full((16, 16), 2.0)
        target[:, 8:] += step
        values = structure_metrics(target, target, everywhere(target), RANGES)
        return [values[f"edge_f1_sobel_{kind}"] is not None for kind in ("norm_0.2", "raw_0.5")]

    assert true_edges(0.1) == [False, False]
    assert true_edges(0.2) == [False, True]
    assert true_edges(0.5) == [True, True]


def test_precision_recall_and_f1_by_hand():
    target, pred = torch.full((12, 30), 2.0), torch.full((12, 30), 2.0)
    # Each vertical step marks two columns. Of the truth's four the prediction finds two, and two
    # of its six are true.
    target[:, 5:15] += 2
    pred[:, 5:20] += 2
    pred[:, 25:] += 2
    values = structure_metrics(pred, target, everywhere(target), RANGES)
    assert values["edge_precision_sobel_norm_0.2"] == pytest.approx(2 / 6)
    assert values["edge_recall_sobel_norm_0.2"] == pytest.approx(2 / 4)
    assert values["edge_f1_sobel_norm_0.2"] == pytest.approx(2 * 2 / (6 + 4))


def test_a_prediction_without_edges_has_recall_0_and_no_precision():
    target = torch.full((12, 20), 2.0)
    target[:, 10:] += 2
    values = structure_metrics(torch.full_like(target, 2.0), target, everywhere(target), RANGES)
    assert values["edge_precision_sobel_norm_0.2"] is None
    assert (values["edge_recall_sobel_norm_0.2"], values["edge_f1_sobel_norm_0.2"]) == (0, 0)


def test_holes_make_no_edges_whatever_stands_in_them():
    target = torch.full((24, 24), 3.0)
    valid = everywhere(target)
    valid[8:12, 8:12] = False
    target[~valid] = 0
    pred = torch.where(valid, 3.0, torch.nan)
    values = structure_metrics(pred, target, valid, RANGES)
    assert all(values[name] is None for name in EDGE_NAMES)
    assert values["mssim_range10"] == pytest.approx(1)


def test_a_perfect_prediction_has_1_everywhere():
    _, target = rooms(3)
    values = structure_metrics(target, target, everywhere(target), RANGES)
    assert values == dict.fromkeys(structure_names(RANGES), 1.0)
