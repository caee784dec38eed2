"""Promotions against a real MLflow server: at once, after a dead one, by hand, and refused ones."""

import multiprocessing
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import typer
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from typer.testing import CliRunner

from mde import succession
from mde.cli.promote import promote as promote_command
from mde.errors import InputError
from mde.files import read_json, write_json
from mde.layout import Layout
from mde.promotion import PromotionConfig
from mde.registry import promote
from mde.tracking.store import connect
from pipelines.register import main as register_stage
from tests.e2e.mlflow_proxy import Model, Proxy, serve, small_checkpoint, state_of

pytestmark = pytest.mark.e2e

FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with serve(tmp_path_factory.mktemp("mlflow")) as found:
        yield found


@pytest.fixture
def client(proxy: Proxy, tmp_path: Path) -> MlflowClient:
    proxy.watch()
    return connect(tmp_path)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def variant() -> str:
    return f"v-{uuid4().hex}"


def tags_of(client: MlflowClient, variant: str) -> dict[str, dict[str, str]]:
    versions = client.search_model_versions(f"name = 'mde-{variant}'")
    return {str(version.version): dict(version.tags) for version in versions}


def test_of_many_values_of_a_param_the_first_one_stays(client: MlflowClient) -> None:
    experiment = client.get_experiment_by_name("mde")
    assert experiment
    run_id = client.create_run(experiment.experiment_id).info.run_id
    # As a champion's: a claim is logged long after the run has ended.
    client.set_terminated(run_id)
    for n in range(10):
        refused: list[int] = []
        together = threading.Barrier(8)

        def claim(
            value: int,
            key: str = f"claim.{n}",
            together: threading.Barrier = together,
            refused: list[int] = refused,
        ) -> None:
            together.wait()
            try:
                client.log_param(run_id, key, value)
            except MlflowException:
                refused.append(value)

        threads = [threading.Thread(target=claim, args=(value,)) for value in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        winner = int(client.get_run(run_id).data.params[f"claim.{n}"])
        assert sorted([*refused, winner]) == list(range(8))


def test_six_at_once_make_a_chain_that_ends_with_the_best(
    client: MlflowClient, checkpoint: Path, tmp_path: Path, variant: str
) -> None:
    errors = [0.30, 0.22, 0.34, 0.26, 0.2, 0.38]
    models = [Model.trained(tmp_path, checkpoint, variant, error) for error in errors]
    together = FORK.Barrier(len(models))

    def target(model: Model) -> None:
        together.wait()
        model.register()

    processes = [FORK.Process(target=target, args=(model,)) for model in models]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * len(models)
    tags, (aliases, _) = tags_of(client, variant), state_of(client, variant)
    assert tags[aliases["champion"]]["abs_rel"] == "0.2"
    promoted = {n: t["promotion_over"] for n, t in tags.items() if t["promotion"] == "champion"}
    chain = [next(n for n, over in promoted.items() if over == "none")]
    while follower := next((n for n, over in promoted.items() if over == chain[-1]), None):
        assert float(tags[follower]["abs_rel"]) < float(tags[chain[-1]]["abs_rel"])
        chain.append(follower)
    assert sorted(chain) == sorted(promoted), promoted
    assert chain[-1] == aliases["champion"]
    others = tags.keys() - promoted.keys()
    assert all("worse by" in tags[number]["promotion_reason"] for number in others)
    assert {tags[number]["promotion"] for number in others} <= {"challenger"}


def test_a_claim_whose_process_died_is_carried_out_by_the_next_promotion(
    client: MlflowClient,
    checkpoint: Path,
    tmp_path: Path,
    variant: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Model.trained(tmp_path, checkpoint, variant, 0.3).register()
    dying = Model.trained(tmp_path, checkpoint, variant, 0.25)
    with monkeypatch.context() as patch:
        patch.setattr(succession, "_move", lambda *_: pytest.exit("killed"))
        with pytest.raises(pytest.exit.Exception):
            dying.register()
    assert state_of(client, variant)[0] == {"champion": "1"}
    monkeypatch.setattr(succession, "WAIT", 0.5)
    last = Model.trained(tmp_path, checkpoint, variant, 0.2).register()
    assert last.alias == "champion"
    assert [t["promotion_over"] for _, t in sorted(tags_of(client, variant).items())] == [
        "none", "1", "2",
    ]  # fmt: skip
    again = dying.register()
    assert (again.verdict, again.alias, again.uri) == (
        "champion", None, f"models:/mde-{variant}/2",
    )  # fmt: skip


def test_a_version_by_hand_is_one_that_later_ones_have_to_beat(
    client: MlflowClient, checkpoint: Path, tmp_path: Path, variant: str
) -> None:
    Model.trained(tmp_path, checkpoint, variant, 0.2).register()
    second = Model.trained(tmp_path, checkpoint, variant, 0.3).register()
    assert second.alias == "challenger"
    assert second.reason.startswith("abs_rel 0.3")
    assert "champion (version 1) 0.2" in second.reason
    app = typer.Typer()
    app.command()(promote_command)
    command = [f"models:/mde-{variant}@challenger", "--root", str(tmp_path), "--reason"]
    shown = CliRunner().invoke(app, [*command, "less blurred"])
    assert shown.exit_code == 0, shown.output
    assert "version 2 is champion: by hand, by " in shown.output
    assert state_of(client, variant)[0] == {"champion": "2"}
    tags = tags_of(client, variant)["2"]
    assert tags["promotion_reason"].endswith(": less blurred")
    assert (tags["promotion"], tags["promotion_over"]) == ("champion", "1")
    assert '"at": "20' in tags["promotion_record"]
    third = Model.trained(tmp_path, checkpoint, variant, 0.25).register()
    assert third.alias == "champion"
    # Back to the first one in MLflow itself, as a person does, and with the command.
    client.set_registered_model_alias(f"mde-{variant}", "champion", "1")
    fourth = Model.trained(tmp_path, checkpoint, variant, 0.22).register()
    assert (fourth.verdict, tags_of(client, variant)["4"]["promotion_over"]) == ("challenger", "1")
    promote(tmp_path, f"models:/mde-{variant}/3", "as before", "anna")
    assert Model.trained(tmp_path, checkpoint, variant, 0.21).register().alias == "champion"
    assert tags_of(client, variant)["5"]["promotion_over"] == "3"


def test_what_cannot_be_promoted_is_told(
    client: MlflowClient, checkpoint: Path, tmp_path: Path, variant: str
) -> None:
    Model.trained(tmp_path, checkpoint, variant, 0.2).register()
    for uri, reason, message in (
        (f"models:/mde-{variant}/7", "why", "no version 7; there are: 1"),
        (f"models:/mde-{variant}/1", "why", "version 1 is champion already"),
        (f"models:/mde-{variant}/1", " ", "needs a reason"),
    ):
        with pytest.raises(InputError, match=message):
            promote(tmp_path, uri, reason, "anna")


def test_what_is_not_of_the_same_test_set_becomes_challenger_and_the_reason_says_what_to_do(
    client: MlflowClient, checkpoint: Path, tmp_path: Path, variant: str
) -> None:
    champion = Model.trained(tmp_path, checkpoint, variant, 0.3)
    champion.register()
    model = Model.trained(tmp_path, checkpoint, variant, 0.2)
    for result, message in (
        ({"protocol": "nyu_labeled@2"}, "its protocol is nyu_labeled@1, here it"),
        ({"test_sha256": "ef" * 32}, "its test_sha256 is cdcd"),
        ({"images": 39}, "1 images are scored for one of the two only"),
    ):
        found = model.evaluated(0.21, **result).register()  # type: ignore[arg-type]
        assert (found.alias, found.improvement) == ("challenger", None)
        assert found.reason.startswith("not compared with the champion, version 1: ")
        assert message in found.reason
        assert f"By hand: mde promote models:/mde-{variant}/2 --reason" in found.reason
    # Under the same protocol on the same images it wins, and what wins is said.
    found = model.evaluated(0.2).register(PromotionConfig(margin=0.5))
    assert "better by 33" in found.reason
    assert found.reason.find("not surely by 50 %") > 0
    found = model.evaluated(0.201).register()
    assert found.alias == "champion"
    assert found.bounds
    assert 0 < found.bounds[0] < found.bounds[1]


def test_a_champion_whose_table_or_run_is_gone_keeps_its_place_until_a_person_decides(
    client: MlflowClient, checkpoint: Path, proxy: Proxy, tmp_path: Path, variant: str
) -> None:
    champion = Model.trained(tmp_path, checkpoint, variant, 0.3)
    champion.register()
    (table,) = proxy.artifacts.glob(f"*/{champion.run_id}/artifacts/evaluation/*.parquet")
    content = table.read_bytes()
    table.write_bytes(content[:-9])
    model = Model.trained(tmp_path, checkpoint, variant, 0.2)
    assert "per_image.parquet of its MLflow run" in model.register().reason
    table.unlink()
    gone = model.evaluated(0.21).register()
    assert "there is no evaluation/per_image.parquet of its MLflow run" in gone.reason
    client.delete_run(champion.run_id)
    deleted = model.evaluated(0.22).register()
    assert "its MLflow run is deleted" in deleted.reason
    assert state_of(client, variant)[0] == {"champion": "1", "challenger": "2"}
    assert promote(tmp_path, f"models:/mde-{variant}/2", "the old one is lost", "anna").alias == (
        "champion"
    )
    assert state_of(client, variant)[0] == {"champion": "2"}


def test_results_that_do_not_belong_together_are_refused(
    client: MlflowClient, checkpoint: Path, tmp_path: Path, variant: str
) -> None:
    model = Model.trained(tmp_path, checkpoint, variant, 0.3)
    del model.summary["test_sha256"]
    with pytest.raises(InputError, match="has no test_sha256; evaluate again: dvc repro"):
        model.register()
    old = model.evaluated(0.3)
    model.evaluated(0.3, test_sha256="ef" * 32)
    with pytest.raises(InputError, match=r"its test_sha256 is efef.*evaluate again"):
        old.register()
    assert state_of(client, variant) == ({}, {})


def test_the_stage_prints_and_writes_what_was_decided(
    client: MlflowClient,
    checkpoint: Path,
    tmp_path: Path,
    variant: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "params.yaml").write_text("run: {}\n")
    layout, found = Layout(tmp_path), {}
    for error in (0.3, 0.2, 0.4):
        model = Model.trained(tmp_path, checkpoint, variant, error)
        write_json(layout.model(variant) / "run.json", {"run_id": model.run_id})
        write_json(layout.result(variant) / "metrics.json", model.summary)
        shutil.copy(model.per_image, layout.result(variant))
        register_stage(variant, tmp_path / "params.yaml", tmp_path)
        found = read_json(layout.registered(variant))
        shown = capsys.readouterr().out
        assert (
            f"mde-{variant} version {found['version']} is {found['verdict']}: {found['reason']}\n"
            f"it loads as {found['uri']}\n"
        ) in shown
    assert (found["verdict"], found["version"], found["metric"]) == ("challenger", "3", "abs_rel")
    assert found["bounds"][0] < found["improvement"] < found["bounds"][1] < 0
    assert "worse by" in found["reason"]
