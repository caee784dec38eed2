"""Raw formats: one module each, picked by its name; a module knows nothing of Parquet or Ray.

A source module has three names:
- `Config`, a `SourceConfig` with its own keys;
- `list_frames(config, raw, work)`, quick: what there is, in which split, and what is missing;
- `read_frames(config, raw, work, frames, encoder)`: one result for each frame, in any order.
raw: the folder or archive of the raw files. work: a folder that lasts as long as the conversion
and is shared by its tasks. Both raise InputError for what concerns the dataset as a whole.
"""

import difflib
import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from mde.bucket import check_place
from mde.config import find_section, load_params, parse_section
from mde.data.encode import Encoder, StoredImage
from mde.data.frames import Frame, Rejected
from mde.data.raw.files import RawFiles
from mde.errors import InputError
from mde.schema import Row


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """What every source has.

    raw: folder or archive of the raw files, relative to the root folder or absolute, or a URI such
    as s3://bucket/raw/kitti: the files are then fetched below the root folder.
    height, width: stored size, px, or both `native`: as the camera gave them. lossless: WebP and
    float32 instead of JPEG and uint16. max_rejected: the share of frames above which it is an
    error. allow_shared_scenes: let a scene be in the test split and in another one, for trying
    things on a single drive; the numbers then say nothing about new scenes. allow_duplicates: let
    the same image be in two splits, as black frames of videos are.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    source: str
    raw: str
    height: int | Literal["native"]
    width: int | Literal["native"]
    lossless: bool = False
    rows_per_shard: int = 256
    max_rejected: float = 0.0
    allow_shared_scenes: bool = False
    allow_duplicates: bool = False

    def __post_init__(self) -> None:
        check_place(self.raw)
        for name in ("height", "width", "rows_per_shard"):
            value = getattr(self, name)
            if value != "native" and value <= 0:
                raise ValueError(f"{name} must be positive, found {value}")
        if (self.height == "native") != (self.width == "native"):
            raise ValueError(f"height and width are both native or none, found {self.size}")
        if not 0 <= self.max_rejected <= 1:
            raise ValueError(f"max_rejected is a share of 1, found {self.max_rejected}")

    @property
    def size(self) -> tuple[int, int] | None:
        """(H, W) at which images are stored, px; None: as they are."""
        if self.height == "native" or self.width == "native":
            return None
        return self.height, self.width


class Source(Protocol):
    """What a source module looks like."""

    Config: type[SourceConfig]

    def list_frames(self, config: Any, raw: Path, work: Path) -> list[Frame | Rejected]:
        """All frames, of all splits, in stored order; those that lack a file are Rejected."""
        ...

    def read_frames(
        self, config: Any, raw: Path, work: Path, frames: list[Frame], encoder: Encoder
    ) -> Iterator[Row | Rejected]:
        """Read some of them."""
        ...


def get_source(name: str) -> Source:
    """The source module of that name. Raises InputError that lists the known ones."""
    known = [module.name for module in pkgutil.iter_modules(__path__)]
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise InputError(f"unknown source '{name}'; known: {', '.join(known)}{hint}")
    return importlib.import_module(f"{__name__}.{name}")


def load_source_config(path: Path, dataset: str) -> SourceConfig:
    """Read `datasets.<dataset>` of a params file; raises InputError that names the bad key."""
    key = f"datasets.{dataset}"
    section = find_section(load_params(path), path, key)
    if "source" not in section:
        raise InputError(f"{path}: {key}.source: this key is required and is not there")
    try:
        source = get_source(str(section["source"]))
    except InputError as error:
        raise InputError(f"{path}: {key}.source: {error}") from error
    return parse_section(path, key, section, source.Config)


def cached_images(raw: RawFiles, encoder: Encoder) -> Callable[[str], StoredImage]:
    """Encodes an image file by its name; neighbouring rows share images."""
    return functools.lru_cache(maxsize=16)(lambda name: encoder.image(raw.image(name)))
