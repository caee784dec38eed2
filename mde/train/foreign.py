"""What must not be in a checkpoint: files that run code when somebody reads them.

A checkpoint is tensors and text. A folder that offers more was not written by this package, or was
changed since, so it is refused as a whole, by names alone, before anything of it is read.
"""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from mde.errors import InputError

CHECKPOINT_FILES = ("model.safetensors", "optimizer.pt", "state.json")
"""All that is ever read of a checkpoint."""

PICKLES = {".bin", ".ckpt", ".dill", ".joblib", ".pickle", ".pkl", ".pt", ".pt2", ".pth"}
CODE = {".dll", ".dylib", ".py", ".pyc", ".pyd", ".pyz", ".so", ".whl"}


def refuse_foreign(folder: Path) -> None:
    """Refuse a local checkpoint folder that holds more than data; raises InputError."""
    names = [path.name + "/" * path.is_dir() for path in folder.iterdir()]
    refuse_foreign_names(names, str(folder))


def refuse_foreign_names(names: Iterable[str], where: str) -> None:
    """Refuse a checkpoint for what it holds.

    names: what lies right in its folder; folders end in a slash. where: the checkpoint, for the
    message. Raises InputError with every file that is refused and its reason.
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
    if name == "MLmodel":
        return "an MLflow model, which names Python code to load"
    if name.endswith("/"):
        return "a folder of code" if name == "code/" else "a folder, of which a checkpoint has none"
    # `weights.pth.tar` is a pickle too.
    suffixes = {suffix.lower() for suffix in PurePosixPath(name).suffixes}
    if suffixes & PICKLES:
        return "a pickle, which can run code when it is read"
    return "code" if suffixes & CODE else None
