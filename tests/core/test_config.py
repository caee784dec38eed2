"""`params.yaml`: what is shipped loads, and every mistake is named with file, key and way out."""

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from mde.config import load_params, load_section
from mde.data.sources import get_source
from mde.errors import InputError
from mde.protocols import PROTOCOLS
from mde.train.loop import Recipe
from mde.variants import from_dict, load_variant

# --- What is shipped --------------------------------------------------------------------------


def test_every_shipped_dataset_loads(params_file: Path):
    for name, section in load_params(params_file)["datasets"].items():
        kind = get_source(section["source"]).Config
        config = load_section(params_file, f"datasets.{name}", kind)
        assert (config.height % 32, config.width % 32) == (0, 0)


def test_every_shipped_variant_loads_and_is_rebuilt_from_what_a_checkpoint_stores(
    params_file: Path,
):
    names = load_params(params_file)["variants"]
    assert names
    for name in names:
        variant = load_variant(params_file, name)
        assert variant.protocol in PROTOCOLS.values()
        assert from_dict(variant.as_dict(), Path("state.json")) == variant


# --- Mistakes ---------------------------------------------------------------------------------

VALID: dict[str, Any] = {
    "datasets": {"rooms": {"source": "nyu_labeled", "raw": "raw", "height": 64, "width": 64}},
    "variants": {
        "small": {
            "dataset": "rooms",
            "model": {"family": "resfpn", "encoder": "resnet18", "weights": "scratch"},
            "objective": {"kind": "supervised", "loss": "l1"},
            "recipe": {"epochs": 2, "batch_size": 4, "lr": 1e-4},
            "augment": {"flip": 0.5},
            "protocol": "nyu_labeled",
        }
    },
}
ABSENT = object()


