"""Published recipes: each file is right, and a switch changes what it says and nothing else."""

import difflib
import shutil
from functools import cache
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mde.cli import app
from mde.config import load_params
from mde.errors import InputError
from mde.recipes import Overrides, find_recipe, list_recipes, load_recipe, recipe_folder, switch
from mde.variants import from_dict, load_variant

SHIPPED = Path(__file__).parents[2] / "params.yaml"
RECIPES = sorted(SHIPPED.with_name("recipes").glob("*.yaml"))
published = cache(load_recipe)


@pytest.fixture
def params(tmp_path: Path, params_file: Path) -> Path:
    """A copy of the shipped params file, with the shipped recipes beside it."""
    shutil.copytree(recipe_folder(params_file), tmp_path / "recipes")
    return Path(shutil.copy(params_file, tmp_path / "params.yaml"))


def use(params: Path, name: str, **overrides: int) -> list[str]:
    """Switch, write, and give the lines of the diff that change something."""
    switched = switch(params, find_recipe(params, name), Overrides(**overrides))
    switched.write()
    return [line for line in switched.diff[2:] if line[0] in "+-"]


# --- What is shipped --------------------------------------------------------------------------


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_right(path: Path):
    recipe = published(path)
    assert recipe.variant.name == path.stem
    assert recipe.variant.objective.images[1:] == () or recipe.source.source == "kitti"
    assert from_dict(recipe.variant.as_dict(), path) == recipe.variant


def test_datasets_of_one_name_are_the_same_so_that_one_conversion_serves_all():
    sources: dict[str, object] = {}
    for recipe in map(published, RECIPES):
        assert sources.setdefault(recipe.variant.dataset, recipe.source) == recipe.source
    assert len({str(source) for source in sources.values()}) == len(sources)


@pytest.mark.parametrize(
    ("name", "epochs", "batch_size", "lr", "optimizer", "size"),
    [
        ("monodepth2-resnet18-m", 20, 12, 1e-4, "adam", (192, 640)),
        ("monodepth2-resnet18-s", 20, 12, 1e-4, "adam", (192, 640)),
        ("monodepth2-resnet18-ms", 20, 12, 1e-4, "adam", (192, 640)),
        ("monodepth2-densenet121-m", 20, 9, 1e-4, "adam", (320, 1024)),
        ("monodepth2-densenet121-s", 20, 10, 1e-4, "adam", (320, 1024)),
        ("monodepth2-densenet121-ms", 20, 9, 1e-4, "adam", (320, 1024)),
        ("densedepth-densenet169", 20, 8, 1e-4, "adam", (480, 640)),
        ("densedepth-densenet169-quarter", 236, 8, 1e-4, "adamw", (480, 640)),
        ("fastdepth-mobilenet", 70, 32, 0.01, "sgd", (224, 224)),
        ("eigen-vgg16", 200, 16, 1e-4, "adam", (228, 304)),
        ("resfpn-resnet18", 20, 8, 1e-4, "adamw", (480, 640)),
    ],
)
def test_the_numbers_are_the_published_ones(name, epochs, batch_size, lr, optimizer, size):
    recipe = published(SHIPPED.with_name("recipes") / f"{name}.yaml")
    found = recipe.variant.recipe
    assert (found.epochs, found.batch_size, found.lr, found.optimizer) == (
        epochs, batch_size, lr, optimizer,
    )  # fmt: skip
    assert recipe.input_size == size


@pytest.mark.parametrize(
    ("name", "lr_step", "lr_gamma"), [("resnet18", 15, 0.1), ("densenet121", 5, 0.3)]
)
def test_the_two_encoders_of_monodepth2_have_schedules_of_their_own(name, lr_step, lr_gamma):
    found = published(SHIPPED.with_name("recipes") / f"monodepth2-{name}-ms.yaml").variant.recipe
    assert (found.schedule, found.lr_step, found.lr_gamma) == ("step", lr_step, lr_gamma)


# --- Switching --------------------------------------------------------------------------------

ONE_OF_EACH = (
    "monodepth2-resnet18-ms", "densedepth-densenet169", "eigen-vgg16", "resfpn-resnet18",
)  # fmt: skip


def test_recipes_fit_into_the_shipped_params_one_after_the_other(params: Path):
    expected = load_params(params)
    for name in ONE_OF_EACH:
        use(params, name)
        recipe = load_params(params.parent / "recipes" / f"{name}.yaml")
        for section in ("datasets", "variants"):
            expected[section] |= recipe[section]
    assert load_params(params) == expected
    assert list(load_params(params)["variants"]) == list(expected["variants"])
    assert load_variant(params, ONE_OF_EACH[0]).name == ONE_OF_EACH[0]


