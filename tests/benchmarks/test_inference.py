"""The goals of inference: which mode is judged by which of them; and that it all runs."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import inference
from mde.bench import MODES, Group, Result
from mde.bench.models import BenchModel
from mde.bench.side import Side
from mde.export import Report
from mde.export.loss import Loss


def group_of(ratios: dict[str, float | None], loss: float | None = None) -> Group:
    sides = {name: Side("x", Path(), (32, 32), MODES[name], "cpu", 1) for name in ratios}
    results = [Result(sides[name], ratio=ratio) for name, ratio in ratios.items()]
    lost = {} if loss is None else {"openvino": Loss(loss, "abs_rel", 9, 0.1, 0.1 * (1 + loss))}
    report = Report(Path(), 0, None, "int8", {}, lost)  # type: ignore[arg-type]
    return Group(BenchModel("x", Path(), None), (32, 32), results, {"int8": report})


@pytest.mark.parametrize(
    ("int8", "loss", "met"),
    [(3.1, 0.005, True), (2.9, 0.005, False), (3.1, 0.011, False), (3.1, None, False)],
)
def test_reduced_precision_must_be_fast_and_accurate(
    int8: float, loss: float | None, met: bool
) -> None:
    ratios = {"eager": 1.0, "compile": 1.5, "openvino": None, "bf16": 0.5, "openvino-int8": int8}
    full, reduced = inference.judge(group_of(ratios, loss))
    assert (full["mode"], full["ratio"], full["met"]) == ("compile", 1.5, True)
    assert (reduced["mode"], reduced["ratio"], reduced["met"]) == ("openvino-int8", int8, met)
    assert ("not measured" in inference.in_words(reduced)) == (loss is None)


def test_both_networks_are_measured_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "inference.json"
    inference.main(
        [
            "--modes=channels_last", "--size", "64", "64", "--runs=2", "--seconds=0",
            "--threads=1", f"--out={out}",
        ]
    )  # fmt: skip
    kept = json.loads(out.read_text())
    assert [one["parameters"] for one in kept["models"]] == [3_960_930, 14_329_236]
    (fast, mono) = kept["goals"]
    assert (fast["goal"], fast["target"], fast["mode"]) == ("float32", 1.4, "channels_last")
    assert np.isfinite(mono["ratio"])
    assert kept["machine"]["cpu"]
    assert "goal 1.4x" in capsys.readouterr().out
