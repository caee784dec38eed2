"""Where a training says how it stands: an actor that rank 0 writes to and the driver looks at.

Ray Train's own `report` makes all workers wait for its controller; a call to this actor is sent
and forgotten.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from mde.train import progress as shown

LOOK_EVERY_S = 0.5


@ray.remote(num_cpus=0)
class Board:
    """The newest progress, notes that nobody has seen yet, and what ended the training for good."""

    def __init__(self) -> None:
        self._progress: list[shown.Progress] = []
        self._fatal: Exception | None = None

    def show(self, progress: shown.Progress) -> None:
        """Take note of a progress; only the newest is kept of those that say nothing else."""
        last = self._progress[-1] if self._progress else None
        if last is not None and not (last.epoch_done or last.note):
            self._progress.pop()
        self._progress.append(progress)

    def look(self) -> list[shown.Progress]:
        """What came since the last look."""
        seen, self._progress = self._progress, []
        return seen

    def fail(self, error: Exception) -> None:
        """Say that trying again is useless."""
        self._fatal = self._fatal or error

    def fatal(self) -> Exception | None:
        """Why trying again is useless, if it is."""
        return self._fatal


def start_board() -> Any:
    """A board on this process's node, so that it lives as long as the driver does."""
    here = ray.get_runtime_context().get_node_id()
    here_only = NodeAffinitySchedulingStrategy(here, soft=False)
    return Board.options(scheduling_strategy=here_only).remote()  # type: ignore[attr-defined]


@contextmanager
def watching(board: Any, title: str) -> Iterator[None]:
    """Show what the board says while the block runs: a live line in a terminal, else lines."""
    over = threading.Event()
    console = Console()
    watch = _watch_live if console.is_terminal else _watch_lines
    thread = threading.Thread(target=watch, args=(board, over, console, title), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(10)


def _looks(board: Any, over: threading.Event) -> Iterator[shown.Progress]:
    while True:
        last = over.wait(LOOK_EVERY_S)
        try:
            yield from ray.get(board.look.remote(), timeout=5)
        except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
            if last:
                return
        if last:
            return


def _watch_lines(board: Any, over: threading.Event, console: Console, title: str) -> None:
    lines = shown.Lines(lambda line: print(f"{title} · {line}", flush=True))
    for progress in _looks(board, over):
        lines(progress)


def _watch_live(board: Any, over: threading.Event, console: Console, title: str) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[line]}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, line="starting")
        for progress in _looks(board, over):
            if progress.epoch_done or progress.note:
                console.print(f"{title} · {progress.line()}", highlight=False)
            bar.update(
                task,
                completed=(progress.epoch - 1) * progress.steps + progress.step,
                total=progress.epochs * progress.steps,
                line=progress.line(),
            )
