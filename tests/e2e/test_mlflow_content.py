"""What MLflow has of a run beside its numbers: once each, also when delivery dies midway."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image

from mde.files import file_sha256, write_json
from mde.storage import open_storage
from mde.tracking.delivery import KEY_TAG, Delivery, sync
from mde.tracking.run_folder import GROUP_TAG, Artifacts, DatasetUsed, Delivered, End, RunFolder
from mde.tracking.runs import PARENT_TAG
from mde.tracking.store import TrackedRun, connect
from mde.tracking.system import INTERVAL, SWITCH, SystemSampler
from mde.train.journal import read_segment, segments

pytestmark = pytest.mark.e2e

SOURCE = json.dumps({"uri": "s3://bucket/shards/toy"})
TOY = DatasetUsed("toy", "ab" * 8, "s3", SOURCE, {"train": 5, "val": 2, "test": 3}, "training")
FILES = {"params.yaml": b"lr: 0.5 # exact\n", "uncommitted.patch": b"diff\n"}


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One for all tests, as it takes seconds to make."""
    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        connect(folder)
        yield


def new_run(root: Path, name: str = "toy", group: str = "repro-1") -> RunFolder:
    """A run that has ended, with everything that a run can have."""
    folder = RunFolder(open_storage(root / "checkpoints" / f"{name}-0123456789"))
    folder.begin(name, {"lr": "0.5"}, {GROUP_TAG: group}, False, (TOY,), FILES)
    for step in (40, 80):
        picture = Image.fromarray(np.full((30, 400, 3), step, np.uint8))
        local = root / "picture.png"
        picture.save(local)
        folder.storage.write(f"pictures/depth/{step:09d}.png", local.read_bytes())
    folder.storage.write("model/MLmodel", b"{}")
    state = root / "models" / name / "checkpoint/state.json"
    write_json(state, {"run": name})
    made = Artifacts(f"models/{name}/checkpoint", file_sha256(state))
    folder.write_end(End("FINISHED", 17, made))
    return folder


def in_mlflow(root: Path, key: str) -> tuple[MlflowClient, Run]:
    client = connect(root)
    experiment = client.get_experiment_by_name("mde")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`{KEY_TAG}` = '{key}'")
    return client, run


def files_of(client: MlflowClient, run: Run, folder: str) -> list[str]:
    return [file.path for file in client.list_artifacts(run.info.run_id, folder)]


def check_whole(root: Path, key: str) -> None:
    """Everything of `new_run` is in MLflow, and once."""
    client, run = in_mlflow(root, key)
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("toy", "ab" * 8)
    assert json.loads(used.dataset.profile) == {"num_rows": 10, "train": 5, "val": 2, "test": 3}
    assert files_of(client, run, "code") == ["code/params.yaml", "code/uncommitted.patch"]
    local = client.download_artifacts(run.info.run_id, "code/params.yaml")
    assert Path(local).read_bytes() == FILES["params.yaml"]
    names = files_of(client, run, "images")
    for step in (40, 80):
        shown = [name for name in names if name.startswith(f"images/depth+step+{step}+timestamp+")]
        assert sorted(name.rpartition(".")[2] for name in shown) == ["png", "webp"]
    assert len(names) == 4
    assert run.data.tags["mlflow.loggedImages"] == "True"
    whole = ["checkpoint/MLmodel", "checkpoint/state.json"]
    assert files_of(client, run, "checkpoint") == whole


def parents(root: Path, group: str) -> list[Run]:
    client = connect(root)
    experiment = client.get_experiment_by_name("mde")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], f"tags.`{PARENT_TAG}` = '{group}'"))


def test_all_of_a_run_is_delivered_once_and_then_forgotten(tmp_path: Path) -> None:
    folder = new_run(tmp_path)
    key = folder.record.key
    assert not folder.settled
    synced = sync(tmp_path, folder)
    assert synced is not None
    assert synced.problems == ()
    check_whole(tmp_path, key)
    assert folder.record is None


class Died(BaseException):
    """The process is gone, as far as what it leaves behind is concerned."""


class Dying(RunFolder):
    """Remembers so many things, and dies when MLflow has one that is not yet remembered."""

    def __init__(self, of: RunFolder, writes: int) -> None:
        super().__init__(of.storage)
        self.left = writes

    def write_delivered(self, delivered: Delivered) -> None:
        if self.left == 0:
            raise Died
        self.left -= 1
        super().write_delivered(delivered)


