"""The benchmarks of models need torch alone, build the published networks, and measure."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import devices, encoders, train_step
from benchmarks.cases import CASES, FAMILIES, make_batch, model_config

REPOSITORY = Path(__file__).parents[2]
FOREIGN = (
    "numpy", "safetensors", "timm", "torchvision", "pydantic", "ray", "cv2", "yaml", "ruamel",
    "psutil", "rich", "typer",
)  # fmt: skip
# Read by every Python process at its start, those that a benchmark starts too.
REFUSE = f"import sys; sys.modules.update(dict.fromkeys({FOREIGN}))"
PROGRAM = """
import warnings
warnings.simplefilter("ignore")
try:
    import numpy
except ModuleNotFoundError as error:
    print(error)
from benchmarks import encoders, train_step
small = "--device cpu --batch 2 --size 32 64 --runs 2".split()
options = "plain,channels_last,bf16,fused,accumulate=2"
train_step.main(
    ["--model", "fastdepth-mobilenet", "--only", options, "--out", "steps.json", *small])
small[2] = "--batch-train"
encoders.main(
    ["--families", "fastdepth", "--encoders", "mobilenet_v1",
     "--results", "results", "--out", "encoders.json", "--markdown", *small])
"""
# All, and those that are never trained: monodepth2's decoder does not use DenseNet's last norm.
PARAMS = {
    "monodepth2-resnet18": (14_329_236, 0),
    "monodepth2-densenet121": (13_608_660, 2 * 1024),
    "densedepth-densenet169": (42_657_689, 0),
    "fastdepth-mobilenet": (3_960_930, 0),
    "eigen-vgg16": (217_355_458, 0),
    "resfpn-resnet18": (12_725_825, 0),
}


def write_variant(root: Path, name: str, model: dict[str, Any], abs_rel: float) -> None:
    """What evaluation leaves of a variant, as far as the benchmark reads it."""
    result, checkpoint = root / "results" / name, root / "models" / name / "checkpoint"
    result.mkdir(parents=True)
    checkpoint.mkdir(parents=True)
    summary = {"metrics": {"abs_rel": abs_rel}, "protocol": "p", "dataset": "d"}
    (result / "metrics.json").write_text(json.dumps(summary))
    (checkpoint / "state.json").write_text(json.dumps({"variant": {"model": model}}))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """What both programs printed and kept, in a Python that has torch alone."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "sitecustomize.py").write_text(REFUSE)
    write_variant(folder, "fast", {"family": "fastdepth", "encoder": "mobilenet_v1"}, 0.125)
    paths = {"PYTHONPATH": f"{folder}:{REPOSITORY}", "OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=folder, env=os.environ | paths, capture_output=True,
        text=True,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    (steps,) = json.loads((folder / "steps.json").read_text()).values()
    (table,) = json.loads((folder / "encoders.json").read_text()).values()
    return found.stdout, steps, table


def test_both_programs_run_where_there_is_torch_alone(run) -> None:
    printed, steps, table = run
    assert "import of numpy halted" in printed
    assert steps["machine"]["name"] == table["machine"]["name"] == devices.cpu_name()
    assert steps["machine"]["torch"] == torch.__version__


def test_every_option_is_timed_beside_plain_steps(run) -> None:
    _, steps, _ = run
    assert list(steps["options"]) == ["plain", "channels_last", "bf16", "fused", "accumulate=2"]
    for values in steps["options"].values():
        runs = values["seconds_per_step"]
        assert len(runs["plain"]) == len(runs["option"]) == 2
        ratios = [a / b for a, b in zip(runs["plain"], runs["option"], strict=True)]
        assert min(ratios) <= values["ratio"] <= max(ratios)
        assert values["images_per_s"] > 0


def test_the_loss_of_an_option_is_that_of_plain_float32(run) -> None:
    options = run[1]["options"]
    assert options["plain"]["loss_difference_after_update"] == 0
    assert options["fused"]["loss_difference"] == 0
    assert options["channels_last"]["loss_difference"] < 1e-4
    assert 0 < options["bf16"]["loss_difference"] < 0.02
    assert options["plain"]["losses"][0] != options["plain"]["losses"][1]


def test_an_encoder_is_measured_in_processes_of_its_own(run) -> None:
    printed, _, table = run
    cell = table["cells"]["fastdepth + mobilenet_v1"]
    weights_mib = 4 * PARAMS["fastdepth-mobilenet"][0] / devices.MIB
    # Training holds weights, gradients and momentum.
    assert cell["inference"]["resident_mib"] > 0.9 * weights_mib
    assert cell["training"]["resident_mib"] > 0.9 * 3 * weights_mib
    assert cell["latency_s"]["p95"] >= cell["latency_s"]["median"] > 0
    assert len(cell["latency_s"]["runs"]) == 2
    assert "0.125 (fast)" in printed


@pytest.mark.parametrize(("name", "params"), PARAMS.items())
def test_the_measured_networks_are_the_published_ones(name: str, params: tuple[int, int]) -> None:
    counted = encoders.count(CASES[name])
    assert (counted["params"], counted["params"] - counted["trainable"]) == params


def test_macs_are_those_of_the_fastdepth_paper() -> None:
    # arXiv:1903.03273, table II: 0.74 G before pruning.
    assert encoders.count(FAMILIES["fastdepth"])["macs"] == pytest.approx(0.74e9, rel=0.02)


def test_accuracy_is_joined_by_family_encoder_and_downsampling(tmp_path: Path) -> None:
    dense = {"family": "densedepth", "encoder": "densenet169"}
    write_variant(tmp_path, "full", dense, 0.1)
    write_variant(tmp_path, "quarter", {**dense, "downsample": 4}, 0.2)
    found = encoders.read_accuracy(tmp_path / "results")
    assert found["densedepth", "densenet169", 1]["full"]["abs_rel"] == 0.1
    assert found["densedepth", "densenet169", 4]["quarter"]["abs_rel"] == 0.2
    assert encoders.read_accuracy(None) == {}


def test_a_latency_is_compared_within_its_turn_and_family() -> None:
    seconds = {"a + x": [1.0, 4.0, 1.0], "a + y": [2.0, 8.0, 9.0], "b + x": [7.0, 7.0, 7.0]}
    found = encoders.summarise(seconds)
    assert found["a + y"]["ratio"] == 2.0
    assert found["b + x"]["ratio"] == 1.0
    assert found["a + y"]["p95"] == 9.0
    assert found["a + y"]["median"] == 8.0


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(v) for v in range(100, 0, -1)]
    assert devices.percentile(values, 0.95) == 95.0
    assert devices.percentile([3.0], 0.95) == 3.0


