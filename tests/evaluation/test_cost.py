"""What a model costs: against numbers worked out by hand."""

import json
from dataclasses import asdict

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mde.cost import (
    Cost,
    count_macs,
    count_parameters,
    device_name,
    p95,
    peaks_mib,
    reset_peak,
    time_runs,
)
from mde.models.depth_model import DepthModel
from mde.predictor import ModelInfo, TorchPredictor

CPU = torch.device("cpu")


class OneConvolution(DepthModel):
    """3x3, 3 to 8 channels, then 8 to 1 by a linear layer."""

    stride = 1

    def __init__(self) -> None:
        super().__init__(0.1, 10.0)
        self.convolution = nn.Conv2d(3, 8, 3, padding=1)
        self.linear = nn.Linear(8, 1)
        self.calls = 0

    def forward(self, image: Tensor) -> list[Tensor]:
        self.calls += 1
        features = self.convolution(image).movedim(1, -1)
        return [self.linear(features).movedim(-1, 1)]

    def native_to_depth(self, native: Tensor) -> Tensor:
        return native


@pytest.fixture
def model() -> OneConvolution:
    return OneConvolution().eval()


def test_multiply_adds_are_those_of_convolutions_and_matrix_products(
    model: OneConvolution,
) -> None:
    assert count_macs(model, (32, 48)) == 32 * 48 * (3 * 3 * 3 * 8 + 8)
    with torch.inference_mode():
        assert count_macs(model, (32, 48)) == 32 * 48 * (3 * 3 * 3 * 8 + 8)
    assert count_parameters(model) == 3 * 3 * 3 * 8 + 8 + 8 + 1


def test_every_run_is_a_prediction_of_one_image(model: OneConvolution) -> None:
    predictor = TorchPredictor(model, ModelInfo("x", True, 0.1, 10.0, None, "", ""))
    times = time_runs(predictor, np.zeros((8, 8, 3), np.uint8), 7)
    assert len(times) == model.calls == 7
    assert min(times) > 0


def test_the_95th_percentile_lies_between_the_two_values_around_it() -> None:
    assert p95([float(value) for value in range(101)]) == pytest.approx(95)
    assert p95([3.0]) == 3


def test_memory_is_what_was_held_at_most() -> None:
    before = reset_peak(CPU)
    # Where the peak cannot be forgotten, that of the tests before this one has to be passed.
    to_peak = max(0, int(before) - psutil.Process().memory_info().rss)
    held: NDArray[np.uint8] = np.ones(to_peak + 256 * 2**20, np.uint8)
    del held
    assert 150 < peaks_mib(CPU, before)["growth_mib"] < 350
    assert peaks_mib(CPU, before + 2**30) == {"growth_mib": 0}


def test_a_cost_survives_json_and_has_one_number_of_memory() -> None:
    cost = Cost(device_name(CPU), 2, 32, 48, 225, 10, 5, 1.0, 2.0, growth_mib=3.0)
    assert Cost(**json.loads(json.dumps(asdict(cost)))) == cost
    assert cost.memory_mib == 3
    assert cost.device
