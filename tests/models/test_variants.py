"""Whole variants: networks, stages and batches fit together, in the sample and at full scale."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mde.cli import app
from mde.config import load_params
from mde.data.sources import load_source_config
from mde.errors import InputError
from mde.train.recipe import Stage
from mde.variants import Variant, build_networks, check_networks, load_variant

REPOSITORY = Path(__file__).parents[2]
FILES = [REPOSITORY / "params.yaml", *sorted((REPOSITORY / "recipes").glob("*.yaml"))]
ALL = [(path, name) for path in FILES for name in load_params(path)["variants"]]


def variant_and_size(path: Path, name: str) -> tuple[Variant, Any]:
    variant = load_variant(path, name)
    return variant, variant.augment.size or load_source_config(path, variant.dataset).size


@pytest.mark.parametrize(("path", "name"), ALL, ids=[f"{path.stem}-{name}" for path, name in ALL])
def test_a_shipped_variant_takes_its_batches(path: Path, name: str):
    variant, size = variant_and_size(path, name)
    check_networks(variant, size, name)


def test_the_sample_has_a_variant_of_every_family():
    names = load_params(FILES[0])["variants"]
    found = {load_variant(FILES[0], name).model.family for name in names}
    assert found == {"densedepth", "eigen", "fastdepth", "monodepth2", "resfpn"}


@pytest.mark.parametrize(
    ("stage", "size", "message"),
    [
        (Stage(30, train=("scale4",)), (128, 160), "no parameters below 'scale4'.*scale1, scale2"),
        (Stage(30, output=2), (128, 160), "output: the model has 2 native maps, found number 2"),
        (Stage(30), (128, 152), "takes images of 128x160, found 128x152"),
    ],
)
def test_a_stage_or_a_size_that_does_not_fit_is_named(stage: Stage, size: Any, message: str):
    variant = load_variant(FILES[0], "eigen-vgg16")
    recipe = dataclasses.replace(variant.recipe, stages=(stage,))
    with pytest.raises(InputError, match=f"here: .*{message}"):
        check_networks(dataclasses.replace(variant, recipe=recipe), size, "here")


def test_networks_that_train_along_are_built_where_the_mode_needs_them():
    ms = load_variant(FILES[0], "monodepth2-resnet18-ms")
    assert build_networks(ms).pose is not None
    switches = {"mode": "s", "automask": False, "predictive_mask": True}
    stereo = dataclasses.replace(ms, objective=dataclasses.replace(ms.objective, **switches))
    objective = build_networks(stereo)
    assert objective.pose is None
    assert objective.mask is not None


def test_the_command_checks_all_of_the_shipped_params() -> None:
    result = CliRunner().invoke(app, ["check", "--params", str(FILES[0])])
    assert result.exit_code == 0, result.output
    assert "params.yaml is fine" in result.output.replace("\n", "")
