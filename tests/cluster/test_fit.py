"""Ray Train with two workers, interrupted and resumed."""

import dataclasses
from pathlib import Path

import pytest
from safetensors.torch import load_file

from mde.cluster.fit import FitJob, fit
from mde.cluster.session import ClusterConfig
from mde.data.convert import convert, run_one_by_one
from mde.data.sources import load_source_config
from mde.errors import InputError
from mde.models import ModelConfig
from mde.train.checkpoint import read_state
from mde.train.recipe import Stage
from mde.variants import Variant, load_variant
from tests.conftest import flip_a_bit

pytestmark = pytest.mark.cluster


@pytest.fixture
def job(tiny_root: Path) -> FitJob:
    params = tiny_root / "params.yaml"
    config = load_source_config(params, "nyu_labeled")
    convert(config, tiny_root, tiny_root / "shards", run_one_by_one)
    variant = load_variant(params, "resfpn-resnet18")
    cluster = ClusterConfig(num_workers=1)
    return FitJob(variant, tiny_root / "shards", cluster, {"variant": variant.as_dict()})


def with_epochs(job: FitJob, epochs: int, **cluster: int) -> FitJob:
    variant: Variant = dataclasses.replace(
        job.variant, recipe=dataclasses.replace(job.variant.recipe, epochs=epochs)
    )
    changed = dataclasses.replace(job.cluster, **cluster)
    return dataclasses.replace(job, variant=variant, cluster=changed)


def nothing(metrics: dict[str, float]) -> None:
    pass


def test_a_run_goes_on_where_it_stopped(job: FitJob, tmp_path: Path) -> None:
    whole = fit(with_epochs(job, 2), tmp_path, "whole", nothing)
    fit(with_epochs(job, 1), tmp_path, "parts", nothing)
    resumed = fit(with_epochs(job, 2), tmp_path, "parts", nothing)
    state = read_state(resumed)
    assert [point["epoch"] for point in state["history"]] == [1, 2]
    expected, found = (load_file(folder / "model.safetensors") for folder in (whole, resumed))
    assert all(bool((expected[name] == found[name]).all()) for name in expected)


def test_two_workers_share_the_epoch(job: FitJob, tmp_path: Path) -> None:
    state = read_state(fit(with_epochs(job, 1, num_workers=2), tmp_path, "two", nothing))
    assert state["step"] == state["history"][-1]["step"] > 0
    assert state["history"][-1]["val_loss"] > 0


def test_two_workers_go_through_the_stages_of_a_recipe(job: FitJob, tmp_path: Path) -> None:
    model = ModelConfig("eigen", "vgg16", "scratch", 0.1, width=0.05, input_size=(64, 96))
    stages = (Stage(1, train=("scale1", "scale2"), output=1), Stage(1, train=("scale3",)))
    recipe = dataclasses.replace(job.variant.recipe, stages=stages, epochs=2, accumulate=2)
    variant = dataclasses.replace(job.variant, model=model, recipe=recipe)
    staged = dataclasses.replace(with_epochs(job, 2, num_workers=2), variant=variant)
    history = read_state(fit(staged, tmp_path, "staged", nothing))["history"]
    assert [point["stage"] for point in history] == [0, 1]
    assert all(point["val_loss"] > 0 for point in history)


def test_a_loss_that_is_not_finite_ends_the_run_and_leaves_the_batch(
    job: FitJob, tmp_path: Path
) -> None:
    hot = dataclasses.replace(job.variant.recipe, lr=1e38, optimizer="sgd", epochs=2)
    once = with_epochs(job, 2, max_failures=0)
    broken = dataclasses.replace(once, variant=dataclasses.replace(job.variant, recipe=hot))
    with pytest.raises(Exception, match=r"the loss is not finite .*samples: .*non_finite-rank0"):
        fit(broken, tmp_path, "broken", nothing)
    (kept,) = (tmp_path / "broken").glob("non_finite-rank0-*.safetensors")
    assert load_file(kept)["depth"].ndim == 4


def test_a_damaged_dataset_is_named_by_the_driver(job: FitJob, tmp_path: Path) -> None:
    flip_a_bit(next(job.data.glob("train-*.parquet")))
    with pytest.raises(InputError, match=r"train-\d+.parquet"):
        fit(with_epochs(job, 1, max_failures=0), tmp_path, "damaged", nothing)
