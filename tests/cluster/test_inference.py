"""The pool of model actors: the same results whoever does the work, whatever happens to them."""

import dataclasses
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
import torch
from typer import Typer
from typer.testing import CliRunner

from mde.cli.infer import predict_dataset
from mde.cluster.inference import ActorPool, check_pool
from mde.cluster.session import ClusterConfig
from mde.data.convert import convert, run_one_by_one
from mde.data.shards import read_rows
from mde.data.sources import load_source_config
from mde.errors import InputError
from mde.evaluate import Evaluation, evaluate
from mde.inference import RowGroup, Work, row_groups
from mde.models import ModelConfig, build_model
from mde.predictions import read_predictions
from mde.predictor import load_depth_model
from mde.protocols import PROTOCOLS
from mde.train.checkpoint import save_model
from tests.conftest import PARAMS, flip_a_bit

pytestmark = pytest.mark.cluster

PROTOCOL = PROTOCOLS["nyu_labeled"]
ONE = ClusterConfig(cpus_per_evaluator=0.5)
TWO = dataclasses.replace(ONE, evaluators=2)


@pytest.fixture(scope="module")
def data(tiny_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three test images, each in a row group of its own."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "params.yaml").write_text(PARAMS)
    config = load_source_config(folder / "params.yaml", "nyu_labeled")
    small = dataclasses.replace(config, rows_per_shard=1)
    convert(small, tiny_sample, folder / "shards", run_one_by_one)
    return folder / "shards"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = ModelConfig("resfpn", "resnet18", "scratch", 0.5, 10.0)
    folder = tmp_path_factory.mktemp("checkpoint")
    variant = {"name": "tiny", "model": dataclasses.asdict(config)}
    save_model(folder, build_model(config), {"variant": variant, "data_sha256": "0" * 64})
    return folder


@pytest.fixture(scope="module")
def alone(checkpoint: Path, data: Path) -> Evaluation:
    """What one actor makes of the test images."""
    return evaluate(checkpoint, data, PROTOCOL, ActorPool(ONE))


def test_one_actor_scores_as_this_process_does(
    checkpoint: Path, data: Path, alone: Evaluation
) -> None:
    here = evaluate(checkpoint, data, PROTOCOL)
    assert here.summary["metrics"] == pytest.approx(alone.summary["metrics"], abs=1e-6)
    assert [panel.sample_id for panel in here.panels] == [p.sample_id for p in alone.panels]


def test_two_actors_one_of_them_killed_score_to_the_bit_as_one_does(
    checkpoint: Path, data: Path, alone: Evaluation, tmp_path: Path
) -> None:
    """And each process loads the model once, and keeps to its threads."""
    groups = row_groups(data, "test")
    victim, killed = groups[len(groups) // 2].place, tmp_path / "killed"

    def run(work: Work, groups: list[RowGroup]) -> Iterator[pa.Table]:
        def watched(group: RowGroup, device: torch.device) -> pa.Table:
            # The module's own function, in the actor's process.
            import mde.inference

            def counted(folder: Path) -> Any:
                with (tmp_path / f"loads-{os.getpid()}").open("a") as file:
                    file.write(f"{torch.get_num_threads()} ")
                return load_depth_model(folder)

            mde.inference.load_depth_model = counted
            table = work(group, device)
            if group.place == victim and not killed.exists():
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return table

        return ActorPool(TWO)(watched, groups)

    found = evaluate(checkpoint, data, PROTOCOL, run)
    assert killed.exists()
    ids = found.per_image["sample_id"].to_pylist()
    assert ids == [row["sample_id"] for row in read_rows(data, "test")]
    assert found.per_image.equals(alone.per_image)
    assert found.summary == alone.summary
    loads = [path.read_text() for path in tmp_path.glob("loads-*")]
    assert len(loads) >= 2
    assert set(loads) == {"1 "}


def test_a_row_group_that_kills_every_actor_ends_the_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mde.cluster.inference.RETRIES", 1)
    groups = row_groups(data, "test")

    def fatal(group: RowGroup, device: torch.device) -> pa.Table:
        with (tmp_path / "tries").open("a") as file:
            file.write("x")
        os.kill(os.getpid(), signal.SIGKILL)
        return pa.table({})

    with pytest.raises(InputError, match="an actor died"):
        list(ActorPool(ONE)(fatal, groups[:1]))
    assert len((tmp_path / "tries").read_text()) == 2


def test_faults_come_back_from_the_actors_as_what_they_are(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    for file in data.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    shard = Path(row_groups(tmp_path, "test")[-1].place)
    flip_a_bit(shard)
    with pytest.raises(InputError, match=rf"{shard.name}: row group 0 is damaged"):
        evaluate(checkpoint, tmp_path, PROTOCOL, ActorPool(ONE))


def test_actors_that_do_not_fit_are_refused_before_the_work() -> None:
    cpus = int(ray.cluster_resources()["CPU"])
    check_pool(ClusterConfig(evaluators=cpus))
    for config, key in (
        (ClusterConfig(evaluators=cpus + 1), r"room for \d+; lower cluster.evaluators"),
        (ClusterConfig(cpus_per_evaluator=cpus + 1), "room for 0"),
        (ClusterConfig(evaluators=100, cpus_per_evaluator=0.001, use_gpu=True), "GPU each"),
    ):
        with pytest.raises(InputError, match=key):
            list(ActorPool(config)(lambda group, device: pa.table({}), []))
    check_pool(ClusterConfig(evaluators=cpus + 1, autoscaling=True))


def test_the_command_predicts_a_split_and_says_where_it_lies(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    app, out = Typer(), tmp_path / "depths"
    app.command()(predict_dataset)
    (tmp_path / "params.yaml").write_text("cluster: {evaluators: 2, cpus_per_evaluator: 0.5}\n")
    options = ["--split", "train", "--out", str(out), "--params", str(tmp_path / "params.yaml")]
    result = CliRunner().invoke(app, [str(checkpoint), str(data), *options])
    assert result.exit_code == 0, result.output
    assert "depths in 1 shards, in m" in result.output
    found = [prediction.sample_id for prediction in read_predictions(out)]
    assert found == [row["sample_id"] for row in read_rows(data, "train")]
    again = CliRunner().invoke(app, [str(checkpoint), str(data), *options])
    assert again.exit_code == 1
