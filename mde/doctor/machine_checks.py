"""Checks of this machine: libraries, cores, memory, disk, MLflow, DVC and git."""

import base64
import configparser
import os
import platform
import shutil
import sqlite3
import subprocess
import tempfile
import tomllib
import urllib.error
import urllib.parse
import urllib.request
from importlib.metadata import PackageNotFoundError, distributions, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from mde.doctor.examination import Finding, Scope
from mde.redact import without_password

GIB = 2**30
PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
HEADLESS = "opencv-python-headless"
INSTALL = "make .venv/bin/.installed, or pip install --require-hashes -r requirements.lock"


def check_libraries(scope: Scope) -> list[Finding]:
    """Python and every library against what the project asks for, and OpenCV's twins."""
    python, wanted = _requirements()
    findings = []
    if platform.python_version() not in SpecifierSet(python):
        findings.append(
            Finding("python", "fail", f"{platform.python_version()}, allowed {python}", "use 3.12")
        )
    else:
        findings.append(Finding("python", "ok", platform.python_version()))
    wrong = [text for each in wanted if (text := _wrong_version(each))]
    if wrong:
        findings.append(Finding("libraries", "fail", "; ".join(wrong), INSTALL))
    else:
        findings.append(Finding("libraries", "ok", f"all {len(wanted)} as asked for"))
    names = {str(each.metadata["Name"]).lower().replace("_", "-") for each in distributions()}
    twins = {name for name in names if name.startswith("opencv-")} - {HEADLESS}
    if twins:
        # They write into the same folder, and the others need libGL.
        todo = f"pip uninstall {' '.join(sorted(twins))} {HEADLESS}; then pip install {HEADLESS}"
        findings.append(Finding("opencv", "fail", f"{', '.join(sorted(twins))} is there", todo))
    return findings


def _requirements() -> tuple[str, list[Requirement]]:
    if PYPROJECT.is_file():
        project = tomllib.loads(PYPROJECT.read_text())["project"]
        return project["requires-python"], [Requirement(text) for text in project["dependencies"]]
    wanted = [Requirement(text) for text in requires("mde") or []]
    here = [each for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]
    return ">=3.11,<3.14", here


def _wrong_version(wanted: Requirement) -> str | None:
    try:
        found = version(wanted.name)
    except PackageNotFoundError:
        return f"{wanted.name} is missing (wanted {wanted.specifier})"
    if wanted.specifier.contains(found, prereleases=True):
        return None
    return f"{wanted.name} {found} (wanted {wanted.specifier})"


def check_machine(scope: Scope) -> list[Finding]:
    """Cores and memory, as this process may use them, and /dev/shm for Ray's object store."""
    cores, memory = usable_cores(), usable_memory()
    findings = [
        Finding("cores", "ok" if cores >= 2 else "warn", f"{cores:g}", "" if cores >= 2 else "2+"),
        Finding("memory", "ok", f"{memory / GIB:.1f} GiB"),
    ]
    # A training on two CPU workers was measured at 3.6 GB in all.
    if memory < 4 * GIB:
        findings[1] = Finding(
            "memory",
            "warn",
            f"{memory / GIB:.1f} GiB; training with two workers takes about 4",
            "set cluster.num_workers to 1, or raise the container's limit",
        )
    if Path("/dev/shm").is_dir():
        shared, wanted = shutil.disk_usage("/dev/shm").total, 0.3 * memory
        text = f"{shared / GIB:.1f} GiB; Ray's object store would like {wanted / GIB:.1f}"
        if shared >= wanted:
            findings.append(Finding("/dev/shm", "ok", text))
        else:
            todo = "docker run --shm-size=… (Kubernetes: an emptyDir of medium Memory)"
            findings.append(Finding("/dev/shm", "warn", f"{text}; it then uses the disk", todo))
    return findings


def usable_cores() -> float:
    """Cores of this process: affinity, and the control group's quota."""
    cores = float(len(os.sched_getaffinity(0)))
    for line in _cgroup("cpu.max"):
        quota, period = line.split()
        if quota != "max":
            cores = min(cores, int(quota) / int(period))
    return cores


def usable_memory() -> int:
    """Bytes of memory of this process: the machine's, and the control group's limit."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [*_cgroup("memory.max"), *_cgroup("memory/memory.limit_in_bytes")]
    return min([memory, *(int(line) for line in limits if line != "max")])


def _cgroup(name: str) -> list[str]:
    # Below its own mount, a container sees its limits at the top.
    try:
        return [(Path("/sys/fs/cgroup") / name).read_text().strip()]
    except OSError:
        return []


def check_disk(scope: Scope) -> list[Finding]:
    """Room and rights in the root folder and the temporary folders."""
    findings = []
    places = {"root": scope.root, "temporary files": Path(tempfile.gettempdir())}
    if "://" not in scope.storage:
        # The folder of runs is made at the first training.
        runs = Path(scope.storage)
        places["runs"] = next(path for path in (runs, *runs.absolute().parents) if path.exists())
    for name, place in places.items():
        try:
            with tempfile.TemporaryFile(dir=place) as file:
                file.write(b"mde")
        except OSError as error:
            todo = (
                "make the folder and give it to this user, or choose another: --root, run.storage"
            )
            findings.append(Finding(f"disk: {name}", "fail", f"{place}: {error.strerror}", todo))
            continue
        free = shutil.disk_usage(place).free
        # A few checkpoints of the largest network (3 x 0.9 GB with its optimizer) and shards.
        state, todo = ("ok", "") if free > 10 * GIB else ("warn", f"free some disk at {place}")
        text = f"{place}: {free / GIB:.1f} GiB free"
        findings.append(Finding(f"disk: {name}", state, text, todo))  # type: ignore[arg-type]
    return findings


def check_mlflow(scope: Scope) -> list[Finding]:
    """MLflow's store: its server's health and version, or its file."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{scope.root.resolve()}/mlflow.db"
    if uri.startswith("sqlite:///"):
        return [_check_store(Path(uri.removeprefix("sqlite:///")))]
    if not uri.startswith("http"):
        shown = without_password(uri)
        return [Finding("mlflow", "warn", f"{shown}: not looked into", "a server's http://… is")]
    return [_check_server(uri)]


