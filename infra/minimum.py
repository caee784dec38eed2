"""Tests with the oldest versions that pyproject.toml allows: `python -m infra.minimum [PYTEST…]`.

What the package imports is taken at its lower bound. The tools of the extra `dev`, and what is
indirect, are taken as in requirements.lock, as far as those bounds let them: a library that broke
with its own old dependencies is no news of ours. So pyproject.toml and the lock together decide on
every version, and no second lock has to be kept.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = ROOT / "pyproject.toml"
VENV = ROOT / ".venv-minimum"
TESTS = ("-q", "-n", "auto", "--dist", "loadfile", "tests/core", "tests/models")
# Wheels, as those who install a library get; of antlr4 (through DVC) there is none.
WHEELS = ("--only-binary", ":all:", "--no-binary", "antlr4-python3-runtime")


def own_requirements(pyproject: str) -> list[Requirement]:
    """What the package and its extras ask for by name, without the extra `dev`."""
    project = tomllib.loads(pyproject)["project"]
    extras = project["optional-dependencies"]
    texts = [
        *project["dependencies"],
        *(r for name in extras if name != "dev" for r in extras[name]),
    ]
    return [Requirement(text) for text in texts]


def leave_to_bounds(lock: str, names: set[str]) -> str:
    """The lock without these packages: what is left is what uv keeps to."""
    entries = re.split(r"\n(?=[a-z0-9])", lock)
    return "\n".join(e for e in entries if re.split(r"[=\[ ]", e)[0] not in names) + "\n"


def resolve(requirements: Path) -> None:
    """Write the versions, with hashes; raises CalledProcessError when there are none."""
    own = own_requirements(PROJECT.read_text())
    names: set[str] = {canonicalize_name(requirement.name) for requirement in own}
    lock = (ROOT / "requirements.lock").read_text()
    # uv prefers the versions of the file that it is about to write.
    requirements.write_text(leave_to_bounds(lock, names))
    _uv(
        "pip", "compile", "-q", "--resolution", "lowest-direct", "--all-extras", "--no-annotate",
        "--generate-hashes", *WHEELS, "--python", sys.executable, str(PROJECT),
        "-o", str(requirements),
    )  # fmt: skip


def install(requirements: Path) -> None:
    """Fill the environment; files are linked from uv's cache where that is possible."""
    python = ("--python", str(VENV / "bin/python"))
    # What builds antlr4 is checked too.
    lock = ("--build-constraints", str(ROOT / "requirements.lock"))
    _uv("pip", "sync", "-q", "--require-hashes", *lock, *WHEELS, *python, str(requirements))
    _uv("pip", "install", "-q", "--no-deps", "--no-build-isolation", *python, "-e", ".")


def _uv(*arguments: str) -> None:
    program = shutil.which("uv")
    assert program, "uv is among the tools of the extra dev"
    subprocess.run([program, *arguments], cwd=ROOT, check=True)


def main(tests: Sequence[str]) -> int:
    """Resolve, install, test. Returns the exit code. tests: arguments of pytest."""
    requirements = VENV / "requirements.txt"
    try:
        _uv("venv", "-q", "--clear", "--python", sys.executable, str(VENV))
        resolve(requirements)
        install(requirements)
    except subprocess.CalledProcessError as error:
        return error.returncode
    path = f"{VENV / 'bin'}{os.pathsep}{os.environ['PATH']}"
    command = [str(VENV / "bin/python"), "-m", "pytest", *(tests or TESTS)]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "PATH": path}).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