def test_nothing_is_there_twice_when_delivery_dies_before_it_remembers(tmp_path: Path) -> None:
    folder = new_run(tmp_path, group="killed")
    key = folder.record.key
    for writes in (0, 0, 1, 1, 1, 1, 1, 1, 1):
        with pytest.raises(Died):
            Delivery(tmp_path, Dying(folder, writes)).deliver()
    # All but the checkpoint, which has been sent as well.
    assert len(folder.delivered.once) == 5
    sync(tmp_path, folder)
    check_whole(tmp_path, key)
    assert len(parents(tmp_path, "killed")) == 1


def test_runs_of_a_group_have_one_parent(tmp_path: Path) -> None:
    keys = []
    for name in ("toy", "other"):
        folder = new_run(tmp_path, name, "both")
        keys.append(folder.record.key)
        sync(tmp_path, folder)
    (parent,) = parents(tmp_path, "both")
    assert (parent.info.run_name, parent.info.status) == ("both", "FINISHED")
    for key in keys:
        assert in_mlflow(tmp_path, key)[1].data.tags["mlflow.parentRunId"] == parent.info.run_id


def test_of_two_parents_that_were_made_at_once_one_is_left(tmp_path: Path) -> None:
    client = connect(tmp_path)
    experiment = client.get_experiment_by_name("mde")
    assert experiment is not None
    for _ in range(2):
        client.create_run(experiment.experiment_id, tags={PARENT_TAG: "twice"})
    folder = new_run(tmp_path, group="twice")
    key = folder.record.key
    sync(tmp_path, folder)
    (parent,) = parents(tmp_path, "twice")
    assert in_mlflow(tmp_path, key)[1].data.tags["mlflow.parentRunId"] == parent.info.run_id


def test_a_damaged_picture_is_named_and_the_rest_is_delivered(tmp_path: Path) -> None:
    folder = new_run(tmp_path)
    key = folder.record.key
    folder.storage.write("pictures/depth/000000060.png", b"noise")
    synced = sync(tmp_path, folder)
    assert synced is not None
    (problem,) = synced.problems
    assert "000000060.png: not a picture" in problem
    check_whole(tmp_path, key)
    assert not folder.settled


def test_the_split_that_is_scored_is_an_input_beside_the_training_data(tmp_path: Path) -> None:
    folder = new_run(tmp_path)
    key = folder.record.key
    sync(tmp_path, folder)
    client, run = in_mlflow(tmp_path, key)
    summary = {
        **{"dataset": "toy", "data_sha256": "ab" * 32, "split": "test", "images": 3},
        **{"protocol": "p", "metrics": {"a1": 0.5, "a1_6_8m": None}, "baselines": {}},
    }
    (tmp_path / "result").mkdir()
    for _ in range(2):
        TrackedRun(tmp_path, run.info.run_id).log_evaluation(tmp_path / "result", summary)
    found = {
        used.dataset.name: (used.dataset.source, used.tags[0].value)
        for used in client.get_run(run.info.run_id).inputs.dataset_inputs
    }
    assert client.get_run(run.info.run_id).data.metrics == {"p/a1": 0.5}
    assert found == {"toy": (SOURCE, "training"), "toy/test": (SOURCE, "evaluation")}


def test_use_of_the_machine_goes_on_by_the_seconds_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(INTERVAL, "0.2")
    folder = RunFolder(open_storage(tmp_path))
    started_ms = folder.begin("toy", {}, {}).created_ms
    steps: list[int] = []
    for hours in (0, 1):
        # As if it had been started an hour before, the second time.
        sampler = SystemSampler(folder.system, started_ms - hours * 3_600_000, print)
        sampler.start()
        sampler.stop()
        points = [p for name in segments(folder.system) for p in read_segment(folder.system, name)]
        steps = [point.step for point in points]
    assert len(steps) == 2
    assert steps[1] >= steps[0] + 3600
    names = {name for point in points for name in point.values}
    assert {"system/cpu_utilization_percentage", "system/disk_usage_percentage"} <= names
    assert "system/network_receive_megabytes" in names
    assert len(folder.waiting_system()) == 2
    assert folder.waiting_values() == 0
    monkeypatch.setenv(SWITCH, "false")
    silent = SystemSampler(open_storage(tmp_path / "off"), started_ms, print)
    silent.start()
    silent.stop()
    assert segments(silent.storage) == []
