"""A run's metrics on its own storage: written by training, delivered by others when they can.

`journal/` in the run folder holds segments, files that are never changed once written. A segment
is named `<first step>-<last step>-<CRC-32>.jsonl`; a line of it is one `Point`.
"""

import json
import math
import threading
import time
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mde.errors import InputError
from mde.storage import Storage

FOLDER = "journal"


@dataclass(frozen=True)
class Point:
    """Values of one step. time_ms: since 1970. values: may be NaN or infinite."""

    step: int
    time_ms: int
    values: dict[str, float]


class Journal:
    """Where rank 0 of training writes its metrics. Any thread may add and flush.

    A name's values are kept once for each step: a resumed training, which repeats the steps after
    its checkpoint, adds nothing for them. Raises InputError when a segment is damaged.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._points: list[Point] = []
        self._last: dict[str, int] = {}
        self._adding, self._flushing = threading.Lock(), threading.Lock()
        for name in segments(storage):
            for point in read_segment(storage, name):
                self._fresh(point.step, point.values)

    def add(self, step: int, values: dict[str, float]) -> None:
        """Keep values of an optimizer step, numbered over the whole run, in memory.

        Values whose name has been added for this step or a later one are dropped. It waits for no
        disk and no network.
        """
        with self._adding:
            fresh = self._fresh(step, values)
            if fresh:
                self._points.append(Point(step, time.time_ns() // 1_000_000, fresh))

    def flush(self) -> None:
        """Write what has been added since the last flush as one segment; nothing if that is none.

        To be called before a checkpoint is published: what a resumed run does not repeat must be
        there. When writing fails, the error is raised and the points wait for the next flush.
        """
        with self._flushing:
            with self._adding:
                points, self._points = self._points, []
            if not points:
                return
            data = "".join(_to_line(point) for point in points).encode()
            try:
                self.storage.write(f"{FOLDER}/{_segment_name(points, data)}", data)
            except BaseException:
                with self._adding:
                    self._points = points + self._points
                raise

    def _fresh(self, step: int, values: dict[str, float]) -> dict[str, float]:
        """The values that are new; they are known from here on."""
        last = self._last
        fresh = {name: float(value) for name, value in values.items() if step > last.get(name, -1)}
        last.update(dict.fromkeys(fresh, step))
        return fresh


def segments(storage: Storage) -> list[str]:
    """Names of a run's segments, in the order of their steps."""
    return [name for name in storage.names(FOLDER) if name.endswith(".jsonl")]


def read_segment(storage: Storage, name: str) -> list[Point]:
    """The points of a segment, as they were added. Raises InputError when it is damaged."""
    data = storage.read(f"{FOLDER}/{name}")
    try:
        points = [_to_point(line) for line in data.splitlines()]
        whole = _segment_name(points, data) == name
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise InputError(
            f"{storage.uri}/{FOLDER}/{name}: damaged since it was written (its CRC-32, in its "
            "name, is another); bring it back from a copy, or delete it: its metrics are lost then"
        )
    return points


def _segment_name(points: Iterable[Point], data: bytes) -> str:
    steps = [point.step for point in points]
    return f"{min(steps):09d}-{max(steps):09d}-{zlib.crc32(data):08x}.jsonl"


def _to_line(point: Point) -> str:
    # JSON knows neither NaN nor infinity; as strings they pass through any reader.
    values = {k: v if math.isfinite(v) else str(v) for k, v in point.values.items()}
    content = {"step": point.step, "time_ms": point.time_ms, "values": values}
    return json.dumps(content) + "\n"


def _to_point(line: bytes) -> Point:
    content: dict[str, Any] = json.loads(line)
    values = {name: float(value) for name, value in content["values"].items()}
    return Point(int(content["step"]), int(content["time_ms"]), values)
