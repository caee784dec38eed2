"""What must not be in a checkpoint: files that run code when somebody reads them.

A checkpoint is tensors and text. A folder that offers more was not written by this package, or was
changed since, so it is refused as a whole, by names alone, before anything of it is read. MLflow
has an `MLmodel` beside it: one that says no more than ours is no fault, and nobody here acts on it.
"""

import json
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from mde.errors import InputError

CHECKPOINT_FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
"""All that is ever read of a checkpoint."""

MLMODEL = "MLmodel"
LOADER = "mde.pyfunc"
"""The module, of this package, that MLflow is to load a checkpoint with."""
MLMODEL_LIMIT = 2**16
"""Bytes of an MLmodel."""
MLMODEL_KEYS = {
    "flavors",
    "signature",
    "is_signature_from_type_hint",
    "saved_input_example_info",
    "mlflow_version",
    "metadata",
}
FLAVOR_KEYS = {"loader_module", "python_version"}

PICKLES = {".bin", ".ckpt", ".dill", ".joblib", ".pickle", ".pkl", ".pt", ".pt2", ".pth"}
CODE = {".dll", ".dylib", ".py", ".pyc", ".pyd", ".pyz", ".so", ".whl"}


def refuse_foreign(folder: Path) -> None:
    """Refuse a local checkpoint folder that holds more than data; raises InputError."""
    names = [path.name + "/" * path.is_dir() for path in folder.iterdir()]
    if MLMODEL in names:
        with (folder / MLMODEL).open("rb") as file:
            if is_own_mlmodel(file.read(MLMODEL_LIMIT + 1)):
                names.remove(MLMODEL)
    refuse_foreign_names(names, str(folder))


def is_own_mlmodel(content: bytes) -> bool:
    """Whether an `MLmodel` names the loader of this package, and no other code.

    It must be JSON, as ours is, with no key besides ours and none twice: then all who read it, as
    JSON or as YAML, read the same. content: of the file, or its first `MLMODEL_LIMIT` + 1 bytes.
    """
    if len(content) > MLMODEL_LIMIT:
        return False
    try:
        found = json.loads(content, object_pairs_hook=_without_repeats)
        (name, flavor), *more = found["flavors"].items()
        known = found.keys() <= MLMODEL_KEYS and flavor.keys() <= FLAVOR_KEYS
        loader = flavor["loader_module"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    return bool(known and not more and (name, loader) == ("python_function", LOADER))


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key comes twice")
    return found


def refuse_foreign_names(names: Iterable[str], where: str) -> None:
    """Refuse a checkpoint for what it holds.

    names: what lies right in its folder; folders end in a slash; without `MLmodel` if that is our
    own, see `is_own_mlmodel`. where: the checkpoint, for the message. Raises InputError with every
    file that is refused and its reason.
    """
    faults = [f"{name} ({reason})" for name in sorted(names) if (reason := _reason(name))]
    if faults:
        raise InputError(
            f"{where}: refused, and nothing of it was read: {'; '.join(faults)}. A checkpoint is "
            f"{', '.join(CHECKPOINT_FILES)} and no code; take the rest out if you know where it "
            "comes from, or turn foreign weights into a checkpoint with `mde import-weights`"
        )


def _reason(name: str) -> str | None:
    if name in CHECKPOINT_FILES:
        return None
    if name == MLMODEL:
        return "an MLflow model, which names Python code to load"
    if name.endswith("/"):
        return "a folder of code" if name == "code/" else "a folder, of which a checkpoint has none"
    # `weights.pth.tar` is a pickle too.
    suffixes = {suffix.lower() for suffix in PurePosixPath(name).suffixes}
    if suffixes & PICKLES:
        return "a pickle, which can run code when it is read"
    return "code" if suffixes & CODE else None
