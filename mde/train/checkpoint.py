"""A checkpoint folder: tensors of the model and the optimizer, and `state.json`, written last.

A folder with `state.json` is whole; it holds the SHA-256 of the other files. Nothing is a pickle:
what of an optimizer's state is no tensor stands as JSON in the metadata of its file.
"""

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mde.errors import InputError
from mde.files import disk_fault, file_sha256, read_json
from mde.train.foreign import refuse_foreign

FORMAT = 2
FILES = ("model.safetensors", "optimizer.safetensors")
# Key of the metadata of the optimizer's file.
TREE = "tree"
# Of the depth model's tensors, among those of the objective that it was trained in.
MODEL_PREFIX = "model."


def save_checkpoint(
    folder: Path, tensors: dict[str, Tensor], optimizer: dict[str, Any], state: dict[str, Any]
) -> None:
    """Write a checkpoint into an existing folder.

    tensors: an objective's state dict. optimizer: state dicts, of tensors and plain values. state:
    anything JSON, such as epoch, step, variant, git commit and data hash.
    Raises TypeError when there is something else in `optimizer`, and InputError when
    the disk is full; nothing of the checkpoint is left in the folder then.
    """
    _save(folder, tensors, optimizer, state)


def save_model(folder: Path, model: nn.Module, state: dict[str, Any]) -> None:
    """Write a depth model alone: a checkpoint for `load_model`, from which no training goes on.

    state, and what is raised: as in `save_checkpoint`.
    """
    tensors = {MODEL_PREFIX + name: value for name, value in model.state_dict().items()}
    _save(folder, tensors, None, state)


def _save(
    folder: Path,
    tensors: dict[str, Tensor],
    optimizer: dict[str, Any] | None,
    state: dict[str, Any],
) -> None:
    try:
        _write(folder, tensors, optimizer, state)
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
    folder: Path,
    tensors: dict[str, Tensor],
    optimizer: dict[str, Any] | None,
    state: dict[str, Any],
) -> None:
    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    save_file(whole, folder / "model.safetensors")
    if optimizer is not None:
        _save_optimizer(optimizer, folder / FILES[1])
    written = FILES if optimizer is not None else FILES[:1]
    files = {name: file_sha256(folder / name) for name in written}
    draft = folder / "state.json.tmp"
    draft.write_text(json.dumps({"format": FORMAT, **state, "sha256": files}, indent=2))
    os.replace(draft, folder / "state.json")


def read_state(folder: Path) -> dict[str, Any]:
    """Read and verify a checkpoint's `state.json`.

    Raises InputError when the folder is not a whole checkpoint, a file's SHA-256 differs, or there
    are pickles or code beside its files.
    """
    path = folder / "state.json"
    if not path.is_file():
        raise InputError(f"{folder}: not a whole checkpoint: it has no state.json")
    refuse_foreign(folder)
    state = read_json(path)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise InputError(
            f"{path}: not a checkpoint of format {FORMAT}, the one that this version of mde writes "
            "and reads"
        )
    files = state.get("sha256")
    # Else it would vouch for files elsewhere, or leave the weights out.
    if not isinstance(files, dict) or not {FILES[0]} <= files.keys() <= set(FILES):
        raise InputError(f"{path}: sha256 must have {FILES[0]} and may have {FILES[1]}, no more")
    for name, expected in files.items():
        if not (folder / name).is_file() or file_sha256(folder / name) != expected:
            raise InputError(f"{folder / name}: missing or changed since it was saved (SHA-256)")
    return state


def load_checkpoint(folder: Path, module: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """Restore the networks in place; returns the state, and the state dicts of the optimizer.

    Raises InputError as `read_state` does, when the tensors are those of another network, or when
    the folder holds a model alone.
    """
    state = read_state(folder)
    if FILES[1] not in state["sha256"]:
        raise InputError(f"{folder}: a model without its optimizer: no training goes on from it")
    optimizer = _load_optimizer(folder / FILES[1])
    _fill(module, _load_tensors(folder / "model.safetensors"), folder)
    return state, optimizer


def _save_optimizer(optimizer: dict[str, Any], path: Path) -> None:
    tensors: dict[str, Tensor] = {}
    tree = _without_tensors(optimizer, "optimizer", tensors)
    save_file(tensors, path, metadata={TREE: json.dumps(tree)})


def _without_tensors(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """State as JSON; its tensors go to `tensors`.

    An object says of itself what it is, as JSON knows no tuple, and text alone as a key.
    """
    if isinstance(value, Tensor):
        # Keys such as 0 and "0" would lead to the same name.
        name = name if name not in tensors else f"{name} ({len(tensors)})"
        tensors[name] = value.detach().cpu().contiguous()
        return {"tensor": name}
    if isinstance(value, dict):
        parts = [
            [key, _without_tensors(part, f"{name}.{key}", tensors)] for key, part in value.items()
        ]
        return {"dict": parts}
    if isinstance(value, list | tuple):
        found = [_without_tensors(part, f"{name}.{i}", tensors) for i, part in enumerate(value)]
        return found if isinstance(value, list) else {"tuple": found}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name}: a {type(value).__name__} is neither a tensor nor a plain value")


def _load_optimizer(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, "pt") as file:
            tree = json.loads(file.metadata()[TREE])
        # Copies: else they would change with the file.
        tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
        content = _with_tensors(tree, tensors)
    except (
        *(SafetensorError, OSError, RecursionError),
        *(ValueError, LookupError, TypeError),  # of what is no such tree
    ) as error:
        raise InputError(f"{path}: not the state of an optimizer: {error!r}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: not the state of an optimizer, but a {type(content).__name__}")
    return content


def _with_tensors(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """Inverse of `_without_tensors`."""
    if isinstance(tree, list):
        return [_with_tensors(part, tensors) for part in tree]
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _with_tensors(part, tensors) for key, part in content}
    if kind == "tuple":
        return tuple(_with_tensors(part, tensors) for part in content)
    raise ValueError(f"an object of kind '{kind}'")


def _load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a file of tensors: {error}") from error


def load_model(folder: Path, model: nn.Module) -> None:
    """Fill a depth model from the checkpoint of the objective that it was trained in."""
    read_state(folder)
    tensors = _load_tensors(folder / "model.safetensors")
    own = {
        name.removeprefix(MODEL_PREFIX): tensor
        for name, tensor in tensors.items()
        if name.startswith(MODEL_PREFIX)
    }
    _fill(model, own, folder)


def _fill(module: nn.Module, tensors: dict[str, Tensor], folder: Path) -> None:
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"{folder}: the checkpoint is of another network: {error}") from error
