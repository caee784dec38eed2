"""`mde doctor` on this machine, whole and with one thing after the other really broken."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mde.doctor.examination import Check, Examination, Finding, Scope
from mde.doctor.machine_checks import check_disk, check_libraries, check_machine, check_mlflow
from mde.doctor.torch_checks import check_collectives, check_torch
from tests.conftest import PARAMS, REPOSITORY
from tests.e2e.ray_cluster import free_ports

pytestmark = pytest.mark.e2e


@pytest.fixture
def scope(tmp_path: Path) -> Scope:
    (tmp_path / "params.yaml").write_text(PARAMS)
    return Scope(tmp_path, tmp_path / "params.yaml", str(tmp_path / "checkpoints"))


def doctor(scope: Scope, *options: str, **changes: str) -> subprocess.CompletedProcess[str]:
    code = "import typer; from mde.cli.doctor import doctor; typer.run(doctor)"
    places = ("--root", str(scope.root), "--params", str(scope.params))
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.run(
        [sys.executable, "-c", code, *places, *options],
        cwd=REPOSITORY,
        env={**kept, "COLUMNS": "80", **changes},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def states(findings: list[Finding]) -> dict[str, str]:
    return {finding.name: finding.state for finding in findings}


def test_a_sound_machine_is_said_to_be_one(scope: Scope) -> None:
    result = doctor(scope, "--json")
    found = {each["name"]: each for each in json.loads(result.stdout)}
    assert result.returncode == 0, result.stdout
    for name in ("python", "libraries", "torch", "gpus", "gloo", "mlflow", "storage"):
        assert found[name]["state"] == "ok", found[name]
    assert found["ray token"]["state"] == "ok"
    assert found["ray resources"]["found"].endswith("1 worker fits")
    assert any(name.startswith("node ") for name in found)
    assert not list((scope.root / "checkpoints").glob("*")), "the files of the check are gone"


def test_what_is_broken_comes_first_with_what_to_do(scope: Scope) -> None:
    ray, mlflow = free_ports(2)
    result = doctor(
        scope,
        RAY_ADDRESS=f"127.0.0.1:{ray}",
        MLFLOW_TRACKING_URI=f"http://127.0.0.1:{mlflow}",
    )
    lines = result.stdout.splitlines()
    assert result.returncode == 1
    assert [line.split()[:2] for line in lines if line.startswith("fail")] == [
        ["fail", "ray"],
        ["fail", "mlflow"],
    ]
    assert lines[0].startswith("fail")
    assert "no Ray answers there" in result.stdout
    # Long words of a message are broken over the lines of a cell.
    assert "Connectionrefused" in "".join(result.stdout.split())
    assert max(map(len, lines)) <= 80


def test_a_root_that_cannot_be_written_is_reported(scope: Scope) -> None:
    # Not even root may write there.
    found = check_disk(Scope(Path("/proc/sys"), scope.params, scope.storage))
    assert states(found)["disk: root"] == "fail"
    gone = check_disk(Scope(scope.root / "gone", scope.params, scope.storage))
    assert "No such file" in gone[0].found


def test_a_damaged_mlflow_store_is_reported(scope: Scope) -> None:
    (scope.root / "mlflow.db").write_bytes(b"no database" * 1000)
    (finding,) = check_mlflow(scope)
    assert (finding.state, "not a database" in finding.found) == ("fail", True)


def test_libraries_and_torch_of_this_environment_are_as_asked_for(scope: Scope) -> None:
    assert set(states(check_libraries(scope)).values()) == {"ok"}
    assert states(check_torch(scope))["torch"] == "ok"
    assert states(check_machine(scope))["memory"] in ("ok", "warn")


def test_processes_that_cannot_meet_are_reported(
    scope: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nocard0")
    finding = check_collectives(scope)[0]
    assert (finding.name, finding.state) == ("gloo", "fail")
    assert "GLOO_SOCKET_IFNAME" in finding.todo


def hang(scope: Scope) -> list[Finding]:
    subprocess.Popen(["sleep", "1234"])
    (scope.root / "pid").write_text(str(os.getpid()))
    time.sleep(1234)
    return []


def crash(scope: Scope) -> list[Finding]:
    print("about to fall", flush=True)
    os.abort()


def test_checks_that_hang_or_crash_become_findings_and_leave_nothing(scope: Scope) -> None:
    checks = [Check("hang", hang, 5), Check("crash", crash, 30)]
    found = {check.name: each for check, (each,) in Examination(scope).run(checks)}
    assert found["hang"].found.startswith("no answer within 5 s")
    assert found["crash"].found.endswith("about to fall")
    group = (scope.root / "pid").read_text()
    for _ in range(50):
        listed = subprocess.run(["ps", "-eo", "pgid=,stat="], capture_output=True, text=True).stdout
        left = [line for line in listed.splitlines() if line.split()[0] == group]
        if all(line.split()[1].startswith("Z") for line in left):
            return
        # A killed process takes its time to end.
        time.sleep(0.1)
    raise AssertionError(left)