def test_a_second_switch_changes_nothing(params: Path):
    assert use(params, "monodepth2-resnet18-ms")
    assert use(params, "monodepth2-resnet18-ms") == []


MINE = """# Mine.
datasets:
    rooms: {source: nyu_labeled, raw: raw, height: 64, width: 64}  # small

# What is trained.
variants:

    # Before.
    first: {dataset: rooms}   # kept

    # About resfpn.
    resfpn-resnet18:
        dataset: rooms
        # The last comment of it.

    # About last.
    last:
        dataset: rooms

# The end.
cluster: {num_workers: 1, use_gpu: false}  # flow"""


def test_other_lines_and_comments_stay_to_the_letter(params: Path):
    params.write_text(MINE)
    use(params, "resfpn-resnet18", workers=4)
    text = params.read_text()
    new = text.splitlines()
    changes = [line for line in difflib.ndiff(MINE.splitlines(), new) if line[0] == "-"]
    assert changes == [
        "-         dataset: rooms",
        "-         # The last comment of it.",
        "- cluster: {num_workers: 1, use_gpu: false}  # flow",
    ]
    assert new[-1] == "cluster: {num_workers: 4, use_gpu: false}  # flow"
    assert "    # About resfpn.\n    resfpn-resnet18:\n      dataset: nyu_h5_48k\n" in text
    assert "\n\n    # About last.\n" in text
    assert list(load_params(params)["variants"]) == ["first", "resfpn-resnet18", "last"]


def test_comments_of_a_recipe_come_along(params: Path):
    use(params, "densedepth-densenet169")
    assert "# 127 000 steps, as in the code." in params.read_text()


def test_sections_that_are_not_there_are_added(params: Path):
    params.write_text("cluster:\n  use_gpu: true\n")
    use(params, "eigen-vgg16", workers=2)
    assert list(load_params(params)) == ["cluster", "datasets", "variants"]
    assert load_params(params)["cluster"] == {"num_workers": 2, "use_gpu": True}
    assert (
        load_variant(params, "eigen-vgg16")
        == load_recipe(params.parent / "recipes/eigen-vgg16.yaml").variant
    )


def test_overrides_change_their_numbers_alone(params: Path):
    use(params, "monodepth2-densenet121-m")
    changes = use(params, "monodepth2-densenet121-m", batch_size=48, epochs=3, workers=8)
    added = [line[1:].split("#")[0].strip() for line in changes if line[0] == "+"]
    assert added == ["epochs: 3", "batch_size: 48", "num_workers: 8"]


def test_a_dataset_that_is_there_keeps_its_raw_folder_and_nothing_else(params: Path):
    use(params, "monodepth2-resnet18-m")
    text = params.read_text()
    assert "raw: data/raw/kitti\n" in text
    params.write_text(
        text.replace("raw: data/raw/kitti\n", "raw: '/nfs/my kitti'\n").replace("640\n", "416\n")
    )
    use(params, "monodepth2-resnet18-ms")
    dataset = load_params(params)["datasets"]["kitti_eigen_zhou_640x192"]
    assert (dataset["raw"], dataset["width"]) == ("/nfs/my kitti", 640)


def test_a_link_to_a_params_file_stays_a_link(params: Path):
    target = params.rename(params.with_name("real.yaml"))
    params.symlink_to(target)
    use(params, "resfpn-resnet18")
    assert params.is_symlink()
    assert load_variant(target, "resfpn-resnet18").dataset == "nyu_h5_48k"
    assert sorted(path.name for path in params.parent.iterdir()) == [
        "params.yaml", "real.yaml", "recipes",
    ]  # fmt: skip


# --- Mistakes ---------------------------------------------------------------------------------


def test_epochs_of_a_recipe_in_stages_are_those_of_its_stages(params: Path):
    with pytest.raises(InputError, match=r"--epochs .* variants\.eigen-vgg16\.recipe\.stages"):
        switch(params, find_recipe(params, "eigen-vgg16"), Overrides(epochs=2))


def test_an_unknown_recipe_is_named_with_the_nearest(params: Path):
    with pytest.raises(InputError, match="'fastdepth'; did you mean 'fastdepth-mobilenet'"):
        find_recipe(params, "fastdepth")


