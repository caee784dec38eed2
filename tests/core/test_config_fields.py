"""Every field of every section of `params.yaml`: slips, wrong types, and no number that is none."""

import dataclasses
import pkgutil
import types
import typing
from pathlib import Path
from typing import Any

import pytest

from mde.cluster.session import ClusterConfig
from mde.config import parse_section
from mde.data import sources
from mde.data.augment import Augment
from mde.data.sample import SampleConfig
from mde.data.sources import get_source
from mde.errors import InputError
from mde.models import ModelConfig
from mde.train.checkpoints import RunConfig
from mde.train.objectives import OBJECTIVES
from mde.train.recipe import Recipe, Stage

PATH = Path("params.yaml")
# What each class needs at least.
SECTIONS: dict[type, dict[str, Any]] = {
    SampleConfig: {},
    ModelConfig: {"family": "resfpn", "encoder": "resnet18"},
    Recipe: {"epochs": 2, "batch_size": 4},
    Stage: {"epochs": 2},
    Augment: {},
    RunConfig: {},
    ClusterConfig: {},
    OBJECTIVES["supervised"][0]: {"kind": "supervised"},
    OBJECTIVES["self_supervised"][0]: {"kind": "self_supervised", "mode": "ms"},
    **{
        get_source(module.name).Config: {
            **{"source": module.name, "raw": "raw", "height": 64, "width": 64},
            **({"train": "train.csv"} if module.name == "nyu_pairs" else {}),
        }
        for module in pkgutil.iter_modules(sources.__path__)
    },
}
FIELDS = [
    pytest.param(kind, field.name, id=f"{kind.__module__.removeprefix('mde.')}.{field.name}")
    for kind in SECTIONS
    for field in dataclasses.fields(kind)
]


def parse_changed(kind: type, name: str, value: Any) -> Any:
    return parse_section(PATH, "here", SECTIONS[kind] | {name: value}, kind)


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_a_key_with_a_slip_is_answered_with_the_right_one(kind: type, name: str):
    for slip in {name + name[-1], name[0] + name, name.replace("_", "-") + "s"}:
        with pytest.raises(InputError) as caught:
            parse_changed(kind, slip, 1)
        assert f"{PATH}: here.{slip}: unknown key '{slip}'" in str(caught.value)
        assert f"did you mean '{name}'?" in str(caught.value)
        assert all(field.name in str(caught.value) for field in dataclasses.fields(kind))


UNIONS = (types.UnionType, typing.Union)


def takes(kind: type, name: str) -> set[Any]:
    """The types that a field may have: `int | None` takes int and None, Literal["a"] takes str."""
    found = typing.get_type_hints(kind)[name]
    parts = typing.get_args(found) if typing.get_origin(found) in UNIONS else (found,)
    origins = [typing.get_origin(part) or part for part in parts]
    return {str if origin is typing.Literal else origin for origin in origins}


NUMBERS = [field for field in FIELDS if takes(*field.values) & {int, float}]
# Of each wrong value: what a field must be able to be, to take it.
WRONG: list[tuple[Any, set[Any]]] = [
    ("1e-4", {str}),
    ("8", {str}),
    ("true", {str}),
    (True, {bool}),
    (1, {int, float}),
    (0.5, {float}),
    (None, {type(None)}),
    ([1], {tuple}),
    ({"a": 1}, set()),
]


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_a_value_of_another_type_is_refused_with_what_was_found(kind: type, name: str):
    allowed = takes(kind, name)
    for value, takers in WRONG:
        if allowed & takers:
            continue
        with pytest.raises(InputError) as caught:
            parse_changed(kind, name, value)
        message = str(caught.value)
        assert f"{PATH}: here.{name}" in message
        # Of a list, the item is told.
        assert isinstance(value, dict | list) or f"found {value!r}" in message


@pytest.mark.parametrize(("kind", "name"), NUMBERS)
@pytest.mark.parametrize("value", [float("nan"), -float("inf")])
def test_no_number_may_be_nan_or_endless(kind: type, name: str, value: float):
    with pytest.raises(InputError, match=rf"(?s)params\.yaml: here.*{name}"):
        parse_changed(kind, name, value)


def test_a_whole_number_is_good_for_a_fraction():
    assert parse_changed(Recipe, "lr", 1).lr == 1.0
