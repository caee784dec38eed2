"""What the installed Ray says of itself, read from its files: importing all of it takes seconds."""

import ast
import importlib.metadata
import importlib.util
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]


@cache
def pinned_ray() -> str:
    """The version of Ray in `requirements.lock`."""
    (version,) = re.findall(r"^ray==(\S+)", (ROOT / "requirements.lock").read_text(), re.M)
    return str(version)


@cache
def project_version() -> str:
    """That of `pyproject.toml`."""
    (version,) = re.findall(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    return str(version)


def ray_file(name: str) -> Path:
    """A file of the installed package."""
    spec = importlib.util.find_spec("ray")
    assert spec
    assert spec.origin
    return Path(spec.origin).parent / name


@cache
def start_options() -> frozenset[str]:
    """The options of `ray start`."""
    assert importlib.metadata.version("ray") == pinned_ray()
    tree = ast.parse(ray_file("scripts/scripts.py").read_text())
    (start,) = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "start"]
    arguments = [
        argument
        for decorator in start.decorator_list
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "click.option"
        for argument in decorator.args
    ]
    words = [str(item.value) for item in arguments if isinstance(item, ast.Constant)]
    return frozenset(word for word in words if word.startswith("--"))


@cache
def open_paths() -> tuple[str, ...]:
    """What a node answers without a token."""
    text = ray_file("dashboard/http_server_agent.py").read_text()
    (listed,) = re.findall(r"^PUBLIC_EXACT_PATHS = (\[.*?\])", text, re.M | re.S)
    return tuple(ast.literal_eval(listed))


@cache
def agent_port() -> int:
    """Where a node answers."""
    text = ray_file("_private/ray_constants.py").read_text()
    (port,) = re.findall(r"^DEFAULT_DASHBOARD_AGENT_LISTEN_PORT = (\d+)", text, re.M)
    return int(port)
