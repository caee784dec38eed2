"""Raw formats: one module each, picked by its name; a module knows nothing of Parquet or Ray.

A source module has three names:
- `Config`, a `SourceConfig` with its own keys;
- `list_frames(config, root) -> list[Frame]`, quick: what there is and in which split;
- `read_frames(config, root, frames) -> Iterator[Row | Rejected]`, one result for each frame.
Both raise InputError for what concerns the dataset as a whole.
"""

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from mde.config import find_section, load_params, parse_section
from mde.data.shards import Rejected
from mde.errors import InputError
from mde.schema import Row


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """What every source has.

    raw: folder of the raw files, relative to the root folder or absolute.
    height, width: stored size, px. max_rejected: the share of frames above which it is an error.
    allow_shared_scenes: let a scene be in the test split and in another one, for trying things on
    a single drive; the numbers then say nothing about new scenes.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    source: str
    raw: str
    height: int
    width: int
    rows_per_shard: int = 256
    max_rejected: float = 0.05
    allow_shared_scenes: bool = False

    def __post_init__(self) -> None:
        for name in ("height", "width", "rows_per_shard"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, found {getattr(self, name)}")
        if not 0 <= self.max_rejected <= 1:
            raise ValueError(f"max_rejected is a share of 1, found {self.max_rejected}")

    def raw_folder(self, root: Path) -> Path:
        """The raw folder. Raises InputError when it is not there."""
        folder = root / self.raw
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; set datasets.<name>.raw to your raw data")
        return folder


@dataclass(frozen=True)
class Frame:
    """One input frame before it is read; `locator` is the source's own way to find it."""

    sample_id: str
    split: str
    scene: str
    locator: tuple[Any, ...]


class Source(Protocol):
    """What a source module looks like."""

    Config: type[SourceConfig]

    def list_frames(self, config: Any, root: Path) -> list[Frame]:
        """All frames, of all splits."""
        ...

    def read_frames(self, config: Any, root: Path, frames: list[Frame]) -> Iterator[Row | Rejected]:
        """Read some of them, in order."""
        ...


def get_source(name: str) -> Source:
    """The source module of that name. Raises InputError that lists the known ones."""
    known = [module.name for module in pkgutil.iter_modules(__path__)]
    if name not in known:
        raise InputError(f"unknown source '{name}'; known: {', '.join(known)}")
    return importlib.import_module(f"{__name__}.{name}")


def load_source_config(path: Path, dataset: str) -> SourceConfig:
    """Read `datasets.<dataset>` of a params file; raises InputError that names the bad key."""
    key = f"datasets.{dataset}"
    section = find_section(load_params(path), path, key)
    if "source" not in section:
        raise InputError(f"{path}: {key}.source: this key is required and is not there")
    return parse_section(path, key, section, get_source(section["source"]).Config)
