"""A team's servers as they are: PostgreSQL, object stores and MLflow with users, all real."""

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
import psutil
import psycopg2
import pytest
import requests
from botocore.exceptions import ClientError

from infra.services import Services
from infra.services.backup import Content, back_up, restore
from infra.services.keys import shell_lines
from infra.services.object_store import client as s3
from infra.services.services import Ports
from mde.doctor.examination import Scope
from mde.doctor.machine_checks import check_mlflow
from mde.errors import InputError
from mde.files import file_sha256
from mde.provenance import Provenance
from mde.registry import fetch_version, promote
from mde.tracking.follow import follow
from mde.tracking.store import connect
from tests.conftest import REPOSITORY
from tests.e2e.mlflow_proxy import Model, small_checkpoint

pytestmark = pytest.mark.e2e


@dataclass
class Team:
    """Servers that were restored from others, which `python -m infra.services` had started."""

    services: Services
    model: Model
    weights: str
    former: "Former"

    @property
    def secrets(self) -> list[str]:
        return [value for name, value in vars(self.services.keys).items() if "id" not in name]

    @property
    def processes(self) -> list[psutil.Process]:
        found = [part.server.process for part in self.services._parts]
        ours = [psutil.Process(process.pid) for process in found if process]
        return [*ours, *(child for each in ours for child in each.children(recursive=True))]


@dataclass
class Former:
    """Servers that one command starts, until SIGTERM; and what is left of them then."""

    folder: Path
    backup: Path
    exit_code: int = -1
    environment: dict[str, str] = field(default_factory=dict)
    processes: list[psutil.Process] = field(default_factory=list)
    content: Content | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        ports = [f"--{name}-port=0" for name in ("mlflow", "postgres", "store", "artifacts")]
        command = [sys.executable, "-m", "infra.services", "--folder", str(self.folder)]
        command += ["--workers=1", *ports]
        said = self.backup.with_name("said")
        with said.open("w") as file:
            process = subprocess.Popen(command, cwd=REPOSITORY, stdout=file, stderr=file)
        try:
            while "to end: Ctrl-C" not in said.read_text():
                assert process.poll() is None, said.read_text()
                time.sleep(0.2)
            lines = (self.folder / "environment").read_text().splitlines()
            self.environment = dict(line.split("=", 1) for line in lines)
            self.processes = psutil.Process(process.pid).children(recursive=True)
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            self.exit_code = process.wait(60)


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    root, folder = tmp_path_factory.mktemp("root"), tmp_path_factory.mktemp("services")
    checkpoint = small_checkpoint(tmp_path_factory.mktemp("checkpoint"))
    former = Former(folder / "former", folder / "backup")
    with pytest.MonkeyPatch.context() as patch:
        with former.running():
            for name, value in former.environment.items():
                patch.setenv(name, value)
            model = Model.trained(root, checkpoint, "toy", 0.2)
            assert model.register().version == "1"
            former.content = back_up(former.folder, former.backup)
        restore(former.backup, folder / "restored")
        with Services(folder / "restored") as services:
            for name, value in services.environment.items():
                patch.setenv(name, value)
            yield Team(services, model, file_sha256(checkpoint / "model.safetensors"), former)


def fetched_weights(root: Path) -> str:
    fetch_version(root, "models:/mde-toy/1", root / "fetched")
    return file_sha256(root / "fetched/model.safetensors")


def listing(environment: dict[str, str], bucket: str) -> list[str]:
    content = s3(environment).list_objects_v2(Bucket=bucket).get("Contents", [])
    return [each["Key"] for each in content]


def aliases(root: Path) -> dict[str, int]:
    found = connect(root).get_registered_model("mde-toy").aliases
    return {alias: int(version) for alias, version in found.items()}


def test_one_command_starts_all_and_leaves_nothing_when_it_is_ended(team: Team) -> None:
    assert team.former.exit_code == 0
    assert len(team.former.processes) > 4
    assert not [each for each in team.former.processes if each.is_running()]


def test_ended_servers_keep_all_that_they_had(team: Team, tmp_path: Path) -> None:
    assert team.former.content == back_up(team.former.folder, tmp_path / "again")
    assert team.former.content == Content(1, 1, len(list((tmp_path / "again").rglob("*.*"))) - 3)


