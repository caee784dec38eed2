"""The sides of the benchmark of the engine, at their smallest: real Ray Train, real torchrun."""

from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.engine_ddp import SIDES, scaling, side_name, times
from benchmarks.engine_runs import EngineSetup, run_training, work_of

pytestmark = pytest.mark.e2e


def test_both_launchers_train_on_the_same_samples(tiny_root: Path) -> None:
    setup = EngineSetup(
        tiny_root / "work", 64, 24, 1, Console(), 2, tiny_root / "params.yaml",
        steps=4, variant="resfpn-resnet18",
    )  # fmt: skip
    (work,) = work_of(setup, setup.variant, setup.steps, workers=2).values()
    ours, theirs = (run_training(setup, side, work) for side in SIDES.values())
    assert ours["samples"] == theirs["samples"]
    for run in (ours, theirs):
        assert run["samples_per_s"] > 0
        assert 0 <= run["wait"] <= run["wait_most"] < 1
        assert 0 < run["first_step_s"] < run["end_s"]
    assert ours["cpu_ms_train worker"] > 0
    assert "cpu_ms_raylet" in ours
    assert theirs["cpu_ms_worker"] > 0
    assert "cpu_ms_raylet" not in theirs
    sides = dict(zip(SIDES, (ours, theirs), strict=True))
    runs = {side_name(name, n): [run] for name, run in sides.items() for n in (1, 2)}
    assert {f.value for f in scaling(runs, setup.workers) if "at most" not in f.name} == {1.0}
    assert len(times(runs)) == 20
