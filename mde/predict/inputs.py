"""What is to be predicted: images, videos and cameras, each with a name of its own."""

import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mde.data.sources.folder.image_folders import IMAGE_SUFFIXES
from mde.data.sources.folder.video import VIDEO_SUFFIXES
from mde.errors import InputError

SUFFIXES = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
Medium = Literal["image", "video", "stream"]
WEBCAM = re.compile(r"webcam(?::(\d+))?")
EXPECTED = (
    "an image, a video, a folder with some, a pattern such as 'shots/*.jpg', webcam, webcam:1, "
    "a device such as /dev/video0 or a URL that OpenCV opens"
)


@dataclass(frozen=True)
class Input:
    """One image, video or stream.

    source: a path, or what OpenCV opens. name: of its outputs, relative, without a suffix.
    """

    source: str
    name: str
    medium: Medium

    @property
    def label(self) -> str:
        """The source as it may be shown and kept: without the password of a URL."""
        return re.sub(r"(?<=://)[^/@]*@", "", self.source)

    @property
    def path(self) -> Path:
        """Of an image or a video."""
        return Path(self.source)


@dataclass(frozen=True)
class Inputs:
    """All of them, images first, streams last. ignored: files in folders that are none of these."""

    found: tuple[Input, ...]
    ignored: tuple[Path, ...]

    def of(self, medium: Medium) -> list[Input]:
        """Those of one medium."""
        return [item for item in self.found if item.medium == medium]


def find_inputs(sources: Iterable[str], out: Path) -> Inputs:
    """Look for everything that is to be predicted.

    Folders are searched with all folders below, but for hidden files and for `out`. Names are
    relative to the folder, or to the first folder of a pattern that has no wildcard; a single file
    has its own name. A file that is found twice counts once. Where two have the same name, their
    suffixes become part of it.
    Raises InputError when there is nothing at a source, and when names still are the same.
    """
    found: dict[str, Input] = {}
    ignored: list[Path] = []
    for source in sources:
        for item in _look(source, out):
            if isinstance(item, Path):
                ignored.append(item)
            else:
                key = item.source if item.medium == "stream" else os.path.realpath(item.source)
                found.setdefault(key, item)
    if not found:
        raise InputError(
            f"no images and no videos in {', '.join(sources)}, of {len(ignored)} files; their "
            f"names are to end in {', '.join(SUFFIXES)}"
        )
    order = {"image": 0, "video": 1, "stream": 2}
    items = sorted(_named_apart(list(found.values())), key=lambda item: order[item.medium])
    return Inputs(tuple(items), tuple(ignored))


def _look(source: str, out: Path) -> Iterator[Input | Path]:
    """Inputs, and the files that are none."""
    path = Path(source)
    if WEBCAM.fullmatch(source) or "://" in source or source.startswith("/dev/video"):
        yield Input(source, _stream_name(source), "stream")
    elif path.is_dir():
        yield from _below(path, path, out)
    elif path.exists():
        yield _file(path, Path(path.name))
    elif glob.has_magic(source):
        yield from _matching(source, out)
    else:
        raise InputError(f"{source}: no such file or folder; expected {EXPECTED}")


def _stream_name(source: str) -> str:
    if webcam := WEBCAM.fullmatch(source):
        return f"webcam{webcam[1] or 0}"
    name = Path(re.split("[?#]", source)[0]).stem
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "stream"


def _matching(pattern: str, out: Path) -> Iterator[Input | Path]:
    fixed = [part for part in Path(pattern).parts[:-1]]
    until = next((i for i, part in enumerate(fixed) if glob.has_magic(part)), len(fixed))
    root = Path(*fixed[:until])
    matches = [
        path
        for path in map(Path, sorted(glob.glob(pattern, recursive=True)))
        if not path.resolve().is_relative_to(out.resolve())
    ]
    if not matches:
        raise InputError(f"{pattern}: nothing matches this pattern; expected {EXPECTED}")
    for path in matches:
        if path.is_dir():
            yield from _below(path, root, out)
        else:
            yield _file(path, path.relative_to(root)) if _is_known(path) else path


def _below(folder: Path, root: Path, out: Path) -> Iterator[Input | Path]:
    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: {error.strerror}")

    for parent, folders, names in os.walk(folder, onerror=refuse):
        here = Path(parent)
        # Also in order, so that every run sees them alike.
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and (here / name).resolve() != out.resolve()
        )
        for name in sorted(names):
            path = here / name
            if not name.startswith("."):
                yield _file(path, path.relative_to(root)) if _is_known(path) else path


def _is_known(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _file(path: Path, relative: Path) -> Input:
    is_video = path.suffix.lower() in VIDEO_SUFFIXES
    return Input(str(path), relative.with_suffix("").as_posix(), "video" if is_video else "image")


def _named_apart(items: list[Input]) -> list[Input]:
    """Items whose outputs lie in different files. Raises InputError when that cannot be."""
    clashing = _clashing(items)
    apart = [replace(item, name=_with_suffix(item)) if clashing(item) else item for item in items]
    clashing = _clashing(apart)
    if same := [item for item in apart if clashing(item)]:
        first = same[0]
        other = next(item for item in same[1:] if _overlap(first.name, item.name))
        raise InputError(
            f"{first.source} and {other.source} would both be written as {first.name}; give a "
            "folder that has both, whose sub-folders are then kept apart, or predict them one "
            "after the other into two folders"
        )
    return apart


def _clashing(items: list[Input]) -> Callable[[Input], bool]:
    """Whether an item's name is another's too, or a folder (of a video's frames) is in its way."""
    counts = Counter(item.name for item in items)
    # A video's frames are files in a folder of its name.
    folders = {item.name for item in items if item.medium != "image"}
    inside = {
        str(parent)
        for item in items
        for parent in Path(item.name).parents
        if str(parent) in folders
    }

    def clashes(item: Input) -> bool:
        parents = {str(parent) for parent in Path(item.name).parents}
        return counts[item.name] > 1 or item.name in inside & folders or bool(parents & folders)

    return clashes


def _overlap(a: str, b: str) -> bool:
    return a == b or Path(a) in Path(b).parents or Path(b) in Path(a).parents


def _with_suffix(item: Input) -> str:
    suffix = item.path.suffix if item.medium != "stream" else ""
    return f"{item.name}_{suffix[1:].lower()}" if suffix else item.name