def changed(content: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy of `content` with the dotted `key` set to `value`, or taken out."""
    first, _, rest = key.partition(".")
    if rest:
        return content | {first: changed(content[first], rest, value)}
    return {k: v for k, v in (content | {first: value}).items() if v is not ABSENT}


def write(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "params.yaml"
    YAML().dump(content, path)
    return path


def test_the_example_is_right_before_it_is_broken(tmp_path: Path):
    variant = load_variant(write(tmp_path, VALID), "small")
    assert (variant.recipe.epochs, variant.recipe.lr, variant.augment.flip) == (2, 1e-4, 0.5)


V = "variants.small"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        # Unknown keys, with the nearest one.
        (f"{V}.recipie", {}, f"{V}: unknown key 'recipie'; did you mean 'recipe'"),
        (f"{V}.recipe.epoch", 3, f"{V}.recipe.epoch: unknown key 'epoch'; did you mean 'epochs'"),
        (f"{V}.model.encodr", "x", f"{V}.model.encodr: unknown key 'encodr'; did you mean 'encod"),
        (f"{V}.augment.flips", 1, f"{V}.augment.flips: .* did you mean 'flip'.* Allowed: bright"),
        (f"{V}.objective.mode", "m", f"{V}.objective.mode: unknown key 'mode'.* Allowed: at, fr"),
        # Wrong types.
        (f"{V}.recipe.lr", "1e-4", f"{V}.recipe.lr: .*number, found '1e-4'"),
        (f"{V}.recipe.epochs", 1.5, f"{V}.recipe.epochs: .*integer.*, found 1.5"),
        (f"{V}.recipe.epochs", True, f"{V}.recipe.epochs: .*integer, found True"),
        (f"{V}.recipe.epochs", None, f"{V}.recipe.epochs: .*integer, found None"),
        (f"{V}.recipe", [1], f"{V}.recipe: .*found \\[1\\]"),
        (f"{V}.recipe", None, f"{V}.recipe: "),
        (f"{V}.objective", "l1", "objective: expected a mapping, found 'l1'"),
        ("variants", 3, "variants.small: "),
        # Out of range.
        (f"{V}.recipe.lr", 0, f"{V}.recipe: lr must be positive, found 0"),
        (f"{V}.recipe.lr", float("nan"), f"{V}.recipe.*lr"),
        (f"{V}.recipe.lr", float("inf"), f"{V}.recipe.*lr"),
        (f"{V}.recipe.batch_size", -8, f"{V}.recipe: batch_size must be positive, found -8"),
        (f"{V}.recipe.weight_decay", -0.1, f"{V}.recipe.*weight_decay"),
        (f"{V}.recipe.grad_clip", 0.0, f"{V}.recipe.*grad_clip"),
        (f"{V}.recipe.lr_gamma", -1.0, f"{V}.recipe.*lr_gamma"),
        (f"{V}.augment.flip", 2, f"{V}.augment: flip is a probability, found 2"),
        (f"{V}.augment.brightness", -1.0, f"{V}.augment.*brightness"),
        (f"{V}.model.min_depth", 50.0, f"{V}.model: 0 < min_depth < max_depth .* found 50.0, 10.0"),
        # Words that are not in a table, with the table.
        (f"{V}.recipe.optimizer", "sgdd", f"{V}.recipe.optimizer: .*'adamw' or 'sgd'.*'sgdd'"),
        (f"{V}.recipe.schedule", "cos", f"{V}.recipe.schedule: .*'cosine', found 'cos'"),
        (f"{V}.model.family", "resfpm", f"{V}.model: unknown family.*; known: .*resfpn"),
        (f"{V}.model.encoder", "resnet", f"{V}.model: unknown encoder.*; known: .*resnet18"),
        (f"{V}.objective.kind", "supervized", "did you mean 'supervised'.* Allowed: self_superv"),
        (f"{V}.objective.loss", "l3", f"{V}.objective: unknown loss 'l3'; known: .*, l1"),
        (f"{V}.protocol", "nyu", f"{V}.protocol: unknown key 'nyu'.* Allowed: kitti_eigen_mono, "),
        (f"{V}.dataset", "room", "datasets.room: unknown key 'room'; did you mean 'rooms'"),
        # Required keys.
        (f"{V}.dataset", ABSENT, f"{V}.dataset: this key is required and is not there"),
        (f"{V}.protocol", ABSENT, f"{V}.protocol: this key is required and is not there"),
        (f"{V}.recipe.epochs", ABSENT, f"{V}.recipe.epochs: this key is required and is not there"),
        (f"{V}.model.family", ABSENT, f"{V}.model.family: this key is required and is not there"),
        (f"{V}.objective.kind", ABSENT, f"{V}.objective.kind: .*Allowed: self_supervised, superv"),
        # The top level.
        ("varients", {}, "unknown key 'varients'; did you mean 'variants'"),
    ],
)
def test_a_mistake_is_named_with_file_and_key(tmp_path: Path, key: str, value: Any, message: str):
    path = write(tmp_path, changed(VALID, key, value))
    with pytest.raises(InputError, match=rf"(?s)params\.yaml: .*{message}"):
        load_variant(path, "small")


def test_an_unlikely_key_gets_no_suggestion_and_the_list(tmp_path: Path):
    path = write(tmp_path, changed(VALID, f"{V}.recipe.qqq", 1))
    with pytest.raises(InputError) as caught:
        load_variant(path, "small")
    assert "did you mean" not in str(caught.value)
    assert "unknown key 'qqq'. Allowed: accumulate, " in str(caught.value)


def test_every_mistake_of_a_section_is_listed_at_once(tmp_path: Path):
    content = changed(changed(VALID, f"{V}.recipe.lr", "high"), f"{V}.recipe.epochs", "many")
    with pytest.raises(InputError, match=r"(?s)recipe\.epochs.*\n.*recipe\.lr"):
        load_variant(write(tmp_path, content), "small")


def test_an_unknown_variant_is_refused_with_the_known_ones(params_file: Path):
    with pytest.raises(InputError, match=r"unknown key 'resfpn'.* Allowed: .*resfpn-resnet18"):
        load_variant(params_file, "resfpn")


def test_a_date_is_not_a_number(tmp_path: Path):
    path = write(tmp_path, VALID)
    path.write_text(path.read_text().replace("epochs: 2", "epochs: 2024-01-31"))
    with pytest.raises(InputError, match=r"recipe\.epochs"):
        load_variant(path, "small")


def test_exponents_without_a_point_are_numbers(tmp_path: Path):
    path = write(tmp_path, VALID)
    path.write_text(path.read_text().replace("lr: 0.0001", "lr: 5e-4"))
    assert load_section(path, f"{V}.recipe", Recipe).lr == 5e-4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a mapping with the keys sample, datasets, variants, cluster"),
        ("- 1\n- 2\n", "expected a mapping with the keys"),
        ("variants: {a: [}\n", "not valid YAML"),
        ("variants:\n  a: 1\n  a: 2\n", "not valid YAML"),
        ("variants:\n\t- 1\n", "not valid YAML"),
        ("variants: \x00\n", "not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, message: str):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"params\.yaml: {message}"):
        load_params(path)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path):
    path = tmp_path / "params.yaml"
    path.write_bytes(b"variants: \xff\xfe\n")
    with pytest.raises(InputError, match=r"params\.yaml: not valid YAML"):
        load_params(path)


def test_a_missing_file_is_named_with_the_option(tmp_path: Path):
    with pytest.raises(InputError, match=r"nowhere\.yaml: no such file; .* --params"):
        load_params(tmp_path / "nowhere.yaml")


def test_self_supervision_needs_a_model_that_has_a_scale(tmp_path: Path):
    objective = {"kind": "self_supervised", "mode": "ms"}
    path = write(tmp_path, changed(VALID, f"{V}.objective", objective))
    with pytest.raises(InputError, match=r"variants\.small.*resfpn"):
        load_variant(path, "small")