def _check_server(uri: str) -> Finding:
    shown = without_password(urllib.parse.urlsplit(uri)._replace(query="").geturl())
    address, user, header = _credentials(uri)
    try:
        _get(f"{address}/health")
        server = _get(f"{address}/version", header)
        # Without a user, a server that knows users answers the two above.
        _get(f"{address}/api/2.0/mlflow/experiments/search?max_results=1", header)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            who = f"refuses user {user!r}" if user else "wants a user and a password"
            todo = "check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            return Finding("mlflow", "fail", f"{shown}: {who}", todo)
        return _away(shown, error)
    except (OSError, ValueError) as error:
        return _away(shown, error)
    ours = version("mlflow")
    text = f"{shown}: server {server}, client {ours}" + (f", user {user!r}" if user else "")
    if server.split(".")[0] != ours.split(".")[0]:
        return Finding("mlflow", "fail", text, f"pip install mlflow=={server} on one of the two")
    return Finding("mlflow", "ok", text)


def _away(shown: str, error: Exception) -> Finding:
    reason = without_password(str(getattr(error, "reason", None) or error))
    text = f"{shown}: {reason}; metrics would wait in the run's folder"
    todo = "start the server, mend MLFLOW_TRACKING_URI, or unset it for a file in the root folder"
    return Finding("mlflow", "fail", text, todo)


def _credentials(uri: str) -> tuple[str, str | None, dict[str, str]]:
    """Address without them, user, and the header of requests; as MLflow's client finds them."""
    parts = urllib.parse.urlsplit(uri)
    address = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
    kept = configparser.ConfigParser(interpolation=None)
    kept.read(Path.home() / ".mlflow/credentials")
    values = []
    for name, inside in (("username", parts.username), ("password", parts.password)):
        key = f"mlflow_tracking_{name}"
        given = urllib.parse.unquote(inside) if inside else None
        values.append(
            given or os.environ.get(key.upper()) or kept.get("mlflow", key, fallback=None)
        )
    user, password = values
    if user and password:
        text = base64.b64encode(f"{user}:{password}".encode()).decode()
        return address, user, {"Authorization": f"Basic {text}"}
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return address, user, {"Authorization": f"Bearer {token}"} if token else {}


def _get(url: str, header: dict[str, str] | None = None) -> str:
    request = urllib.request.Request(url, headers=header or {})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read(1000).decode(errors="replace").strip()


def _check_store(file: Path) -> Finding:
    if not file.exists():
        return Finding("mlflow", "ok", f"{file}: will be made at the first run")
    try:
        connection = sqlite3.connect(f"{file.resolve().as_uri()}?mode=rw", uri=True, timeout=10)
        with connection:
            # Takes the write lock, and changes nothing.
            connection.execute("BEGIN IMMEDIATE")
            runs = connection.execute("SELECT count(*) FROM runs").fetchone()[0]
        connection.close()
    except sqlite3.Error as error:
        todo = "move the file away (its runs are lost to MLflow) or restore it from a copy"
        return Finding("mlflow", "fail", f"{file}: {error}", todo)
    return Finding("mlflow", "ok", f"{file}: {runs} runs")


def check_tools(scope: Scope) -> list[Finding]:
    """Git and DVC, and DVC's remote."""
    findings = []
    for tool in ("git", "dvc"):
        said = _say(scope.root, tool, "--version")
        if said is None and tool == "git" and os.environ.get("MDE_GIT_COMMIT"):
            note = "not needed: MDE_GIT_COMMIT names the commit"
            findings.append(Finding(tool, "ok", note))
        elif said is None:
            todo = "install git" if tool == "git" else INSTALL
            findings.append(Finding(tool, "fail", "not found", todo))
        else:
            findings.append(Finding(tool, "ok", said.removeprefix("git version ")))
    remotes = _say(scope.params.absolute().parent, "dvc", "remote", "list")
    if remotes:
        names = ", ".join(line.split()[0] for line in remotes.splitlines())
        findings.append(Finding("dvc remote", "ok", names))
    elif findings[1].state == "ok":
        text = "none: data and models stay on this machine"
        todo = "dvc remote add -d NAME s3://bucket/folder (or a path), if others need them"
        findings.append(Finding("dvc remote", "warn", text, todo))
    return findings


def _say(folder: Path, *command: str) -> str | None:
    try:
        result = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
