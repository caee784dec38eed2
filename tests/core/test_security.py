"""No way for a stranger to run code or to look in: what the sources may not say.

Most of it is looked for by ruff (its rules S); here is what ruff does not know.
"""

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from mde.cli.demo import demo
from mde.demo.server import is_loopback, serving

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    p for room in ("mde", "pipelines", "infra", "benchmarks") for p in ROOT.glob(f"{room}/**/*.py")
)
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")])

RUNS_CODE = {
    "pickle",
    "_pickle",
    "cPickle",
    "cloudpickle",
    "dill",
    "jsonpickle",
    "joblib",
    "marshal",
    "shelve",
}
"""Modules that run what they read."""
KNOWN = {
    "mde/score/numpy_files.py": "an unpickler that knows no name but those of arrays",
    "mde/models/encoders/imagenet.py": "the error of torch.load(weights_only=True)",
    "benchmarks/engine_runs.py": "hands its own process an object",
    "benchmarks/engine_worker.py": "takes it",
}
"""Files that import one of them nevertheless, and why."""
EVERYWHERE = {"", "*", "0.0.0.0", "::"}
"""Addresses that stand for all interfaces."""
HOSTS = {"address", "addr", "bind", "dashboard_host", "host", "hostname", "listen", "server_name"}


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def constant(node: ast.AST | None) -> object:
    return node.value if isinstance(node, ast.Constant) else node


