"""The benchmark of the engine, as a person starts it, at its smallest."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.engine_ddp import SIDES, WORKERS, side_name
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.e2e


def measure(part: str, root: Path, *options: str) -> dict:
    """Run a part on the tiny sample; what it keeps."""
    (root / "data/shards").mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "benchmarks.engine", "--only", part, "--runs", "1"]
    sizes = ["--steps", "4", "--wait-steps", "4", "--rows", "256", "--variant", "resfpn-resnet18"]
    places = {"params": root / "params.yaml", "work": root / "work", "out": root / "engine.json"}
    where = [text for name, path in places.items() for text in (f"--{name}", str(path))]
    done = subprocess.run(
        [*command, *sizes, *where, *options], cwd=REPOSITORY, capture_output=True, text=True,
        check=False, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((root / "engine.json").read_text())[part]


def test_both_launchers_train_on_the_same_samples(tiny_root: Path) -> None:
    found = measure("ddp", tiny_root)
    runs = {name: side[0] for name, side in found["runs"].items()}
    assert runs.keys() == {side_name(name, n) for name in SIDES for n in WORKERS}
    assert len({run["samples"] for run in runs.values()}) == 1
    for run in runs.values():
        assert run["samples_per_s"] > 0
        assert 0 <= run["wait"] <= run["wait_most"] < 1
        assert 0 < run["first_step_s"] < run["end_s"]
    ours, theirs = runs[side_name("mde", 2)], runs[side_name("torchrun", 2)]
    assert ours["cpu_ms_train worker"] > 0
    assert "cpu_ms_raylet" in ours
    assert theirs["cpu_ms_worker"] > 0
    assert "cpu_ms_raylet" not in theirs
    assert found["machine"]["libraries"]["ray"]
