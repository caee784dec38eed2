"""What a model costs: against numbers worked out by hand."""

import json
from dataclasses import asdict

import pytest
import torch
from torch import Tensor, nn

from mde.cost import FEWEST_RUNS, RUNS, Cost, count_macs, measure, p95, time_runs
from mde.models.depth_model import DepthModel


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
    image = torch.rand(1, 3, 32, 48)
    assert count_macs(model, image) == 32 * 48 * (3 * 3 * 3 * 8 + 8)
    with torch.inference_mode():
        assert count_macs(model, image) == 32 * 48 * (3 * 3 * 3 * 8 + 8)


def test_a_cost_says_what_was_measured_and_survives_json(model: OneConvolution) -> None:
    found = measure(model, (32, 48), seconds=0)
    assert found.parameters == 3 * 3 * 3 * 8 + 8 + 8 + 1
    assert (found.height, found.width, found.runs) == (32, 48, FEWEST_RUNS)
    assert 0 < found.median_ms <= found.p95_ms
    assert found.threads == torch.get_num_threads()
    assert found.device
    assert found.growth_mib is not None
    assert found.growth_mib >= 0
    assert found.memory_mib == found.growth_mib
    assert Cost(**json.loads(json.dumps(asdict(found)))) == found


def test_a_fast_model_is_timed_often_and_not_while_it_warms_up(model: OneConvolution) -> None:
    assert len(time_runs(model, torch.rand(1, 3, 8, 8), seconds=1e9)) == RUNS
    assert model.calls == RUNS + 10


def test_the_95th_percentile_lies_between_the_two_values_around_it() -> None:
    assert p95([float(value) for value in range(101)]) == pytest.approx(95)
    assert p95([3.0]) == 3
