"""Ray Train: two workers, and what ends a run."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from mde.cluster.fit import FitJob, fit
from mde.cluster.session import ClusterConfig
from mde.data.convert import convert, run_one_by_one
from mde.data.sources import load_source_config
from mde.errors import InputError
from mde.models import ModelConfig
from mde.train.checkpoint import read_state
from mde.train.guard import NotFiniteError
from mde.train.recipe import Stage
from mde.variants import load_variant
from tests.conftest import flip_a_bit

pytestmark = pytest.mark.cluster


@pytest.fixture
def job(tiny_root: Path, tmp_path: Path) -> FitJob:
    params = tiny_root / "params.yaml"
    config = load_source_config(params, "nyu_labeled")
    convert(config, tiny_root, tiny_root / "shards", run_one_by_one)
    variant = load_variant(params, "resfpn-resnet18")
    cluster, provenance = ClusterConfig(num_workers=1), {"variant": {"name": "r18"}}
    return FitJob(variant, tiny_root / "shards", str(tmp_path / "run"), cluster, provenance)


def changed(job: FitJob, recipe: dict[str, Any] | None = None, **cluster: Any) -> FitJob:
    new = dataclasses.replace(job.variant.recipe, **(recipe or {}))
    variant = dataclasses.replace(job.variant, recipe=new)
    cluster_config = dataclasses.replace(job.cluster, **cluster)
    return dataclasses.replace(job, variant=variant, cluster=cluster_config)


def test_two_workers_go_through_the_stages_of_a_recipe_and_say_how_they_stand_and_draw_it(
    job: FitJob, capfd: pytest.CaptureFixture[str]
) -> None:
    model = ModelConfig("eigen", "vgg16", "scratch", 0.1, width=0.05, input_size=(64, 96))
    stages = (Stage(1, train=("scale1", "scale2"), output=1), Stage(1, train=("scale3",)))
    two = changed(job, {"stages": stages, "epochs": 2, "batch_size": 2}, num_workers=2)
    staged = dataclasses.replace(two, variant=dataclasses.replace(two.variant, model=model))
    state = read_state(fit(staged))
    assert [point["stage"] for point in state["history"]] == [0, 1]
    assert all(point["val_loss"] > 0 for point in state["history"])
    assert state["step"] == state["history"][-1]["step"] == 6
    shown = capfd.readouterr().out
    assert re.search(
        r"resfpn-resnet18 · stage 2/2 · epoch 2/2 · step 3/3 · loss .* images/s · waiting", shown
    )
    assert "no pictures" not in shown
    drawn = sorted(Path(job.storage, "pictures").rglob("*.png"))
    assert [str(file.relative_to(job.storage)) for file in drawn] == [
        f"pictures/{key}/00000000{step}.png" for key in ("frames", "training") for step in (3, 6)
    ]
    assert all(np.asarray(Image.open(file)).std() > 20 for file in drawn)


def test_a_loss_that_is_not_finite_ends_the_run_at_once_and_leaves_the_batches(
    job: FitJob, capfd: pytest.CaptureFixture[str]
) -> None:
    hot = {"lr": 1e38, "optimizer": "sgd", "epochs": 2}
    broken = changed(job, hot, max_failures=3, num_workers=2)
    message = r"the (loss|gradient) is not finite .*samples: .*non_finite-rank"
    with pytest.raises(NotFiniteError, match=message):
        fit(broken)
    kept = sorted(Path(job.storage).glob("non_finite-rank*.safetensors"))
    assert [file.name[:16] for file in kept] == ["non_finite-rank0", "non_finite-rank1"]
    assert load_file(kept[0])["depth"].ndim == 4
    # Nothing was tried again.
    assert "failed" not in capfd.readouterr().out


def test_a_damaged_dataset_is_named_by_the_driver_and_not_trained_on_again(job: FitJob) -> None:
    flip_a_bit(next(job.data.glob("train-*.parquet")))
    with pytest.raises(InputError, match=r"train-\d+.parquet"):
        fit(changed(job, {"epochs": 1}, max_failures=3))
