"""A variant: model, dataset, objective, recipe and protocol under one name of `params.yaml`."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mde.config import find_section, load_params, parse_section, unknown_key
from mde.data.augment import Augment
from mde.errors import InputError
from mde.models import ModelConfig, build_mask, build_model, build_pose
from mde.protocols import PROTOCOLS, Protocol
from mde.train.objectives import (
    OBJECTIVES,
    Objective,
    ObjectiveConfig,
    SelfSupervisedConfig,
    build_objective,
)
from mde.train.recipe import Recipe

PARTS = ("dataset", "model", "objective", "recipe", "augment", "protocol")


@dataclass(frozen=True)
class Variant:
    """What is trained and how it is judged."""

    name: str
    dataset: str
    model: ModelConfig
    objective: ObjectiveConfig
    recipe: Recipe
    augment: Augment
    protocol: Protocol

    def as_dict(self) -> dict[str, Any]:
        """Plain values for checkpoints and trackers; `from_dict` reads them back."""
        return {**asdict(self), "protocol": self.protocol.name}


def load_variant(path: Path, name: str) -> Variant:
    """Read variant `name` of a params file; raises InputError that names the bad key."""
    params = load_params(path)
    section = find_section(params, path, f"variants.{name}")
    variant = _parse(section, path, f"variants.{name}", name)
    find_section(params, path, f"datasets.{variant.dataset}")
    return variant


def from_dict(content: dict[str, Any], path: Path) -> Variant:
    """Rebuild a variant from `as_dict`, as it stands in the file `path`."""
    section = {key: value for key, value in content.items() if key != "name"}
    return _parse(section, path, "variant", content["name"])


def build_networks(variant: Variant) -> Objective:
    """The depth model and what trains along, in the variant's objective."""
    config, model = variant.objective, build_model(variant.model)
    if not isinstance(config, SelfSupervisedConfig):
        return build_objective(config, model)
    pose = build_pose(variant.model) if config.needs_pose else None
    mask = build_mask(model, config.num_sources) if config.needs_mask else None
    return build_objective(config, model, pose, mask)


def check_networks(variant: Variant, size: tuple[int, int] | None, where: str) -> None:
    """Go through the stages of a training with shapes alone: no memory, no weights, no data.

    size: (H, W) of the batches, where it is known. where: file and key, for the message.
    Raises InputError for settings that the networks do not take: a size that does not fit, a stage
    of a part or of a map that is not there.
    """
    shapes_only = replace(variant, model=replace(variant.model, weights="scratch"))
    try:
        with torch.device("meta"):
            objective = build_networks(shapes_only)
            for stage in variant.recipe.all_stages:
                objective.start_stage(stage.train, stage.output)
                if size is not None:
                    natives = objective.model(torch.zeros(2, 3, *size))
                    _check_output(stage.output, len(natives))
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def _check_output(output: int, num_maps: int) -> None:
    if output >= num_maps:
        raise ValueError(f"output: the model has {num_maps} native maps, found number {output}")


def _parse(section: dict[str, Any], path: Path, key: str, name: str) -> Variant:
    for part in section:
        if part not in PARTS:
            raise InputError(f"{path}: {key}: {unknown_key(str(part), PARTS)}")
    for part in PARTS:
        if part not in section:
            raise InputError(f"{path}: {key}.{part}: this key is required and is not there")
    kind = str(find_section(section, path, "objective").get("kind"))
    if kind not in OBJECTIVES:
        raise InputError(f"{path}: {key}.objective.kind: {unknown_key(kind, OBJECTIVES)}")
    if str(section["protocol"]) not in PROTOCOLS:
        problem = unknown_key(str(section["protocol"]), PROTOCOLS)
        raise InputError(f"{path}: {key}.protocol: {problem}")

    def parse(part: str, kind: Any) -> Any:
        return parse_section(path, f"{key}.{part}", section[part], kind)

    model = parse("model", ModelConfig)
    if kind == "self_supervised" and model.family != "monodepth2":
        raise InputError(
            f"{path}: {key}.objective: self_supervised trains the disparities of family "
            f"'monodepth2', found '{model.family}'"
        )
    return Variant(
        name=name,
        dataset=section["dataset"],
        model=model,
        objective=parse("objective", OBJECTIVES[kind][0]),
        recipe=parse("recipe", Recipe),
        protocol=PROTOCOLS[section["protocol"]],
        augment=parse("augment", Augment),
    )
