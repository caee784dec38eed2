"""The sizes that `docs/families.md` states are those of the recipes' networks."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mde.cost import count_macs, count_parameters
from mde.models import build_model
from mde.variants import load_variant
from tests.core.test_docs import table

RECIPES = Path(__file__).parents[2] / "recipes"
ROWS = table("docs/families.md", "| recipe | image, px")


def test_every_family_has_a_row() -> None:
    families = {load_variant(RECIPES / f"{name}.yaml", name).model.family for name in ROWS}
    assert len(families) == 5


@pytest.mark.parametrize("name", ROWS)
def test_a_network_is_as_large_as_its_row_says(name: str) -> None:
    size, parameters, multiply_adds = ROWS[name]
    config = load_variant(RECIPES / f"{name}.yaml", name).model
    # Shapes alone: no weights, no computation.
    with torch.device("meta"):
        model = build_model(replace(config, weights="scratch"))
    height, width = map(int, size.split("x"))
    assert f"{count_parameters(model) / 1e6:.2f}" == parameters
    assert f"{count_macs(model, (height, width)) / 1e9:.2f}" == multiply_adds
