"""The metrics journal: nothing lost, nothing twice, damage found."""

import math
import threading
from pathlib import Path

import pytest

from mde.errors import InputError
from mde.storage import FolderStorage, open_storage
from mde.train.journal import Journal, Point, read_segment, segments


def read_all(folder: Path) -> list[Point]:
    storage = open_storage(folder)
    return [point for name in segments(storage) for point in read_segment(storage, name)]


def steps_of(folder: Path, name: str) -> list[int]:
    return [point.step for point in read_all(folder) if name in point.values]


def test_what_is_added_is_read_back_in_order(tmp_path: Path) -> None:
    journal = Journal(open_storage(tmp_path))
    for step in range(25):
        journal.add(step, {"loss": 1 / (step + 1), "lr": 1e-4})
        if step % 10 == 9:
            journal.flush()
    journal.flush()
    journal.flush()
    points = read_all(tmp_path)
    assert [point.step for point in points] == list(range(25))
    assert points[2].values == {"loss": 1 / 3, "lr": 1e-4}
    assert len(segments(open_storage(tmp_path))) == 3


def test_times_do_not_go_back(tmp_path: Path) -> None:
    journal = Journal(open_storage(tmp_path))
    for step in range(3):
        journal.add(step, {"loss": 0.0})
    journal.flush()
    times = [point.time_ms for point in read_all(tmp_path)]
    assert times == sorted(times)
    assert times[0] > 1_600_000_000_000


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e-320, -0.0, 0.1 + 0.2])
def test_every_float_survives(tmp_path: Path, value: float) -> None:
    journal = Journal(open_storage(tmp_path))
    journal.add(1, {"loss": value})
    journal.flush()
    found = read_all(tmp_path)[0].values["loss"]
    assert str(found) == str(value)


def test_a_resumed_run_makes_no_holes_and_no_repeats(tmp_path: Path) -> None:
    killed = Journal(open_storage(tmp_path))
    for step in range(1, 18):
        killed.add(step, {"loss": float(step)})
        if step % 5 == 0:
            killed.flush()
    # Steps 16 and 17 were in memory only; the last checkpoint, at step 10, was after a flush.
    resumed = Journal(open_storage(tmp_path))
    for step in range(11, 31):
        resumed.add(step, {"loss": -1.0 if step <= 15 else float(step)})
    resumed.flush()
    assert steps_of(tmp_path, "loss") == list(range(1, 31))
    assert [point.values["loss"] for point in read_all(tmp_path)] == list(map(float, range(1, 31)))


def test_names_are_told_apart_when_repeats_are_dropped(tmp_path: Path) -> None:
    first = Journal(open_storage(tmp_path))
    first.add(10, {"loss": 1.0})
    first.flush()
    resumed = Journal(open_storage(tmp_path))
    resumed.add(10, {"loss": 2.0, "val_loss": 3.0})
    resumed.add(10, {"val_loss": 4.0})
    resumed.flush()
    # Of the same step, the segments come in any order.
    values = sorted((point.values for point in read_all(tmp_path)), key=str)
    assert values == [{"loss": 1.0}, {"val_loss": 3.0}]


class FullDisk(FolderStorage):
    """A storage that takes nothing until room is made."""

    full = True

    def write(self, name: str, data: bytes) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        super().write(name, data)


def test_points_wait_when_the_disk_is_full(tmp_path: Path) -> None:
    storage = FullDisk(tmp_path)
    journal = Journal(storage)
    journal.add(1, {"loss": 1.0})
    with pytest.raises(OSError, match="No space"):
        journal.flush()
    journal.add(2, {"loss": 2.0})
    storage.full = False
    journal.flush()
    assert steps_of(tmp_path, "loss") == [1, 2]


def test_threads_add_while_others_flush(tmp_path: Path) -> None:
    journal, stop = Journal(open_storage(tmp_path)), threading.Event()

    def flush() -> None:
        while not stop.is_set():
            journal.flush()

    flushers = [threading.Thread(target=flush) for _ in range(2)]
    adders = [
        threading.Thread(target=lambda n=n: [journal.add(s, {f"m{n}": 1.0}) for s in range(400)])
        for n in range(3)
    ]
    for thread in [*flushers, *adders]:
        thread.start()
    for thread in adders:
        thread.join()
    stop.set()
    for thread in flushers:
        thread.join()
    journal.flush()
    for name in ("m0", "m1", "m2"):
        assert sorted(steps_of(tmp_path, name)) == list(range(400))


@pytest.mark.parametrize("damage", ["flip", "cut", "line", "empty", "noise"])
def test_a_damaged_segment_is_named(tmp_path: Path, damage: str) -> None:
    journal = Journal(open_storage(tmp_path))
    for step in range(5):
        journal.add(step, {"loss": 0.25})
    journal.flush()
    (file,) = (tmp_path / "journal").iterdir()
    data = file.read_bytes()
    file.write_bytes(
        {
            "flip": data.replace(b"0.25", b"0.35", 1),
            "cut": data[:-7],
            "line": data[: data.index(b"\n") + 1],
            "empty": b"",
            "noise": b"\xff\x00 no JSON",
        }[damage]
    )
    with pytest.raises(InputError, match=file.name):
        Journal(open_storage(tmp_path))