def test_restored_servers_have_the_model_to_the_byte_and_passwords_of_their_own(
    team: Team, tmp_path: Path
) -> None:
    assert fetched_weights(tmp_path) == team.weights
    champion = connect(tmp_path).get_model_version_by_alias("mde-toy", "champion")
    assert (str(champion.version), champion.tags["promotion"]) == ("1", "champion")
    former = team.former.environment
    for name in ("MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY"):
        assert team.services.environment[name] != former[name]
    written = shell_lines(team.services.environment)
    assert (team.services.folder / "environment").read_text() == written


def test_runs_versions_and_aliases_are_in_postgresql(team: Team) -> None:
    with psycopg2.connect(team.services.postgres_uri) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT run_uuid FROM runs WHERE lifecycle_stage = 'active'")
        assert (team.model.run_id,) in cursor.fetchall()
        cursor.execute("SELECT name, version, run_id FROM model_versions")
        assert cursor.fetchall() == [("mde-toy", 1, team.model.run_id)]
        cursor.execute("SELECT name, alias, version FROM registered_model_aliases")
        assert cursor.fetchall() == [("mde-toy", "champion", 1)]
    connection.close()


def test_artifacts_are_in_a_bucket_that_no_client_has_the_keys_of(team: Team) -> None:
    mlflow_s, ours = team.services.artifacts_environment, team.services.environment
    found = listing(mlflow_s, "mlflow")
    assert any(name.endswith("checkpoint/model.safetensors") for name in found), found
    kept = {path.name for path in (team.services.folder / "mlflow").iterdir()}
    assert kept == {"pgpass", "basic_auth.ini"}
    assert listing(ours, "mde") == []
    theirs = ours | {"AWS_ENDPOINT_URL": mlflow_s["AWS_ENDPOINT_URL"]}
    for environment, code in ((theirs, "InvalidAccessKeyId"), (ours, "NoSuchBucket")):
        with pytest.raises(ClientError) as refused:
            listing(environment, "mlflow")
        assert refused.value.response["Error"]["Code"] == code


def test_without_a_password_mlflow_answers_nobody(team: Team) -> None:
    for path in ("/", "/api/2.0/mlflow/experiments/search?max_results=1"):
        assert requests.get(team.services.mlflow.uri + path, timeout=30).status_code == 401


