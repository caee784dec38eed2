"""Images, videos and depth maps in folders of one's own: what is there and what belongs together.

The key of an image is its name below `images/` without the suffix: `garden/0007` for
`images/garden/0007.jpg` and for frame 7 of `images/garden.mp4` (as `garden/000007`). A depth map
or stereo image belongs to the image that has the same key.
"""

import posixpath
import re
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from pathlib import Path

from mde.data.codecs import CodecError
from mde.data.frames import Rejected
from mde.data.sources.folder.camera_file import CAMERA_FILE
from mde.data.sources.folder.depth_file import DEPTH_SUFFIXES
from mde.data.sources.folder.video import VIDEO_SUFFIXES, Place
from mde.errors import InputError

IMAGES, DEPTH, STEREO = "images", "depth", "stereo"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
SUFFIXES = {
    IMAGES: (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES),
    DEPTH: DEPTH_SUFFIXES,
    STEREO: IMAGE_SUFFIXES,
}
# What file managers leave behind.
IGNORED = ("Thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class Shot:
    """One image: a file, or the frame of a video file at a place."""

    key: str
    file: str
    place: Place | None = None

    @property
    def scene(self) -> str:
        """Its folder below images/, or its video; `images` for those that lie in images/."""
        folder = self.key.rpartition("/")[0]
        return folder or IMAGES

    @property
    def sample_id(self) -> str:
        """Scene and name."""
        return f"{self.scene}/{self.key.rpartition('/')[2]}".replace("/", "__")


def find_sequences(
    raw: Path, names: Iterable[str], index: Callable[[str], list[Place]]
) -> tuple[list[list[Shot]], list[Rejected]]:
    """Images of each folder, and frames of each video, in natural order; and unreadable videos.

    names: files of `raw`. index: gives the places of a video's frames, or raises CodecError.
    Raises InputError when there is no image, or two would be the same sample.
    """
    by_folder: dict[str, list[Shot]] = {}
    videos: dict[str, list[Shot]] = {}
    rejected = []
    for name in _files_in(names, IMAGES):
        key, suffix = _split(name)
        if suffix in IMAGE_SUFFIXES:
            by_folder.setdefault(key.rpartition("/")[0], []).append(Shot(key, name))
        elif suffix in VIDEO_SUFFIXES:
            try:
                places = index(name)
            except CodecError as error:
                detail = str(error.about(name))
                rejected.append(Rejected(name, "train", error.reason, detail))
                continue
            videos[name] = [Shot(f"{key}/{i:06d}", name, place) for i, place in enumerate(places)]
    sequences = [sorted(shots, key=_natural) for shots in by_folder.values()] + [*videos.values()]
    if not sequences and not rejected:
        raise InputError(
            f"{raw}: no image or video in its folder {IMAGES}/; the layout is "
            f"{IMAGES}/<scene>/<name> for files of type {', '.join(IMAGE_SUFFIXES)}, and "
            f"{IMAGES}/<scene> for {', '.join(VIDEO_SUFFIXES)}"
        )
    _check_unique(raw, sequences)
    return sorted(sequences, key=lambda shots: _natural(shots[0])), rejected


def find_by_key(raw: Path, names: Iterable[str], folder: str) -> dict[str, str]:
    """Key → file in `depth/` or `stereo/`. Raises InputError when two have the same key."""
    found: dict[str, str] = {}
    for name in _files_in(names, folder):
        key, suffix = _split(name)
        if suffix not in SUFFIXES[folder]:
            continue
        if key in found:
            raise InputError(f"{raw}: {found[key]} and {name} belong to one image; remove one")
        found[key] = name
    return found


def find_strays(
    names: Iterable[str], folders: Iterable[str], keys: Container[str], unread: Iterable[str]
) -> list[Rejected]:
    """Files in `folders` that cannot be used: of an unknown type, or of no image.

    keys: of all images. unread: videos that could not be indexed, whose keys are not known.
    """
    strays = []
    unknown = tuple(f"{_split(name)[0]}/" for name in unread)
    for folder in folders:
        for name in _files_in(names, folder):
            key, suffix = _split(name)
            is_camera = folder == IMAGES and posixpath.basename(name) == CAMERA_FILE
            if suffix not in SUFFIXES[folder] and not is_camera:
                detail = f"{name}: {folder}/ takes {', '.join(SUFFIXES[folder])}; move it away"
                strays.append(Rejected(name, "train", "unknown file type", detail))
            elif folder != IMAGES and key not in keys and not key.startswith(unknown):
                detail = f"{name}: there is no image {IMAGES}/{key}"
                strays.append(Rejected(name, "train", f"{folder} without an image", detail))
    return strays


def _files_in(names: Iterable[str], folder: str) -> list[str]:
    return [
        name
        for name in names
        if name.startswith(f"{folder}/") and posixpath.basename(name) not in IGNORED
    ]


def _split(name: str) -> tuple[str, str]:
    """`images/a/1.JPG` → `a/1`, `.jpg`."""
    stem, suffix = posixpath.splitext(name)
    return stem.partition("/")[2], suffix.lower()


def _natural(shot: Shot) -> tuple[list[str | int], str]:
    parts = re.split("([0-9]+)", shot.key)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], shot.key


def _check_unique(raw: Path, sequences: Iterable[list[Shot]]) -> None:
    file_of: dict[str, str] = {}
    for shot in (shot for sequence in sequences for shot in sequence):
        other = file_of.setdefault(shot.sample_id, shot.file)
        if other != shot.file:
            raise InputError(
                f"{raw}: {other} and {shot.file} would both be the sample {shot.sample_id}; "
                "rename or remove one"
            )
