"""Modes side by side: in processes of their own, in turns, against plain torch."""

import io
import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from mde.bench import (
    MODES,
    Benchmark,
    Pace,
    Plan,
    as_content,
    as_markdown,
    as_table,
    bench,
    find_model,
    measure_costs,
    pick_modes,
)
from mde.bench.models import IMAGES, BenchModel, load_images, sizes_of
from mde.bench.modes import EAGER, has_bf16
from mde.bench.side import Side, SideError, SideProcess, ask, fresh_process
from mde.bench.turns import FEWEST_ROUNDS, ROUNDS, plan
from mde.errors import InputError

SIZE = (32, 64)


def keep_quiet(text: str, share: float) -> None:
    assert 0 <= share <= 1, text


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> BenchModel:
    folder = tmp_path_factory.mktemp("bench")
    return find_model(folder, "fastdepth:mobilenet_v1", folder / "model")


@pytest.fixture(scope="module")
def found(model: BenchModel) -> Benchmark:
    """Two modes that run, and one whose file cannot be made at this size."""
    modes = [MODES[name] for name in ("eager", "channels_last", "onnxruntime")]
    modes[2] = MODES["onnxruntime"].__class__("broken", "?", options={"flap": "mean"})
    plan_ = Plan(modes, [SIZE], "cpu", threads=1, pace=Pace(runs=6, seconds=0))
    return bench([model], plan_, keep_quiet)


def test_every_mode_is_timed_beside_plain_torch(found: Benchmark) -> None:
    eager, last, _ = found.groups[0].results
    assert eager.ratio == eager.low == eager.high == 1
    assert eager.difference == 0
    assert last.ratio is not None
    assert last.low is not None
    assert last.high is not None
    assert 0 < last.low <= last.ratio <= last.high
    assert last.difference is not None
    assert 0 <= last.difference < 1e-3
    for one in (eager, last):
        assert one.cost is not None
        assert one.cost.runs == FEWEST_ROUNDS
        assert 0 < one.cost.median_ms <= one.cost.p95_ms
        assert one.cost.threads == 1


def test_parameters_and_arithmetic_are_those_of_the_network_in_every_mode(found: Benchmark) -> None:
    # 0.74 G at 224x224: arXiv:1903.03273, table II.
    for one in found.groups[0].results[:2]:
        assert one.cost is not None
        assert one.cost.parameters == 3_960_930
        assert one.cost.macs == pytest.approx(0.74e9 * (32 * 64) / 224**2, rel=0.02)


def test_memory_has_at_least_the_weights_in_it(found: Benchmark) -> None:
    for one in found.groups[0].results[:2]:
        assert one.cost is not None
        assert one.cost.growth_mib is not None
        assert one.cost.growth_mib > 0.9 * 4 * 3_960_930 / 2**20


def test_a_mode_that_fails_is_a_row_with_its_reason(found: Benchmark) -> None:
    broken = found.groups[0].results[2]
    assert broken.cost is None
    assert broken.reason is not None
    assert "flap" in broken.reason
    text = io.StringIO()
    Console(file=text, width=80).print(as_table(found))
    for shown in (text.getvalue(), as_markdown(found)):
        assert "flap" in shown
        assert "3.96 M parameters" in shown


def test_the_table_fits_into_80_columns_uncut(found: Benchmark) -> None:
    text = io.StringIO()
    Console(file=text, width=80).print(as_table(found))
    assert "…" not in text.getvalue()
    assert "quartiles" in text.getvalue()


def test_json_has_every_single_run_and_the_machine(found: Benchmark) -> None:
    content = json.loads(json.dumps(as_content(found)))
    eager, _, broken = content["models"][0]["modes"]
    assert len(eager["rounds_ms"]) == FEWEST_ROUNDS
    assert eager["warm_up"] >= 3
    assert (broken["mode"], "flap" in broken["failed"]) == ("broken", True)
    assert content["machine"]["libraries"]["torch"] == torch.__version__.split("+")[0]
    assert content["machine"]["name"]