def test_a_time_is_of_one_call() -> None:
    seconds = devices.time_calls(lambda: time.sleep(0.01), 5, torch.device("cpu"))
    assert 0.01 <= seconds < 0.05


def test_a_table_has_a_dash_where_nothing_was_measured() -> None:
    rows = [["one", devices.show(None)], ["three", devices.show(1.25, 2)]]
    plain = devices.format_table(("what", "value"), rows, markdown=False).splitlines()
    assert plain == ["what   value", "one        –", "three   1.25"]
    assert "| three | 1.25 |" in devices.format_table(("what", "value"), rows, markdown=True)


def test_a_failed_option_leaves_its_reason() -> None:
    text = train_step.tabulate({"compile": {"failed": "RuntimeError: no compiler"}})
    assert text.splitlines()[-1].split() == ["compile", "failed"]


def test_the_batch_is_what_the_objective_asks_for() -> None:
    case = train_step.replace(CASES["monodepth2-resnet18"], size=(32, 64), batch=3)
    batch = make_batch(case, torch.device("cpu"))
    for name in case.objective.images:
        assert batch[name].shape == (3, 3, 32, 64)  # type: ignore[literal-required]
        assert batch[name].dtype == torch.uint8  # type: ignore[literal-required]
    assert (batch["depth"] == 0).any()
    assert len(batch["sample_id"]) == 3


def test_both_sides_start_with_the_same_weights() -> None:
    case = train_step.replace(CASES["fastdepth-mobilenet"], size=(32, 32), batch=2)
    sides = [
        train_step.Side(case, options, torch.device("cpu"))
        for options in ({}, {"channels_last": True})
    ]
    for ours, theirs in zip(*(side.objective.parameters() for side in sides), strict=True):
        assert torch.equal(ours, theirs)


def test_the_quarter_network_sees_a_quarter_of_the_image() -> None:
    assert model_config(CASES["densedepth-densenet169-quarter"]).downsample == 4


def test_a_gpu_that_is_not_there_is_refused() -> None:
    if torch.cuda.is_available():
        assert devices.pick_device("auto").type == "cuda"
    else:
        assert devices.pick_device("auto").type == "cpu"
        with pytest.raises(ValueError, match="--device cpu"):
            devices.pick_device("cuda")
