"""The pool of model actors: the same results whoever does the work, whatever happens to them."""

import dataclasses
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
import torch
from typer import Typer
from typer.testing import CliRunner

from mde.cli_infer import predict_dataset
from mde.cluster.inference import RETRIES, ActorPool, check_pool
from mde.cluster.session import ClusterConfig
from mde.data.convert import convert, run_one_by_one
from mde.data.shards import read_rows
from mde.data.sources import load_source_config
from mde.errors import InputError
from mde.evaluate import evaluate
from mde.inference import BatchPredictor, RowGroup, Work, load_depth_model, row_groups
from mde.models import ModelConfig, build_model
from mde.predictions import predict_split, read_predictions
from mde.protocols import PROTOCOLS
from mde.scoring import Scorer, baselines
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


def test_two_actors_score_to_the_bit_as_one_does(checkpoint: Path, data: Path) -> None:
    one, two = (evaluate(checkpoint, data, PROTOCOL, ActorPool(pool)) for pool in (ONE, TWO))
    assert one.per_image.equals(two.per_image)
    assert one.summary == two.summary
    here = evaluate(checkpoint, data, PROTOCOL)
    assert here.summary["metrics"] == pytest.approx(one.summary["metrics"], abs=1e-6)
    assert [panel.sample_id for panel in here.panels] == [panel.sample_id for panel in two.panels]


def test_an_actor_that_is_killed_loses_and_doubles_no_image(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    groups = row_groups(data, "test")
    victim, killed = groups[len(groups) // 2].place, tmp_path / "killed"

    def run(work: Work, groups: list[RowGroup]) -> Iterator[pa.Table]:
        def killed_once(group: RowGroup, device: torch.device) -> pa.Table:
            table = work(group, device)
            if group.place == victim and not killed.exists():
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return table

        return ActorPool(TWO)(killed_once, groups)

    found = evaluate(checkpoint, data, PROTOCOL, run)
    assert killed.exists()
    ids = found.per_image["sample_id"].to_pylist()
    assert ids == [row["sample_id"] for row in read_rows(data, "test")]
    assert max(Counter(ids).values()) == 1
    whole = evaluate(checkpoint, data, PROTOCOL, ActorPool(ONE))
    assert found.per_image.equals(whole.per_image)


def test_a_row_group_that_kills_every_actor_ends_the_run(data: Path, tmp_path: Path) -> None:
    groups = row_groups(data, "test")

    def fatal(group: RowGroup, device: torch.device) -> pa.Table:
        with (tmp_path / "tries").open("a") as file:
            file.write("x")
        os.kill(os.getpid(), signal.SIGKILL)
        return pa.table({})

    with pytest.raises(InputError, match="an actor died"):
        list(ActorPool(ONE)(fatal, groups[:1]))
    assert len((tmp_path / "tries").read_text()) == RETRIES + 1


def test_each_actor_loads_the_model_once_and_keeps_to_its_threads(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    def count(group: RowGroup, device: torch.device) -> pa.Table:
        # The module's own function, in the actor's process.
        import mde.inference

        original = load_depth_model

        def counted(folder: Path) -> Any:
            (tmp_path / f"load-{os.getpid()}-{Path(group.place).name}").touch()
            return original(folder)

        mde.inference.load_depth_model = counted
        table = work(group, device)
        return table.append_column("threads", pa.array([torch.get_num_threads()] * len(table)))

    work = Scorer(BatchPredictor(checkpoint), PROTOCOL, baselines(data, PROTOCOL))
    tables = list(ActorPool(TWO)(count, row_groups(data, "test")))
    assert {n for table in tables for n in table["threads"].to_pylist()} == {1}
    loads = Counter(path.name.split("-")[1] for path in tmp_path.glob("load-*"))
    assert loads
    assert set(loads.values()) == {1}


def test_faults_come_back_from_the_actors_as_what_they_are(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    for file in data.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    shard = Path(row_groups(tmp_path, "test")[-1].place)
    flip_a_bit(shard)
    with pytest.raises(InputError, match=rf"{shard.name}: row group 0 is damaged"):
        evaluate(checkpoint, tmp_path, PROTOCOL, ActorPool(TWO))


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
    predict_split(checkpoint, data, "train", tmp_path / "alone", ActorPool(ONE))
    for file in out.iterdir():
        assert file.read_bytes() == (tmp_path / "alone" / file.name).read_bytes()
    again = CliRunner().invoke(app, [str(checkpoint), str(data), *options])
    assert again.exit_code == 1
