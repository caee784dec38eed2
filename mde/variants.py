"""A variant: model, dataset, objective, recipe and protocol under one name of `params.yaml`."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mde.config import find_section, load_params, parse_section, unknown_key
from mde.data.augment import Augment
from mde.errors import InputError
from mde.models import ModelConfig
from mde.protocols import PROTOCOLS, Protocol
from mde.train.objectives import OBJECTIVES, ObjectiveConfig
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


def _parse(section: dict[str, Any], path: Path, key: str, name: str) -> Variant:
    for part in section:
        if part not in PARTS:
            raise InputError(f"{path}: {key}: {unknown_key(str(part), PARTS)}")
    for part in PARTS:
        if part not in section:
            raise InputError(f"{path}: {key}.{part}: this key is required and is not there")
    kind = find_section(section, path, "objective").get("kind")
    if kind not in OBJECTIVES:
        raise InputError(f"{path}: {key}.objective.kind: {unknown_key(str(kind), OBJECTIVES)}")
    if section["protocol"] not in PROTOCOLS:
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