WRONG = {
    "a wrong password": ({"MLFLOW_TRACKING_PASSWORD": "wrong-guess"}, r"refuses user 'mde': check"),
    "no user": (
        {"MLFLOW_TRACKING_USERNAME": "", "MLFLOW_TRACKING_PASSWORD": ""},
        r"wants a user and a password: set",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_password_is_one_line_and_no_training_starts(
    case: str, team: Team, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    changes, said = WRONG[case]
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    names = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    message = rf"^MLflow at {team.services.mlflow.uri} {said} {names}$"
    with pytest.raises(InputError, match=message):
        connect(tmp_path)
    provenance = Provenance({"name": "toy", "dataset": "none"}, "0" * 64, "0123abc", "1.0")
    with (
        pytest.raises(InputError, match=message),
        follow(tmp_path, tmp_path / "run", provenance),
    ):
        raise AssertionError("trains")
    assert not (tmp_path / "run").exists()
    (finding,) = check_mlflow(Scope(tmp_path, tmp_path / "params.yaml", str(tmp_path)))
    assert (finding.state, "user" in finding.found) == ("fail", True)
    assert "wrong-guess" not in finding.found


def test_a_password_in_the_address_works_and_is_never_shown(
    team: Team, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    password = os.environ["MLFLOW_TRACKING_PASSWORD"]
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name)
    scope = Scope(tmp_path, tmp_path / "params.yaml", str(tmp_path))
    server = team.services.mlflow.uri.removeprefix("http://")
    for given, state in ((password, "ok"), (f"{password}wrong", "fail")):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://mde:{given}@{server}")
        (finding,) = check_mlflow(scope)
        assert (finding.state, password in finding.found) == (state, False), finding
    with pytest.raises(InputError, match=rf"http://mde:\*\*\*@{server} refuses user 'mde'"):
        connect(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://mde:{password}@127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(InputError, match=r"mde:\*\*\*@127.0.0.1:1 does not answer") as away:
        connect(tmp_path)
    assert password not in str(away.value)


def test_others_look_and_change_nothing_until_they_get_the_role_of_the_documentation(
    team: Team, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from mlflow.server.auth.client import AuthServiceClient

    keys = team.services.keys
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", keys.mlflow_admin)
    password = "she looks, and changes nothing"
    AuthServiceClient(team.services.mlflow.uri).create_user("grace", password)
    text = (REPOSITORY / "docs/services.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(example, {})
    (tmp_path / "checkpoint").mkdir()
    checkpoint = small_checkpoint(tmp_path / "checkpoint")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "grace")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    assert fetched_weights(tmp_path) == team.weights
    with pytest.raises(mlflow.MlflowException, match="Permission denied"):
        Model.trained(tmp_path, checkpoint, "toy", 0.1)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    (password,) = re.findall(r'create_user\("ada", "(.*)"\)', example)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    for error in (0.3, 0.1):
        Model.trained(tmp_path, checkpoint, "toy", error).register()
    assert aliases(tmp_path) == {"champion": 3, "challenger": 2}
    # Takes the alias of the challenger away, which EDIT does not allow.
    promote(tmp_path, "models:/mde-toy/2", "looks better", "ada")
    assert aliases(tmp_path) == {"champion": 2}


def test_secrets_are_in_no_command_line_and_in_no_log(team: Team) -> None:
    lines = [" ".join(process.cmdline()) for process in team.processes]
    logs = [path.read_text() for path in (team.services.folder / "log").iterdir()]
    assert len(lines) > 4
    assert len(logs) == 4
    for secret in team.secrets:
        assert not [text for text in lines + logs if secret in text]


def test_everything_listens_to_this_machine_alone(team: Team) -> None:
    found = [c for p in team.processes for c in p.net_connections() if c.status == "LISTEN"]
    assert {c.laddr.ip for c in found} == {"127.0.0.1"}
    assert len({c.laddr.port for c in found}) == 4


def test_only_their_owner_reads_what_the_servers_keep(team: Team) -> None:
    folder = team.services.folder
    for path in [folder, *folder.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        # Below a folder that nobody else may enter, it does not matter.
        if not any(stat.S_IMODE(above.stat().st_mode) == 0o700 for above in path.parents):
            assert mode & 0o077 == 0, (path, oct(mode))
    for name in ("environment", "keys.json", "mlflow/pgpass", "mlflow/basic_auth.ini"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


def test_a_folder_or_a_port_in_use_is_said(team: Team, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="its servers run already"):
        Services(team.services.folder).__enter__()
    port = team.services.mlflow.port
    with pytest.raises(InputError, match=f"cannot listen to port {port}.*--mlflow-port"):
        Services(tmp_path / "other", Ports(mlflow=port)).__enter__()


def test_a_back_up_overwrites_nothing_and_neither_does_its_restoring(
    team: Team, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="is there already"):
        back_up(team.services.folder, team.former.backup)
    with pytest.raises(InputError, match="is not empty"):
        restore(team.former.backup, team.services.folder)
    with pytest.raises(InputError, match="is no back-up"):
        restore(tmp_path, tmp_path / "restored")


def test_a_damaged_back_up_is_refused_and_leaves_nothing(team: Team, tmp_path: Path) -> None:
    shutil.copytree(team.former.backup, tmp_path / "backup")
    (damaged, *_) = (tmp_path / "backup").rglob("model.safetensors")
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    with pytest.raises(InputError, match=r"model.safetensors: has other content"):
        restore(tmp_path / "backup", tmp_path / "restored")
    assert not (tmp_path / "restored").exists()


def test_a_server_that_ends_is_noticed_and_named(team: Team) -> None:
    # The last one here: it is not started again.
    process = team.services.store.server.process
    assert process
    process.kill()
    with pytest.raises(InputError, match=r"the object store has ended by SIGKILL.*store.log"):
        team.services.watch()
