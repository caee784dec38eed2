"""The record of a run: what was predicted by which model, what was written, what went wrong."""

import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mde.files import write_json

RECORD = "predictions.json"


@dataclass(frozen=True)
class File:
    """A file that was written. path: relative to the folder of outputs."""

    kind: str
    path: str
    bytes: int

    @classmethod
    def of(cls, kind: str, path: Path, out: Path) -> "File":
        """Of a file that is there."""
        return cls(kind, path.relative_to(out).as_posix(), path.stat().st_size)


@dataclass
class Entry:
    """What came of one input. size: (H,W) px, upright. about: what its files do not say."""

    input: str
    size: tuple[int, int]
    files: list[File] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "input": self.input,
            "size": list(self.size),
            **self.about,
            "files": [asdict(file) for file in self.files],
        }


@dataclass
class Record:
    """Grows while threads write. head: of the model and the kinds. interrupted: by Ctrl-C."""

    out: Path
    head: dict[str, Any]
    ignored: tuple[Path, ...] = ()
    entries: list[Entry] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)
    interrupted: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, entry: Entry) -> None:
        """An input of which something was written."""
        with self._lock:
            self.entries.append(entry)

    def fail(self, source: str, reason: str) -> None:
        """An input of which something is missing."""
        # Most messages begin with the file that they are about.
        reason = reason.removeprefix(f"{source}: ")
        with self._lock:
            self.failures.append({"input": source, "reason": reason})

    @property
    def files(self) -> int:
        """How many were written."""
        return sum(len(entry.files) for entry in self.entries)

    def write(self) -> Path:
        """Write it as JSON beside the outputs."""
        entries = sorted(self.entries, key=lambda entry: entry.input)
        content = {
            **self.head,
            "interrupted": self.interrupted,
            "failures": sorted(self.failures, key=lambda failure: failure["input"]),
            "ignored": [str(path) for path in self.ignored],
            "predicted": [entry.as_dict() for entry in entries],
        }
        write_json(self.out / RECORD, content)
        return self.out / RECORD
