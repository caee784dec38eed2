"""`pipelines.repro`'s folder with real processes: who has it, and what a stop ends."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.e2e

STAGE = """
stages:
  slow:
    cmd: python -c "import signal, time;
      signal.signal(signal.SIGTERM, signal.SIG_IGN);
      open('pid', 'w').write(str(__import__('os').getpid()));
      time.sleep(600)"
  broken:
    cmd: python -c "import sys; sys.exit('this is why')"
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A working folder with two stages; the command's own code is this repository's."""
    folder = tmp_path / "code"
    for name in ("mde/a.py", "pipelines/b.py", "params.yaml", ".dvcignore", ".dvc/config"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    (folder / "dvc.yaml").write_text(STAGE)
    return folder


@contextmanager
def repro(code: Path, root: Path, target: str) -> Iterator[subprocess.Popen[str]]:
    """`python -m pipelines.repro TARGET` of the code in `code`."""
    program = (
        "import os, sys; sys.path.insert(0, sys.argv.pop(1)); import pipelines.repro as p;"
        "from pipelines._stage import run; run(p.main)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(REPOSITORY), target, "--root", str(root)],
        cwd=code,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
            process.wait()


def test_one_job_at_a_time_and_a_stop_ends_all_of_it(code: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    with repro(code, root, "slow") as first:
        while not (root / "pid").is_file() or not (root / "pid").read_text():
            assert first.poll() is None, first.stdout.read()
            time.sleep(0.1)
        stage = psutil.Process(int((root / "pid").read_text()))
        with repro(code, root, "slow") as second:
            said, _ = second.communicate(timeout=60)
        assert second.returncode == 1
        assert f"error: {root}: process {first.pid} on " in said
        first.terminate()
        assert first.wait(30) == 143
        assert not stage.is_running() or stage.status() == psutil.STATUS_ZOMBIE
    # The folder is free again.
    with repro(code, root, "broken") as third:
        said, _ = third.communicate(timeout=60)
    assert third.returncode not in (0, None)
    assert "this is why" in said
    assert "failed to reproduce 'broken'" in said