def test_costs_of_several_models_are_measured_in_turns(model: BenchModel, tmp_path: Path) -> None:
    other = find_model(tmp_path, "resfpn:resnet18", tmp_path / "model")
    costs = measure_costs([model.checkpoint, other.checkpoint], SIZE, 0, keep_quiet)
    assert [cost.parameters for cost in costs] == [3_960_930, 12_725_825]
    with pytest.raises(InputError, match=r"nowhere: its cost cannot be measured: .*state\.json"):
        measure_costs([tmp_path / "nowhere"], SIZE, 0, keep_quiet)


def test_a_process_that_dies_has_a_reason(model: BenchModel) -> None:
    with fresh_process() as pool, pytest.raises(SideError, match="process died"):
        ask(pool, os._exit, 1)
    process = SideProcess(Side("x", model.checkpoint / "none", SIZE, EAGER, "cpu", 1))
    with pytest.raises(SideError, match=r"state\.json"):
        process.start(load_images(None, SIZE))
    process.close()


def test_eager_comes_first_and_modes_are_those_of_the_device() -> None:
    assert [mode.name for mode in pick_modes(["openvino", "bf16"], "cpu")] == [
        "eager", "bf16", "openvino",
    ]  # fmt: skip
    on_gpu = [mode.name for mode in pick_modes(None, "cuda")]
    assert "fp16" in on_gpu
    assert "onnxruntime" not in on_gpu
    assert not any(mode.compiles for mode in pick_modes(None, "cpu", compile=False))
    with pytest.raises(InputError, match="known: eager, channels_last"):
        pick_modes(["fast"], "cpu")
    with pytest.raises(InputError, match="fp16: runs on cuda, found --device cpu"):
        pick_modes(["fp16"], "cpu")


def test_slow_models_run_less_often_but_in_enough_rounds() -> None:
    assert plan(Pace(100, 120), [1.0, 2.0]) == (10, ROUNDS)
    assert plan(Pace(100, 120), [1000.0, 1000.0]) == (5, ROUNDS)
    assert plan(Pace(100, 0), [1000.0]) == (1, ROUNDS)
    assert plan(Pace(3, 120), [1.0]) == (1, 3)


def test_a_model_that_does_not_say_its_size_needs_one(model: BenchModel) -> None:
    assert sizes_of(model, [SIZE]) == [SIZE]
    with pytest.raises(InputError, match="--size 192x640"):
        sizes_of(model, [])
    assert sizes_of(BenchModel("x", Path(), (3, 4)), []) == [(3, 4)]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("slowdepth:resnet18", "known: densedepth, eigen"),
        ("monodepth2:resnet17", "resnet17"),
        ("nothing", "no model is there"),
    ],
)
def test_models_that_there_are_not_are_refused(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_model(tmp_path, source, tmp_path / "model")


def test_photographs_are_resized_to_the_size_that_is_measured(tmp_path: Path) -> None:
    for i in range(8):
        Image.new("RGB", (20, 10), (10 * i, 0, 0)).save(tmp_path / f"{i}.png")
    images = load_images(tmp_path, (6, 8))
    assert images.shape == (IMAGES, 6, 8, 3)
    assert len(set(images[:, 0, 0, 0])) == IMAGES
    assert load_images(None, (6, 8)).shape == (1, 6, 8, 3)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images in it"):
        load_images(tmp_path / "empty", (6, 8))


def test_a_cpu_says_whether_it_has_bfloat16(tmp_path: Path) -> None:
    (tmp_path / "new").write_text("flags\t: fpu avx512_bf16 amx_tile\n")
    (tmp_path / "old").write_text("flags\t: fpu avx512f\n")
    assert has_bf16(tmp_path / "new")
    assert not has_bf16(tmp_path / "old")
    assert has_bf16(tmp_path / "none")
