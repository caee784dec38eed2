"""Which frames of a dataset are drawn while a model trains on it: the section `pictures`."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mde.config import find_section, load_params, parse_section, unknown_key
from mde.data.pick import find_rows, pick_rows
from mde.data.place import Place, show
from mde.data.shards import Manifest
from mde.errors import InputError
from mde.schema import Row


@dataclass(frozen=True)
class PicturesConfig:
    """What is drawn of a dataset; nothing of it changes what comes out.

    frames: sample_ids, or a text file with one a line, relative to the params file; None: `count`
    rows spread over the val split, or over test when val is empty. every_epochs: 0 draws nothing.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    frames: tuple[str, ...] | str | None = None
    count: int = 6
    every_epochs: int = 1

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count must be at least 1, found {self.count}")
        if self.every_epochs < 0:
            raise ValueError(f"every_epochs must be 0 (no pictures) or more: {self.every_epochs}")
        if self.frames is not None and not self.frames:
            raise ValueError("frames: expected sample_ids or a text file, found none")


def load_pictures(params: Path, dataset: str) -> PicturesConfig:
    """The section `pictures.<dataset>` of a params file, its `frames` read when they are a file.

    A dataset without one has the defaults. Raises InputError for a section that does not fit, one
    of a dataset that the params file does not have, and a file that is missing or empty.
    """
    content = load_params(params)
    if content.get("pictures") is None:
        return PicturesConfig()
    known, sections = content.get("datasets") or {}, find_section(content, params, "pictures")
    for name in sections:
        if name not in known:
            raise InputError(f"{params}: pictures: {unknown_key(str(name), known)}")
    if dataset not in sections:
        return PicturesConfig()
    key = f"pictures.{dataset}"
    config = parse_section(params, key, find_section(content, params, key), PicturesConfig)
    if not isinstance(config.frames, str):
        return config
    names = _read_names(params.parent / config.frames, f"{params}: {key}.frames")
    return dataclasses.replace(config, frames=names)


def _read_names(path: Path, where: str) -> tuple[str, ...]:
    """The lines of a file; empty ones, and those that begin with #, are left out."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{where}: {path} cannot be read: {error}; give sample_ids, or a text file with one a "
            "line, relative to the params file"
        ) from error
    names = tuple(line for line in lines if line and not line.startswith("#"))
    if not names:
        raise InputError(f"{where}: {path} holds no sample_id; write one a line")
    return names


def choose_rows(folder: Place, manifest: Manifest, config: PicturesConfig) -> list[Row]:
    """The rows to predict after each epoch, in the order of `frames` if there are some.

    Raises InputError that tells the nearest name of a frame which the dataset does not have.
    """
    if isinstance(config.frames, str):
        raise TypeError("frames: a file, which load_pictures reads")
    if config.frames is None:
        split = next((name for name in ("val", "test", "train") if manifest.counts[name]), "val")
        return [row for _, row in pick_rows(folder, manifest, config.count, split)]
    try:
        return [row for _, row in find_rows(folder, manifest, config.frames)]
    except InputError as error:
        dataset = show(folder).rstrip("/").rpartition("/")[2]
        raise InputError(f"pictures.{dataset}.frames: {error}") from error
