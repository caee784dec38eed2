"""The checkpoints of a run: written beside the training, the last few and the best are kept."""

import functools
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from mde.bucket import check_place
from mde.errors import InputError
from mde.storage import Storage
from mde.train.checkpoint import load_checkpoint, read_state, save_checkpoint
from mde.train.recipe import History, Recipe, best_steps

PREFIX = "step-"


@dataclass(frozen=True)
class RunConfig:
    """How a run is kept; nothing of it changes what comes out.

    storage: URI below which each run has its folder, such as an NFS path or s3://bucket/runs; None:
    `checkpoints` in the root folder. There is a checkpoint after every epoch, and with
    `checkpoint_steps` after so many optimizer steps. Kept are the `keep_last` newest and the
    `keep_best` best epochs', see `best_by` of the recipe. log_steps: values of every so many steps
    are logged.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    storage: str | None = None
    checkpoint_steps: int | None = None
    keep_last: int = 2
    keep_best: int = 1
    log_steps: int = 10

    def __post_init__(self) -> None:
        check_place(self.storage or "")
        for name in ("checkpoint_steps", "keep_last", "keep_best", "log_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, found {value}")


class Checkpoints:
    """Saves from a thread, one at a time; a context manager that waits for the last one.

    before_publish: called in the thread before a checkpoint becomes visible.
    """

    def __init__(
        self,
        storage: Storage,
        config: RunConfig,
        recipe: Recipe,
        provenance: dict[str, Any],
        before_publish: Callable[[], None] = lambda: None,
    ) -> None:
        self.storage, self.config, self.recipe = storage, config, recipe
        # As it comes back from a file, where a tuple is a list.
        self.provenance = json.loads(json.dumps(provenance))
        self.before_publish = before_publish
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        try:
            self.wait()
        except Exception as fault:
            if error is None:
                raise
            error.add_note(f"besides, the last checkpoint was not written: {fault}")

    @property
    def busy(self) -> bool:
        """Whether one is being written."""
        return self._thread is not None and self._thread.is_alive()

    def save(self, module: nn.Module, optimizer: dict[str, Any], state: dict[str, Any]) -> None:
        """Copy everything now and write it in the background; waits for one under way.

        state: with `step` and `history`. Raises what the former save has met.
        """
        self.wait()
        tensors, optimizer = to_cpu(module.state_dict()), to_cpu(optimizer)
        state = {**state, "history": list(state["history"]), **self.provenance}
        write = functools.partial(_write, tensors=tensors, optimizer=optimizer, state=state)
        self._thread = threading.Thread(target=self._publish, args=(write, state))
        self._thread.start()

    def _publish(self, write: Callable[[Path], None], state: dict[str, Any]) -> None:
        try:
            self.before_publish()
            self.storage.put_folder(checkpoint_name(state["step"]), write)
            self._delete_old(state["history"])
        except BaseException as error:
            self._error = error

    def _delete_old(self, history: History) -> None:
        present = checkpoint_names(self.storage)
        kept = set(present[: self.config.keep_last])
        best = best_steps(self.recipe, history)[: self.config.keep_best]
        kept |= {checkpoint_name(step) for step in best}
        for name in set(present) - kept:
            self.storage.delete(name)

    def wait(self) -> None:
        """Wait for the save under way. Raises what it has met."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def restore(self, module: nn.Module, say: Callable[[str], None]) -> tuple[str, Any, Any] | None:
        """Fill a module from the newest checkpoint that fits; its name, state and optimizer.

        A damaged one, or one of another network, configuration or dataset, is told of and passed
        over for the one before. None when there is none.
        Raises InputError when there are some, and not one of them fits.
        """
        refused = []
        for name in checkpoint_names(self.storage):
            try:
                folder = self.storage.fetch_folder(name)
                self._check_origin(folder)
                state, optimizer = load_checkpoint(folder, module)
                return name, state, optimizer
            except (InputError, FileNotFoundError) as error:
                refused.append(str(error))
                say(f"checkpoint passed over: {error}")
        if refused:
            raise InputError(
                f"{self.storage.uri}: none of its {len(refused)} checkpoints can be gone on from: "
                f"{refused[0]}. Delete the folder to train anew"
            )
        return None

    def _check_origin(self, folder: Path) -> None:
        state = read_state(folder)
        for key in ("variant", "data_sha256"):
            given, found = self.provenance.get(key), state.get(key)
            if trained_part(found) != trained_part(given):
                raise InputError(
                    f"{folder}: the checkpoint is of another {key}: {_difference(given, found)}"
                )


def trained_part(value: Any) -> Any:
    """A variant without what only its evaluation uses; other values as they are."""
    if not isinstance(value, dict):
        return value
    return {key: part for key, part in value.items() if key != "protocol"}


def _difference(given: Any, found: Any) -> str:
    if isinstance(given, dict) and isinstance(found, dict):
        keys = sorted(key for key in {*given, *found} if given.get(key) != found.get(key))
        return "; ".join(f"{key}: {_difference(given.get(key), found.get(key))}" for key in keys)
    return f"expected {given!r}, found {found!r}"


def checkpoint_name(step: int) -> str:
    """Folder of the checkpoint after `step` optimizer steps."""
    return f"{PREFIX}{step:09d}"


def checkpoint_names(storage: Storage) -> list[str]:
    """Whole checkpoints of a run, newest first."""
    names = [name for name in storage.names() if name.startswith(PREFIX)]
    return sorted((n for n in names if "state.json" in storage.names(n)), reverse=True)


def result_name(storage: Storage, recipe: Recipe) -> str:
    """The checkpoint that a finished run gives: the last, or the best of its epochs.

    Raises InputError when there is none.
    """
    names = checkpoint_names(storage)
    if not names:
        raise InputError(f"{storage.uri}: there is no checkpoint")
    if recipe.result == "last":
        return names[0]
    history = read_state(storage.fetch_folder(names[0]))["history"]
    best = checkpoint_name(best_steps(recipe, history)[0])
    if best not in names:
        raise InputError(f"{storage.uri}: the best checkpoint, {best}, is not there any more")
    return best


def _write(
    folder: Path, tensors: dict[str, Tensor], optimizer: dict[str, Any], state: dict[str, Any]
) -> None:
    save_checkpoint(folder, tensors, optimizer, state)


def to_cpu(value: Any) -> Any:
    """A copy of nested state, its tensors in main memory: training may go on and change it."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True).contiguous()
    if isinstance(value, dict):
        return {key: to_cpu(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(to_cpu(part) for part in value)
    return value