def test_no_folder_of_recipes_is_an_error_that_names_it(tmp_path: Path):
    with pytest.raises(InputError, match=r"recipes: no recipe"):
        list_recipes(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "datasets: {}\n",
        "variants:\n",
        "datasets: {a: {source: nyu_labeled}}\n",
        "datasets:\n  a: &x {raw: b}\nvariants: {}\n",
    ],
)
def test_a_params_file_that_is_not_in_lines_is_refused_and_left_as_it_was(params: Path, text: str):
    params.write_text(text)
    with pytest.raises(InputError, match=r"params\.yaml: .*(datasets|variants): expected a block"):
        use(params, "resfpn-resnet18")
    assert params.read_text() == text


def test_lines_that_cannot_be_cut_are_noticed(params: Path):
    # The old variant holds an anchor that another one needs; and a text goes on at its level.
    for text in (
        "variants:\n  resfpn-resnet18:\n    model: &m {a: 1}\n  b:\n    model: *m\n",
        'variants:\n  resfpn-resnet18:\n    model: "one\n  two"\n',
    ):
        params.write_text(text)
        with pytest.raises(InputError, match="cannot be edited safely"):
            use(params, "resfpn-resnet18")
        assert params.read_text() == text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("batch_size: 8", "batch_sise: 8", "did you mean 'batch_size'"),
        ("source: nyu_h5", "source: nyu_h6", "unknown source 'nyu_h6'"),
        ("  resfpn-resnet18:", "  other:", "expected 'resfpn-resnet18' alone"),
        ("variants:", "cluster: {}\nvariants:", "found cluster"),
        ("  nyu_h5_48k:", "  a: {}\n  nyu_h5_48k:", "expected 'nyu_h5_48k' alone"),
    ],
)
def test_a_wrong_recipe_is_named_and_the_others_are_listed(
    params: Path, old: str, new: str, message: str
):
    path = params.parent / "recipes" / "resfpn-resnet18.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    for other in (params.parent / "recipes").glob("monodepth2-*"):
        other.unlink()
    found, errors = list_recipes(params)
    assert len(found) == 4
    assert list(errors) == [path]
    assert message in str(errors[path])
    with pytest.raises(InputError):
        find_recipe(params, "resfpn-resnet18")


# --- The command ------------------------------------------------------------------------------


def run(params: Path, *words: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error of `mde recipe`."""
    result = CliRunner().invoke(app, ["recipe", *words, "--params", str(params)])
    return result.exit_code, result.stdout, result.stderr


def test_the_list_has_every_recipe_in_a_line(params: Path):
    (params.parent / "recipes" / "broken.yaml").write_text("variants: {}\n")
    code, out, err = run(params, "list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == sorted(
        path.stem for path in RECIPES
    )
    assert out.splitlines()[-1].split()[-4:] == ["20", "8", "0.0001", "640x480"]
    assert "left out: " in err
    assert "broken.yaml" in err


def test_a_dry_run_shows_the_diff_and_writes_nothing(params: Path):
    before = params.read_text()
    code, out, _ = run(params, "use", "resfpn-resnet18", "--dry-run")
    assert code == 0
    assert "+    dataset: nyu_h5_48k\n" in out
    assert params.read_text() == before
    code, written, _ = run(params, "use", "resfpn-resnet18")
    assert code == 0
    assert out.split("\n\n")[0] in written
    assert load_variant(params, "resfpn-resnet18").dataset == "nyu_h5_48k"


def test_the_command_says_what_raw_data_is_missing_and_what_comes_next(params: Path):
    _, out, _ = run(params, "use", "monodepth2-resnet18-s")
    assert "Not there yet: data/raw/kitti (source kitti" in out
    assert out.endswith("Next: dvc repro train@monodepth2-resnet18-s\n")
    lists = params.parent / "data/raw/kitti/splits"
    (lists / "eigen_full").mkdir(parents=True)
    (lists / "eigen_full/train_files.txt").touch()
    _, out, _ = run(params, "use", "monodepth2-resnet18-s")
    assert "data/raw/kitti/splits/eigen_full/val_files.txt, " in out
    assert "train_files" not in out.split("Not there yet")[1]
    assert "has this recipe already" in out


def test_a_mistake_ends_in_one_message_and_exit_code_1(params: Path):
    before = params.read_text()
    code, out, err = run(params, "use", "eigen-vgg16", "--epochs", "3")
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert params.read_text() == before
