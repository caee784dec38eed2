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
from mde.train.checkpoint import read_state
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


def test_a_damaged_dataset_is_named_by_the_driver(job: FitJob, tmp_path: Path) -> None:
    flip_a_bit(next(job.data.glob("train-*.parquet")))
    with pytest.raises(InputError, match=r"train-\d+.parquet"):
        fit(with_epochs(job, 1, max_failures=0), tmp_path, "damaged", nothing)
