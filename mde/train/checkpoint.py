"""A checkpoint folder: `model.safetensors`, `optimizer.pt`, and `state.json`, written last.

A folder with `state.json` is whole; it holds the SHA-256 of the other files.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mde.errors import InputError
from mde.files import disk_fault, file_sha256, read_json

FORMAT = 1
FILES = ("model.safetensors", "optimizer.pt")


def save_checkpoint(
    folder: Path, module: nn.Module, optimizer: dict[str, Any], state: dict[str, Any]
) -> None:
    """Write a checkpoint into an existing folder.

    optimizer: state dicts, of tensors and plain values. state: anything JSON, such as epoch, step,
    variant, git commit and data hash.
    Raises InputError when the disk is full; nothing of the checkpoint is left in the folder then.
    """
    try:
        _write(folder, module, optimizer, state)
    except Exception as error:
        fault = disk_fault(error, folder)
        for name in (*FILES, "state.json.tmp"):
            (folder / name).unlink(missing_ok=True)
        if fault is None:
            raise
        raise InputError(
            f"{folder}: {fault}: the checkpoint could not be written; those before it are whole. "
            "Make room and start again"
        ) from error


def _write(
    folder: Path, module: nn.Module, optimizer: dict[str, Any], state: dict[str, Any]
) -> None:
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()
    }
    save_file(tensors, folder / "model.safetensors")
    torch.save(optimizer, folder / "optimizer.pt")
    files = {name: file_sha256(folder / name) for name in FILES}
    draft = folder / "state.json.tmp"
    draft.write_text(json.dumps({"format": FORMAT, **state, "sha256": files}, indent=2))
    os.replace(draft, folder / "state.json")


def read_state(folder: Path) -> dict[str, Any]:
    """Read and verify a checkpoint's `state.json`.

    Raises InputError when the folder is not a whole checkpoint or a file's SHA-256 differs.
    """
    path = folder / "state.json"
    if not path.is_file():
        raise InputError(f"{folder}: not a whole checkpoint: it has no state.json")
    state = read_json(path)
    if not isinstance(state, dict) or state.get("format") != FORMAT or "sha256" not in state:
        raise InputError(f"{path}: not a checkpoint of format {FORMAT}")
    for name, expected in state["sha256"].items():
        if not (folder / name).is_file() or file_sha256(folder / name) != expected:
            raise InputError(f"{folder / name}: missing or changed since it was saved (SHA-256)")
    return state


def load_checkpoint(folder: Path, module: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """Restore the networks in place; returns the state, and the state dicts of the optimizer.

    Raises InputError as `read_state` does, or when the tensors are those of another network.
    """
    state = read_state(folder)
    _fill(module, load_file(folder / "model.safetensors"), folder)
    return state, torch.load(folder / "optimizer.pt", weights_only=True)


def load_model(folder: Path, model: nn.Module) -> None:
    """Fill a depth model from the checkpoint of the objective that it was trained in."""
    read_state(folder)
    tensors = load_file(folder / "model.safetensors")
    prefix = "model."
    own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    _fill(model, own, folder)


def _fill(module: nn.Module, tensors: dict[str, Tensor], folder: Path) -> None:
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"{folder}: the checkpoint is of another network: {error}") from error
