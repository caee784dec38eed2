"""What is installed is what was locked; what is known of it to be unsafe is told."""

import json
import re
import threading
import tomllib
from collections.abc import Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from infra import minimum
from infra.audit import LOCKS, WAIVERS, Waiver, judge, look_up, main, read_waivers, report
from mde.errors import InputError

ROOT = Path(__file__).parents[2]
PROJECT = (ROOT / "pyproject.toml").read_text()
TODAY = date(2026, 3, 1)


# --- The lock ---------------------------------------------------------------------------------


def pins(path: Path) -> list[str]:
    """Each entry of a file of requirements, on one line."""
    lines = path.read_text().replace("\\\n", " ").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("path", [*LOCKS, ROOT / "infra/requirements.txt"], ids=lambda p: p.name)
def test_every_locked_package_has_an_exact_version_and_hashes(path: Path) -> None:
    found = pins(path)
    assert len(found) > 5
    for pin in found:
        assert re.match(r"[a-z0-9-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", pin), pin[:80]


def declared() -> list[Requirement]:
    project = tomllib.loads(PROJECT)["project"]
    extras = project["optional-dependencies"].values()
    return [Requirement(r) for group in (project["dependencies"], *extras) for r in group]


def test_every_declared_package_has_a_lower_bound_and_a_locked_version_within_its_bounds() -> None:
    locked: dict[str, list[str]] = {}
    for pin in pins(LOCKS[0]):
        name, version = pin.split()[0].split("==")
        locked.setdefault(name, []).append(version)
    bounded = {r.name for r in declared() if re.search(r"[>=]=", str(r.specifier))}
    for requirement in declared():
        assert requirement.name in bounded, f"{requirement}: which is the oldest that works?"
        for version in locked[canonicalize_name(requirement.name)]:
            assert requirement.specifier.contains(version), f"{requirement}: locked is {version}"


def test_whatever_make_installs_is_checked_against_hashes() -> None:
    recipe = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    lines = re.findall(r"^\t.*(?:PIP_INSTALL|\bpip install\b).*$", recipe, re.M)
    assert lines
    for line in lines:
        assert "--require-hashes" in line or "--no-deps --no-build-isolation -e ." in line, line


# --- The oldest versions ----------------------------------------------------------------------


def test_the_minimum_is_of_what_the_package_imports_and_the_rest_as_locked() -> None:
    own = {requirement.name for requirement in minimum.own_requirements(PROJECT)}
    assert {"torch", "ray", "onnx", "mlflow"} <= own
    assert not {"pytest", "ruff"} & own
    lock = "# head\nray==2 \\\n    --hash=sha256:1\nray-x==3 \\\n    --hash=sha256:2\npytest==9\n"
    rest = minimum.leave_to_bounds(lock, {"ray"})
    assert rest.split() == ["#", "head", "ray-x==3", "\\", "--hash=sha256:2", "pytest==9"]


# --- Advisories -------------------------------------------------------------------------------

JINJA = {
    "name": "jinja2",
    "version": "3.1.2",
    "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-2024-1"], "fix_versions": ["3.1.3"]}],
}
"""As pip-audit writes it."""


def test_a_vulnerability_is_told_with_its_names_and_the_version_that_mends_it() -> None:
    faults, notes = judge([JINJA, {"name": "ray", "version": "2", "vulns": []}], {}, TODAY)
    assert faults == ["jinja2 3.1.2: PYSEC-1 = CVE-2024-1, fixed in 3.1.3"]
    assert not notes


@pytest.mark.parametrize("name", ["PYSEC-1", "CVE-2024-1"])
def test_a_waiver_lets_one_pass_to_its_last_day(name: str) -> None:
    faults, notes = judge([JINJA], {name: Waiver(TODAY, "templates are ours")}, TODAY)
    assert not faults
    assert notes[0].endswith("let pass until 2026-03-01: templates are ours")
    faults, notes = judge([JINJA], {name: Waiver(date(2026, 2, 28), "later")}, TODAY)
    assert "it was let pass until 2026-02-28: later" in faults[0]
    assert not notes


def test_a_waiver_that_is_over_and_of_no_use_is_a_fault_too() -> None:
    faults, _ = judge([], {"CVE-1": Waiver(date(2026, 2, 28), "gone")}, TODAY)
    assert faults == ["audit-ignore.txt: CVE-1 was let pass until 2026-02-28; remove it"]


def test_waivers_are_read_and_wrong_lines_named(tmp_path: Path) -> None:
    path = tmp_path / "ignore.txt"
    path.write_text("# why\n\nCVE-1 2026-02-28 not reached: no network\n")
    assert read_waivers(path) == {"CVE-1": Waiver(date(2026, 2, 28), "not reached: no network")}
    for line in ("CVE-1 2026-02-28", "CVE-1 soon because"):
        path.write_text(f"# why\n{line}\n")
        with pytest.raises(InputError, match=f"line 2: found '{line}', expected: ID YYYY-MM-DD"):
            read_waivers(path)
    read_waivers(WAIVERS)


class Advisories(BaseHTTPRequestHandler):
    """Answers as osv.dev: one package has an advisory."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        affected = {
            "package": asked["package"],
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "3.1.3"}]}],
        }
        found = {"vulns": [{"id": "GHSA-1", "aliases": ["CVE-2024-1"], "affected": [affected]}]}
        answer = json.dumps(found if asked["package"]["name"] == "jinja2" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def advisories() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Advisories)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/query"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path, digest = tmp_path / "some.lock", "0" * 64
    lines = [f"{pin} --hash=sha256:{digest}\n" for pin in ("jinja2==3.1.2", "rich==14.0.0")]
    path.write_text("".join(lines))
    return path


def test_pip_audit_finds_what_the_server_knows(advisories: str, lock: Path, capsys) -> None:
    assert main([str(lock), "--osv-url", advisories]) == 1
    said = capsys.readouterr()
    assert said.err == "error: jinja2 3.1.2: CVE-2024-1 = GHSA-1, fixed in 3.1.3\n"
    assert said.out == "2 packages audited, 1 faults\n"


def test_what_nobody_answers_for_is_no_package_without_faults(lock: Path, capsys) -> None:
    assert main([str(lock), "--osv-url", "http://127.0.0.1:9/"]) == 0
    said = capsys.readouterr()
    assert "warning: 2 of 2 packages could not be audited" in said.err
    assert said.out == "0 packages audited, 0 faults\n"


def test_strict_fails_for_a_package_that_could_not_be_audited(capsys) -> None:
    packages = [{"name": "ray", "version": "2", "vulns": []}, {"name": "x", "skip_reason": "gone"}]
    assert report(packages, {}, strict=False) == 0
    assert report(packages, {}, strict=True) == 1
    assert "1 of 2 packages could not be audited; the first: gone" in capsys.readouterr().err


def test_a_lock_without_hashes_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "open.lock"
    path.write_text("jinja2>=3\n")
    with pytest.raises(InputError, match="does not contain a hash"):
        look_up([path])
