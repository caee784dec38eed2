"""`params.yaml`: what is shipped loads, and every mistake is named with file, key and way out."""

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from mde.config import load_params, load_section
from mde.data.sources import get_source, load_source_config
from mde.errors import InputError
from mde.protocols import PROTOCOLS
from mde.train.recipe import Recipe
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
        (
            f"{V}.recipe.stages",
            [{"epochs": 1}, {"epochs": 1, "trian": ["scale1"]}],
            f"{V}.recipe.stages.1.trian: unknown key 'trian'; did you mean 'train'",
        ),
        # Wrong types.
        (f"{V}.recipe.lr", "1e-4", f"{V}.recipe.lr: .*number, found '1e-4'"),
        (f"{V}.recipe.epochs", 1.5, f"{V}.recipe.epochs: .*integer.*, found 1.5"),
        (f"{V}.recipe.epochs", True, f"{V}.recipe.epochs: .*integer, found True"),
        (f"{V}.recipe.epochs", None, f"{V}.recipe.epochs: .*integer, found None"),
        (f"{V}.recipe", [1], f"{V}.recipe: .*found \\[1\\]"),
        (f"{V}.recipe", None, f"{V}.recipe: "),
        (f"{V}.objective", "l1", "objective: expected a mapping, found 'l1'"),
        (f"{V}.objective.kind", ["supervised"], f"{V}.objective.kind: .* Allowed: self_superv"),
        (f"{V}.protocol", ["nyu"], f"{V}.protocol: unknown key .* Allowed: kitti_benchmark, "),
        (f"{V}.protocol", None, f"{V}.protocol: unknown key 'None'"),
        (f"{V}.dataset", ["rooms"], "datasets.*did you mean 'rooms'"),
        (f"{V}.recipe.stages", {"epochs": 2}, f"{V}.recipe.stages: .*array"),
        (f"{V}.recipe.stages", [2], f"{V}.recipe.stages.0: .*found 2"),
        (f"{V}.recipe.stages", [{"epochs": "2"}], f"{V}.recipe.stages.0.epochs: .*found '2'"),
        (f"{V}.model.input_size", [64, "64"], f"{V}.model.input_size.1: .*integer, found '64'"),
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
        (f"{V}.protocol", "nyu", f"{V}.protocol: unknown key 'nyu'.* Allowed: kitti_benchmark, "),
        (f"{V}.dataset", "room", "datasets.room: unknown key 'room'; did you mean 'rooms'"),
        # Required keys.
        (f"{V}.dataset", ABSENT, f"{V}.dataset: this key is required and is not there"),
        (f"{V}.protocol", ABSENT, f"{V}.protocol: this key is required and is not there"),
        (f"{V}.recipe.epochs", ABSENT, f"{V}.recipe.epochs: this key is required and is not there"),
        (f"{V}.model.family", ABSENT, f"{V}.model.family: this key is required and is not there"),
        (f"{V}.objective.kind", ABSENT, f"{V}.objective.kind: .*Allowed: self_supervised, superv"),
        # The top level.
        ("varients", {}, "unknown key 'varients'; did you mean 'variants'"),
        ("variants", None, f"{V}: unknown key 'small'. Allowed: none"),
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


@pytest.mark.parametrize("text", ["2024-01-31: 1", "? [a, b]\n      : 1", "flip: &a [*a]"])
def test_what_is_no_plain_mapping_of_names_is_refused(tmp_path: Path, text: str):
    path = write(tmp_path, VALID)
    path.write_text(path.read_text().replace("flip: 0.5", text))
    with pytest.raises(InputError, match=rf"params\.yaml: {V}\.augment: a key that is no text, or"):
        load_variant(path, "small")


def test_exponents_without_a_point_are_numbers(tmp_path: Path):
    path = write(tmp_path, VALID)
    path.write_text(path.read_text().replace("lr: 0.0001", "lr: 5e-4"))
    assert load_section(path, f"{V}.recipe", Recipe).lr == 5e-4


@pytest.mark.parametrize("text", ['"5e-4"', "'5e-4'", "5e-4 m", "!!str 5e-4", "yes", "[5e-4]"])
def test_texts_that_look_like_numbers_are_none(tmp_path: Path, text: str):
    path = write(tmp_path, VALID)
    path.write_text(path.read_text().replace("lr: 0.0001", f"lr: {text}"))
    with pytest.raises(InputError, match=rf"params\.yaml: {V}\.recipe\.lr: .*number, found"):
        load_variant(path, "small")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("source", "nyu_labelled", "source: unknown source .*did you mean 'nyu_labeled'"),
        ("source", ["nyu_labeled"], "source: unknown source .*known: folder, kitti"),
        ("source", None, "source: unknown source 'None'"),
        ("source", ABSENT, "source: this key is required and is not there"),
        ("raw", ABSENT, "raw: this key is required and is not there"),
        ("raw", 3, "raw: .*string, found 3"),
        ("height", "Native", "height: .*integer, found 'Native'.*height: .*'native', found 'Nati"),
        ("height", 0, "height must be positive, found 0"),
        ("max_rejected", 2, "max_rejected is a share of 1, found 2"),
        ("ratio", [1, 0, 0], "ratio: unknown key 'ratio'; did you mean 'ratios'"),
        ("ratios", [0.5, 0.5], "ratios.2: this key is required"),
    ],
)
def test_a_mistake_in_a_dataset_is_named(tmp_path: Path, key: str, value: Any, message: str):
    path = write(tmp_path, changed(VALID, f"datasets.rooms.{key}", value))
    with pytest.raises(InputError, match=rf"(?s)params\.yaml: datasets\.rooms.*{message}"):
        load_source_config(path, "rooms")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a mapping with the keys sample, datasets, variants, run, promotion, "),
        ("- 1\n- 2\n", "expected a mapping with the keys"),
        ("variants: {a: [}\n", "not valid YAML"),
        ("variants:\n  a: 1\n  a: 2\n", "not valid YAML"),
        ("variants:\n\t- 1\n", "not valid YAML"),
        ("variants: {}\n---\nvariants: {}\n", "not valid YAML"),
        ("# nothing\n", "expected a mapping with the keys"),
        ("null\n", "expected a mapping with the keys"),
        ("variants\n", "expected a mapping with the keys"),
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
