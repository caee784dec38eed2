"""Processes of a training are killed in mid-epoch; what comes out is what comes out undisturbed."""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from mde.cluster.fit import FitJob, fit
from mde.cluster.session import ClusterConfig
from mde.data.convert import convert, run_one_by_one
from mde.data.sources import load_source_config
from mde.errors import InputError
from mde.models import ModelConfig
from mde.storage import open_storage
from mde.train.checkpoint import read_state
from mde.train.checkpoints import RunConfig, checkpoint_names
from mde.train.journal import read_segment, segments
from mde.variants import load_variant
from tests.conftest import PARAMS

pytestmark = pytest.mark.cluster

TIMES = {"images_per_s", "data_wait", "epoch_s"}


@pytest.fixture(scope="module")
def job(tiny_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> FitJob:
    """Two epochs of some steps each, on one worker, with a checkpoint after every step."""
    folder = tmp_path_factory.mktemp("faults")
    params = folder / "params.yaml"
    params.write_text(PARAMS)
    config = load_source_config(params, "nyu_labeled")
    convert(config, tiny_sample, folder / "shards", run_one_by_one)
    variant = load_variant(params, "resfpn-resnet18")
    # With dropout, so that chance has a part in it, and small, so that it is saved in no time.
    model = ModelConfig("eigen", "vgg16", "scratch", 0.1, width=0.05, input_size=(64, 96))
    recipe = dataclasses.replace(variant.recipe, epochs=3, batch_size=1)
    variant = dataclasses.replace(variant, model=model, recipe=recipe)
    keep = RunConfig(checkpoint_steps=1, log_steps=1)
    cluster = ClusterConfig(num_workers=1, max_failures=1)
    storage = str(folder / "undisturbed")
    return FitJob(variant, folder / "shards", storage, cluster, {"variant": {"name": "x"}}, keep)


@pytest.fixture(scope="module")
def undisturbed(job: FitJob) -> Path:
    return fit(job)


def curves(storage_uri: str) -> list[tuple[int, str, float]]:
    storage = open_storage(storage_uri)
    points = [p for name in segments(storage) for p in read_segment(storage, name)]
    return sorted((p.step, k, v) for p in points for k, v in p.values.items() if k not in TIMES)


def once_in_mid_epoch(storage_uri: str, do: Callable[[], None]) -> threading.Thread:
    """Do something when a run has a checkpoint in the midst of its second epoch."""

    def wait() -> None:
        storage = open_storage(storage_uri)
        while True:
            # The newest may give way to a newer one while it is looked at.
            with contextlib.suppress(InputError, FileNotFoundError):
                for name in checkpoint_names(storage)[:1]:
                    state = read_state(storage.fetch_folder(name))
                    if state["epoch"] == 1 and state["done"] >= 2:
                        return do()
            time.sleep(0.02)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def kill_rank_0() -> None:
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "RayTrainWorker" in "".join(process.cmdline()):
                process.kill()


def test_a_killed_worker_is_replaced_and_changes_nothing(
    job: FitJob, undisturbed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cut = dataclasses.replace(job, storage=str(tmp_path / "killed"))
    killing = once_in_mid_epoch(cut.storage, kill_rank_0)
    result = fit(cut)
    assert not killing.is_alive()
    assert "going on after step" in capfd.readouterr().out
    expected, found = (load_file(f / "model.safetensors") for f in (undisturbed, result))
    assert all(bool((expected[name] == found[name]).all()) for name in expected)
    assert curves(cut.storage) == curves(job.storage)
