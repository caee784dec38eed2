"""Checkpoints: exact, complete, and refused when damaged or of another network."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from mde.errors import InputError
from mde.train.checkpoint import (
    file_sha256,
    load_checkpoint,
    load_model,
    read_state,
    save_checkpoint,
)

STATE = {"epoch": 7, "step": 9, "variant": {"name": "small"}, "git_commit": "abc"}


def build(seed: int) -> nn.ModuleDict:
    """An objective: the depth model, and a pose network that trains with it."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 3))
    return nn.ModuleDict({"model": model, "pose": nn.Linear(6, 6)})


def optimizer_of(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(module.parameters(), lr=1e-3)


@pytest.fixture
def trained() -> tuple[nn.ModuleDict, torch.optim.Optimizer]:
    """Networks and optimizer after a step; the batch norm has seen data too."""
    module = build(0)
    optimizer = optimizer_of(module)
    (module["model"](torch.randn(2, 3, 9, 9)).mean() + module["pose"].weight.sum()).backward()
    optimizer.step()
    return module, optimizer


@pytest.fixture
def checkpoint(tmp_path: Path, trained) -> Path:
    save_checkpoint(tmp_path, trained[0].state_dict(), trained[1].state_dict(), STATE)
    return tmp_path


def assert_equal(a: dict, b: dict) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_networks_optimizer_and_state_come_back_exactly(checkpoint: Path, trained):
    module = build(1)
    optimizer = optimizer_of(module)
    state, saved = load_checkpoint(checkpoint, module)
    optimizer.load_state_dict(saved)
    assert_equal(module.state_dict(), trained[0].state_dict())
    assert_equal(optimizer.state_dict(), trained[1].state_dict())
    assert STATE.items() <= state.items()


def test_every_kind_of_value_of_an_optimizer_comes_back_as_it_was(tmp_path: Path, trained):
    values = {
        "adam": {
            "state": {0: {"step": torch.tensor(3.0), "m": torch.randn(2, 3).T}, 7: {}},
            "param_groups": [{"betas": (0.9, 0.999), "lr": 0.1 + 0.2, "fused": None, "on": True}],
        },
        "sgd": {0: torch.ones(1), "0": torch.zeros(2, dtype=torch.bfloat16), "n": float("inf")},
        "scaler": {},
    }
    save_checkpoint(tmp_path, trained[0].state_dict(), values, STATE)
    _, found = load_checkpoint(tmp_path, build(1))
    assert_equal(found, values)
    assert list(found["adam"]["state"]) == [0, 7]
    assert found["adam"]["param_groups"] == values["adam"]["param_groups"]
    assert found["sgd"][0].shape == (1,)
    with pytest.raises(TypeError, match=r"optimizer\.sgd\.fun: a type is neither"):
        save_checkpoint(tmp_path, {}, {"sgd": {"fun": Path}}, STATE)


def test_the_state_holds_the_hashes_of_the_other_files(checkpoint: Path):
    files = {path.name for path in checkpoint.iterdir()}
    assert files == {"model.safetensors", "optimizer.safetensors", "state.json"}
    state = json.loads((checkpoint / "state.json").read_text())
    assert set(state["sha256"]) == files - {"state.json"}


def test_load_model_fills_the_depth_model_alone(checkpoint: Path, trained):
    model = build(1)["model"]
    load_model(checkpoint, model)
    assert_equal(model.state_dict(), trained[0]["model"].state_dict())


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_file_is_named(checkpoint: Path, name: str, damage: str):
    path = checkpoint / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    if damage != "remove":
        path.write_bytes(data if damage == "flip" else data[:-1])
    module = build(1)
    for load in (
        lambda: load_checkpoint(checkpoint, module),
        lambda: load_model(checkpoint, module["model"]),
    ):
        with pytest.raises(InputError, match=rf"{name}: missing or changed"):
            load()


def test_nothing_is_loaded_from_a_damaged_checkpoint(checkpoint: Path):
    (checkpoint / "optimizer.safetensors").unlink()
    module = build(1)
    with pytest.raises(InputError):
        load_checkpoint(checkpoint, module)
    assert_equal(module.state_dict(), build(1).state_dict())


@pytest.mark.parametrize("text", [None, "{", "{}", '{"format": 99}'])
def test_a_folder_without_a_whole_state_is_no_checkpoint(checkpoint: Path, text: str | None):
    (checkpoint / "state.json").unlink()
    if text is not None:
        (checkpoint / "state.json").write_text(text)
    with pytest.raises(InputError, match=str(checkpoint)):
        read_state(checkpoint)


def test_a_checkpoint_of_another_network_is_refused(checkpoint: Path):
    other = build(1)
    other["model"][0] = nn.Conv2d(3, 5, 3)
    with pytest.raises(InputError, match="the checkpoint is of another network"):
        load_checkpoint(checkpoint, other)
    with pytest.raises(InputError, match="the checkpoint is of another network"):
        load_model(checkpoint, other["model"])
    with pytest.raises(InputError, match="the checkpoint is of another network"):
        load_model(checkpoint, nn.Linear(2, 2))


def test_a_pickle_in_place_of_the_optimizer_is_not_run(checkpoint: Path, tmp_path: Path):
    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "was_run",))

    torch.save(Payload(), checkpoint / "optimizer.safetensors")
    state = json.loads((checkpoint / "state.json").read_text())
    # Whoever can replace the file can replace its hash as well.
    path = checkpoint / "optimizer.safetensors"
    state["sha256"]["optimizer.safetensors"] = file_sha256(path)
    (checkpoint / "state.json").write_text(json.dumps(state))
    module = build(1)
    with pytest.raises(InputError, match=r"optimizer\.safetensors: not the state of an optimizer"):
        load_checkpoint(checkpoint, module)
    assert not (tmp_path / "was_run").exists()