def faults_of_imports(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        names = [part for alias in node.names for part in alias.name.split(".")]
    elif isinstance(node, ast.ImportFrom):
        names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        if node.module in ("torch", "numpy") and "load" in names:
            return [f"from {node.module} import load: name the module where it is called"]
    else:
        return []
    return [f"import {name}" for name in names if name in RUNS_CODE]


def faults_of_calls(node: ast.Call) -> list[str]:
    name, keywords = dotted(node.func), {word.arg: constant(word.value) for word in node.keywords}
    last, first = name.rpartition(".")[2], node.args[0] if node.args else None
    found = {
        "torch.load without weights_only=True": name == "torch.load"
        and keywords.get("weights_only") is not True,
        "a loader that runs code": name in ("torch.jit.load", "torch.hub.load")
        or last == "read_pickle"
        or (name.startswith("mlflow.") and last == "load_model"),
        "numpy.load with allow_pickle": name in ("np.load", "numpy.load")
        and keywords.get("allow_pickle", False) is not False,
        "an archive is unpacked": last in ("extract", "extractall", "unpack_archive"),
        "unsafe YAML": keywords.get("typ") == "unsafe" or last in ("unsafe_load", "full_load"),
        "a command as one string": name.startswith("subprocess.")
        and (isinstance(first, ast.JoinedStr) or isinstance(constant(first), str)),
        "listens on all interfaces": any(
            key in HOSTS and value in EVERYWHERE
            for key, value in keywords.items()
            if isinstance(value, str)
        )
        or (isinstance(first, ast.Tuple) and [constant(e) for e in first.elts[:1]] == [""]),
    }  # fmt: skip
    return [fault for fault, there in found.items() if there]


def faults_of_defaults(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    names = [*node.args.posonlyargs, *node.args.args]
    given = [*zip(names[::-1], node.args.defaults[::-1], strict=False)]
    given += [(n, d) for n, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if d]
    return [
        f"{name.arg} is all interfaces"
        for name, default in given
        if name.arg in HOSTS and constant(default) in EVERYWHERE
    ]


def faults(source: str) -> list[str]:
    """What a source says that no source may, with its line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        texts = faults_of_imports(node)
        if isinstance(node, ast.Call):
            texts = faults_of_calls(node)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            texts = faults_of_defaults(node)
        found += [f"{getattr(node, 'lineno', 0)}: {text}" for text in texts]
    return found


def test_no_source_runs_what_it_reads_or_lets_strangers_in() -> None:
    wrong = []
    for path in SOURCES:
        name, found = str(path.relative_to(ROOT)), faults(path.read_text())
        if name in KNOWN:
            assert found, f"{name} is not an exception any more: take it out of KNOWN"
            found = [fault for fault in found if "import" not in fault]
        wrong += [f"{name}:{fault}" for fault in found]
    assert len(SOURCES) > 200
    assert not wrong, "\n".join(wrong)


BAD = [
    "import pickle",
    "import joblib.numpy_pickle",
    "from ray import cloudpickle",
    "from pickle import loads",
    "from torch import load",
    "torch.load(path)",
    "torch.load(path, weights_only=False)",
    "torch.load(path, weights_only=trusted)",
    "torch.hub.load('x', 'y')",
    "np.load(path, allow_pickle=True)",
    "numpy.load(path, allow_pickle=trusted)",
    "pandas.read_pickle(path)",
    "mlflow.pyfunc.load_model(uri)",
    "tarfile.open(path).extractall('/data')",
    "archive.extract(name, filter='data')",
    "shutil.unpack_archive(path)",
    "YAML(typ='unsafe').load(text)",
    "yaml.unsafe_load(text)",
    "subprocess.run('ls -l')",
    "subprocess.check_output(f'ls {folder}')",
    "page.launch(server_name='0.0.0.0')",
    "ray.init(dashboard_host='::')",
    "HTTPServer(('', 8000), Handler)",
    "def serve(host: str = '0.0.0.0'): ...",
    "def serve(port=1, *, bind=''): ...",
]
GOOD = [
    "torch.load(path, weights_only=True)",
    "np.load(path)",
    "np.load(path, allow_pickle=False)",
    "from numpy import loadtxt",
    "YAML(typ='safe').load(text)",
    "subprocess.run(['ls', folder])",
    "socket.bind(('127.0.0.1', 0))",
    "def serve(host='127.0.0.1', bind=None): ...",
]


@pytest.mark.parametrize("source", BAD)
def test_the_rules_see(source: str) -> None:
    assert len(faults(source)) == 1


@pytest.mark.parametrize("source", GOOD)
def test_the_rules_let_pass(source: str) -> None:
    assert not faults(source)


SEEN_BY_RUFF = {
    "S102": "exec(text)",
    "S104": "HOST = '0.0.0.0'",
    "S202": "tarfile.open(path).extractall('.')",
    "S301": "pickle.loads(data)",
    "S302": "marshal.loads(data)",
    "S306": "tempfile.mktemp()",
    "S307": "eval(text)",
    "S324": "hashlib.md5(data)",
    "S501": "requests.get(url, timeout=9, verify=False)",
    "S506": "yaml.load(text, Loader=yaml.Loader)",
    "S602": "subprocess.run(text, shell=True)",
    "S605": "os.system(text)",
    "S701": "jinja2.Environment()",
}


def test_the_projects_ruff_sees_the_rest() -> None:
    imports = "import hashlib, jinja2, marshal, os, pickle, requests, subprocess, tarfile, yaml"
    source = "\n".join([imports, "import tempfile", *SEEN_BY_RUFF.values()])
    command = [sys.executable, "-m", "ruff", "check", "--output-format", "concise", "-"]
    result = subprocess.run(
        [*command, "--stdin-filename", "mde/example.py"],
        input=source, capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert not set(SEEN_BY_RUFF) - set(re.findall(r": (S\d+) ", result.stdout)), result.stderr


# --- Who can reach what is started ------------------------------------------------------------


@pytest.mark.parametrize("start", [demo, serving])
def test_the_demo_listens_to_this_machine_alone(start: Callable[..., Any]) -> None:
    assert is_loopback(inspect.signature(start).parameters["host"].default)


def test_the_servers_of_make_services_listen_to_this_machine_alone() -> None:
    from infra.services.process import HOST

    assert is_loopback(HOST)


def test_the_documentation_is_served_to_this_machine_alone() -> None:
    # MkDocs' own default is 127.0.0.1:8000.
    assert "dev_addr" not in (ROOT / "mkdocs.yml").read_text()
    assert "dev-addr" not in (ROOT / "Makefile").read_text()


def test_docker_publishes_ports_to_this_machine_alone() -> None:
    services = YAML(typ="safe").load(ROOT / "infra/compose.yaml")["services"]
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert ports
    assert all(str(port).startswith("127.0.0.1:") for port in ports), ports


def commands(page: Path) -> list[str]:
    """Shell commands of a page, with what was continued on the next line."""
    text = "\n".join(re.findall(r"^```(?:\w*)\n(.*?)^```", page.read_text(), re.M | re.S))
    return text.replace("\\\n", " ").splitlines()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_tells_to_open_a_server_to_all(page: Path) -> None:
    for command in commands(page):
        assert not re.search(r"0\.0\.0\.0|--host[ =]['\"]?(::|\*)", command), command
        if re.search(r"\bray start\b", command):
            assert "RAY_AUTH_MODE=token" in command, command
