"""`ray job submit` as docs/cluster.md has it: a cluster with a token, a team's servers, their keys.

The keys are in the environment of the nodes alone. After a whole pipeline they are found nowhere.
"""

import json
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import pytest
from mlflow import MlflowClient

from infra.services import Services
from mde.data.sample import SampleConfig, write_nyu_labeled
from tests.conftest import REPOSITORY, TINY
from tests.e2e.ray_cluster import Cluster

pytestmark = pytest.mark.e2e

VARIANT = "resfpn-resnet18"
STAGES = ("convert@nyu_labeled", *(f"{s}@{VARIANT}" for s in ("train", "evaluate", "register")))
PARAMS = """
sample: {{}}
datasets:
  nyu_labeled:
    source: nyu_labeled
    raw: {raw}
    height: 64
    width: 96
    rows_per_shard: 4
    val_scenes: 0.3
variants:
  resfpn-resnet18:
    dataset: nyu_labeled
    model: {{family: resfpn, encoder: resnet18, weights: scratch, min_depth: 0.1}}
    objective: {{kind: supervised, loss: mse}}
    recipe: {{epochs: 2, batch_size: 4, lr: 5e-4}}
    augment: {{}}
    protocol: nyu_labeled
run: {{storage: "s3://mde/runs"}}
cluster: {{num_workers: 1, cpus_per_worker: 0.5, data: "s3://mde/shards"}}
"""


@dataclass
class Team:
    """services, nodes: that run. code: a checkout. root: MDE_ROOT. raw: data to convert."""

    services: Services
    nodes: Cluster
    code: Path
    root: Path

    def run(self, *words: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """A command of somebody who has the cluster's token, and no other key."""
        environment = {**self.nodes.environment, **changes}
        # A submitter is no driver.
        del environment["RAY_ADDRESS"]
        return subprocess.run(
            [*words[:3], "--address", self.nodes.dashboard, *words[3:]],
            cwd=self.code,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )

    def submit(self, *command: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """A job with the code; it knows where MDE_ROOT is."""
        runtime = json.dumps({"env_vars": {"MDE_ROOT": str(self.root)}})
        options = ("--working-dir", ".", "--runtime-env-json", runtime)
        entry = ("env", "MDE_GIT_COMMIT=0123abc", *command)
        return self.run("ray", "job", "submit", *options, "--", *entry, **changes)


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    folder = tmp_path_factory.mktemp("team")
    code = folder / "code"
    for name in ("mde", "pipelines", ".dvc/config", ".dvcignore", "dvc.yaml", ".rayignore"):
        if (REPOSITORY / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(REPOSITORY / name, code / name, ignore=ignore)
        else:
            (code / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, code / name)
    write_nyu_labeled(folder / "raw", SampleConfig(**TINY))
    (code / "params.yaml").write_text(PARAMS.format(raw=folder / "raw"))
    with Services(folder / "services") as services:
        ray = tmp_path_factory.mktemp("ray")
        nodes = Cluster(ray, head_cpus=2, secrets_of_nodes=services.environment)
        try:
            yield Team(services, nodes, code, folder / "root")
        finally:
            nodes.close()


@pytest.fixture(scope="module")
def log(team: Team) -> str:
    """What a job with the whole pipeline has printed."""
    done = team.submit("python", "-m", "pipelines.repro", "report")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_job_runs_the_whole_pipeline(team: Team, log: str) -> None:
    for stage in (*STAGES, "report"):
        assert f"Running stage '{stage}'" in log
    assert "epoch 2/2" in log
    assert "note:" not in log
    state = team.root / "models" / VARIANT / "checkpoint/state.json"
    assert json.loads(state.read_text())["git_commit"] == "0123abc"
    assert VARIANT in (team.root / "reports/index.html").read_text()


@pytest.fixture
def client(team: Team, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """A client of the team's server, with a password."""
    for name, value in team.services.environment.items():
        monkeypatch.setenv(name, value)
    uri = team.services.environment["MLFLOW_TRACKING_URI"]
    # Other tests of this process may have set another registry.
    return MlflowClient(uri, registry_uri=uri)


def test_what_the_job_has_made_is_on_the_servers(
    team: Team, log: str, client: MlflowClient
) -> None:
    version = client.get_model_version_by_alias(f"mde-{VARIANT}", "champion")
    assert client.get_run(version.run_id).info.status == "FINISHED"
    with psycopg2.connect(team.services.postgres_uri) as database, database.cursor() as cursor:
        cursor.execute("SELECT name, alias, version FROM registered_model_aliases")
        assert (f"mde-{VARIANT}", "champion", 1) in cursor.fetchall()
    artifacts, store = (team.services.folder / name for name in ("artifacts", "store"))
    assert list(artifacts.glob(f"mlflow/**/{version.run_id}/**/model.safetensors"))
    assert list(store.glob("mde/shards/**/*.parquet"))
    assert not (team.root / "mlflow.db").exists()
    assert not (team.root / "checkpoints").exists()


def test_keys_of_the_nodes_are_found_nowhere(team: Team, log: str, client: MlflowClient) -> None:
    keys = [value for name, value in vars(team.services.keys).items() if not name.endswith("_id")]
    keys.append(Path(team.nodes.environment["RAY_AUTH_TOKEN_PATH"]).read_text())
    used = team.services.environment
    assert {used["MLFLOW_TRACKING_PASSWORD"], used["AWS_SECRET_ACCESS_KEY"]} < set(keys)
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    assert any(run.data.tags.get("variant") == VARIANT for run in runs)
    listed = team.run("ray", "job", "list")
    assert "pipelines.repro" in listed.stdout
    said = {
        "the log": log,
        "ray job list": listed.stdout,
        "MLflow": repr([run.to_dictionary() for run in runs]),
    }
    for place, text in said.items():
        assert not any(key in text for key in keys), place
    folders = [team.root, *(team.services.folder / name for name in ("artifacts", "store"))]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 100
    for path in files:
        content = path.read_bytes()
        assert not any(key.encode() in content for key in keys), path


def test_a_second_job_runs_nothing(team: Team, log: str) -> None:
    done = team.submit("python", "-m", "pipelines.repro", "report")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Running stage" not in done.stdout
    assert "up to date" in done.stdout


def test_a_stage_that_fails_fails_the_job(team: Team, log: str) -> None:
    params = team.code / "params.yaml"
    before = params.read_text()
    params.write_text(before.replace("epochs: 2", "epochs: two"))
    try:
        done = team.submit("python", "-m", "pipelines.repro", "report")
    finally:
        params.write_text(before)
    assert done.returncode == 1
    assert "recipe.epochs" in done.stdout
    assert f"failed to reproduce 'train@{VARIANT}'" in done.stdout
    assert "Running stage 'evaluate" not in done.stdout
    # What the stage has not begun to replace is still there.
    assert (team.root / "registered" / f"{VARIANT}.json").is_file()


def test_a_single_stage_that_fails_says_why(team: Team) -> None:
    done = team.submit("python", "-m", "pipelines.train", "--variant", "resfpn-resnet81")
    assert done.returncode == 1
    assert "did you mean 'resfpn-resnet18'" in done.stdout


def test_without_the_token_nobody_gets_in(team: Team, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text(secrets.token_hex(32))
    done = team.submit("python", "-V", RAY_AUTH_TOKEN_PATH=str(wrong))
    assert done.returncode != 0
