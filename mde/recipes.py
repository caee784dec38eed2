"""Recipes of the published projects: a file each, and how one gets into a params file.

`recipes/<variant>.yaml`, beside the params file, has the same keys: one dataset, and the variant
that the file is named after. Files are put together as text, so that comments stay.
"""

import difflib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

from mde.config import load_params, unknown_key
from mde.data.sources import SourceConfig, load_source_config
from mde.errors import InputError
from mde.schema import SPLITS
from mde.variants import Variant, load_variant
from mde.yaml_edit import get_entry, parse_yaml, put_entry, set_value


@dataclass(frozen=True)
class PublishedRecipe:
    """A checked recipe file. path: the file. source: settings of the variant's dataset."""

    path: Path
    variant: Variant
    source: SourceConfig

    @property
    def input_size(self) -> tuple[int | str, int | str]:
        """(H, W) of the images that the network sees, px, or `native`."""
        return self.variant.augment.size or (self.source.height, self.source.width)


@dataclass(frozen=True)
class Overrides:
    """What may differ from a recipe; None: as it is there. workers: those of the cluster."""

    batch_size: int | None = None
    epochs: int | None = None
    workers: int | None = None


@dataclass(frozen=True)
class Switch:
    """A params file before and after a recipe has been put into it.

    raw: where the raw data of the dataset are, as the new text says.
    """

    params: Path
    recipe: PublishedRecipe
    old: str
    new: str
    raw: str

    @property
    def diff(self) -> list[str]:
        """Lines of the unified diff, without line ends; empty when nothing changes."""
        lines = self.old.splitlines(), self.new.splitlines()
        names = self.params.name, f"{self.params.name} (new)"
        return list(difflib.unified_diff(*lines, *names, lineterm=""))

    def missing_raw(self, root: Path) -> list[str]:
        """Raw data that are not there below `root`, as far as the dataset's settings name them."""
        if "://" in self.raw:
            # The conversion says what is not there.
            return []
        raw = root / self.raw
        if not raw.exists():
            return [self.raw]
        lists = [getattr(self.recipe.source, split, None) for split in SPLITS]
        names = [name for name in lists if name and raw.is_dir()]
        return [f"{self.raw}/{name}" for name in names if not (raw / name).exists()]

    def write(self) -> None:
        """Write the params file in one rename."""
        target = self.params.resolve()  # A link stays a link.
        draft = target.with_name(f".{target.name}.partial")
        try:
            shutil.copy(target, draft)
            draft.write_text(self.new, encoding="utf-8")
            os.replace(draft, target)
        finally:
            draft.unlink(missing_ok=True)


def recipe_folder(params: Path) -> Path:
    """Where the recipes are: beside the params file."""
    return params.parent / "recipes"


def load_recipe(path: Path) -> PublishedRecipe:
    """Read and check a recipe file. Raises InputError that names the file and the bad key."""
    content = load_params(path)
    variants = list(content.get("variants") or {})
    if variants != [path.stem]:
        raise InputError(
            f"{path}: variants: expected '{path.stem}' alone, as the file is named, found "
            f"{', '.join(map(str, variants)) or 'none'}"
        )
    variant = load_variant(path, path.stem)
    datasets = list(content.get("datasets") or {})
    if datasets != [variant.dataset]:
        raise InputError(
            f"{path}: datasets: expected '{variant.dataset}' alone, found {', '.join(datasets)}"
        )
    if others := sorted(content.keys() - {"datasets", "variants"}):
        raise InputError(f"{path}: a recipe has datasets and variants only, found {others[0]}")
    return PublishedRecipe(path, variant, load_source_config(path, variant.dataset))


def list_recipes(params: Path) -> tuple[list[PublishedRecipe], dict[Path, InputError]]:
    """The recipes beside a params file, by name, and what is wrong with the other files."""
    recipes, errors = [], {}
    for path in _recipe_files(params):
        try:
            recipes.append(load_recipe(path))
        except InputError as error:
            errors[path] = error
    return recipes, errors


def find_recipe(params: Path, name: str) -> PublishedRecipe:
    """The recipe of that name; raises InputError with the nearest name when there is none."""
    files = {path.stem: path for path in _recipe_files(params)}
    if name not in files:
        raise InputError(f"{recipe_folder(params)}: {unknown_key(name, files)}")
    return load_recipe(files[name])


def _recipe_files(params: Path) -> list[Path]:
    files = sorted(recipe_folder(params).glob("*.yaml"), key=lambda path: path.stem)
    if not files:
        raise InputError(f"{recipe_folder(params)}: no recipe (*.yaml) in this folder")
    return files


def switch(params: Path, recipe: PublishedRecipe, overrides: Overrides) -> Switch:
    """Put a recipe into the text of a params file; nothing is written.

    The variant of that name is replaced. So is the dataset, but for `raw`: where files lie is the
    machine's matter. Raises InputError when the outcome would not be right.
    """
    name, dataset = recipe.variant.name, recipe.variant.dataset
    if overrides.epochs is not None and recipe.variant.recipe.stages:
        raise InputError(
            f"{recipe.path}: this recipe trains in stages, so --epochs says too little; use it as "
            f"it is, then set epochs of each of variants.{name}.recipe.stages and their sum, "
            f"variants.{name}.recipe.epochs, in {params}"
        )
    before = load_params(params)
    old, text = params.read_text(encoding="utf-8"), recipe.path.read_text(encoding="utf-8")
    raw = _present_raw(before, dataset) or recipe.source.raw
    values: list[tuple[list[str], Any]] = [
        (["variants", name, "recipe", "batch_size"], overrides.batch_size),
        (["variants", name, "recipe", "epochs"], overrides.epochs),
        (["datasets", dataset, "raw"], raw if raw != recipe.source.raw else None),
    ]
    try:
        for keys, value in values:
            text = text if value is None else set_value(text, keys, value)
        new = put_entry(old, "datasets", dataset, get_entry(text, "datasets", dataset))
        new = put_entry(new, "variants", name, get_entry(text, "variants", name))
        if overrides.workers is not None:
            new = set_value(new, ["cluster", "num_workers"], overrides.workers)
    except InputError as error:
        raise InputError(f"{params}: {error}") from error
    _check(params, new, _expected(before, parse_yaml(text), overrides.workers))
    return Switch(params, recipe, old, new, raw)


def _present_raw(params: dict[str, Any], dataset: str) -> str | None:
    present = (params.get("datasets") or {}).get(dataset)
    raw = present.get("raw") if isinstance(present, dict) else None
    return raw if isinstance(raw, str) else None


def _expected(
    before: dict[str, Any], recipe: dict[str, Any], workers: int | None
) -> dict[str, Any]:
    after = before | {
        section: (before.get(section) or {}) | recipe[section]
        for section in ("datasets", "variants")
    }
    if workers is not None:
        after["cluster"] = (before.get("cluster") or {}) | {"num_workers": workers}
    return after


def _check(params: Path, text: str, expected: dict[str, Any]) -> None:
    # Text was cut and joined: what it says must be the old content with the recipe's, no more.
    try:
        right = parse_yaml(text) == expected
    except YAMLError:
        right = False
    if not right:
        raise InputError(
            f"{params}: its lines cannot be edited safely; copy the dataset and the variant from "
            "the recipe by hand"
        )
