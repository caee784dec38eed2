"""NYU Depth v2 as pairs of an image and a depth PNG, named by lists; a folder or straight a zip.

DenseDepth's `nyu_data.zip`: CSV lines `data/nyu2_train/<scene>_out/1.jpg,data/.../1.png`, 8-bit
depth to train on and 16-bit to test. BTS: lines `/kitchen_0028b/rgb_00045.jpg
/kitchen_0028b/sync_depth_00045.png 518.8579`, 16-bit. An 8-bit PNG holds px/255*10 m, in steps of
39 mm; a 16-bit one millimetres; 0 is invalid in both.
"""

import csv
import posixpath
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mde.data.codecs import CodecError, decode_raw_depth
from mde.data.encode import Encoder
from mde.data.frames import Frame, Rejected, split_by_ratio
from mde.data.nyu import DEPTH_SCALE, scale_K
from mde.data.raw.files import RawFiles, open_raw
from mde.data.sources import SourceConfig
from mde.errors import InputError
from mde.schema import SPLITS, Row

HEADER = ["rgb", "depth"]
NO_DEPTH = "None"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
METRES_PER_CODE = {8: 10 / 255, 16: 1e-3}
"""By the bits of a depth PNG."""


@dataclass(frozen=True, kw_only=True)
class Config(SourceConfig):
    """train, val, test: list files, in the raw folder or archive, or absolute; some may be null.

    base: folder of the raw data that the paths in the lists start from. val_scenes: share of the
    training scenes held out by `seed`, when there is no list `val`.
    """

    train: str | None = None
    val: str | None = None
    test: str | None = None
    base: str = ""
    val_scenes: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not any(getattr(self, split) for split in SPLITS):
            raise ValueError("train, val, test: at least one must name a list file")
        if not 0 <= self.val_scenes < 1:
            raise ValueError(f"val_scenes is a share of 1, found {self.val_scenes}")
        if self.val_scenes and (self.val or not self.train):
            raise ValueError("val_scenes is held out of train, and goes without a list val")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, found {self.seed}")


@dataclass(frozen=True)
class Pair:
    """A line of a list. place: its list and line number. depth: None where the list says so."""

    place: str
    split: str
    image: str
    depth: str | None

    @property
    def scene(self) -> str:
        """The folder that the image is in."""
        return self.image.rpartition("/")[0].rpartition("/")[2]

    @property
    def name(self) -> str:
        """A short name, which other pairs may have, too."""
        return f"{self.scene}__{posixpath.splitext(posixpath.basename(self.image))[0]}"


def list_frames(config: Config, raw: Path, work: Path) -> list[Frame | Rejected]:
    """The pairs of the lists, sorted by name; those without a depth or a file are Rejected.

    Raises InputError when a list is missing, empty, or has a malformed or repeated line, or when
    nothing that is listed is there.
    """
    files = open_raw(raw, work)
    pairs = [
        pair
        for split in SPLITS
        if (name := getattr(config, split))
        for pair in _read_list(config, raw, files, split, name)
    ]
    names = set(files.names())
    if not any(pair.image in names for pair in pairs):
        example = next((name for name in sorted(names) if name.endswith((".jpg", ".png"))), "none")
        raise InputError(
            f"{raw}: none of the {len(pairs)} listed images is there. {pairs[0].place} names "
            f"{pairs[0].image}, an image that is there is {example}; set datasets.<name>.base"
        )
    pairs = sorted(_hold_out(config, pairs), key=lambda pair: pair.image)
    ids = _sample_ids(pairs)
    return [_item(pair, ids[pair.image], names) for pair in pairs]


def _read_list(config: Config, raw: Path, files: RawFiles, split: str, name: str) -> list[Pair]:
    path = raw / name  # An absolute name stays as it is.
    try:
        data = path.read_bytes() if Path(name).is_absolute() else files.read(name)
        lines = data.decode("utf-8-sig").splitlines()
    except (OSError, CodecError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: cannot read this list ({error}); set datasets.<name>.{split} to a list file "
            f"in {raw} or to an absolute path"
        ) from error
    pairs: list[Pair] = []
    short = path.name
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        fields = _split_line(line)
        if not fields or (number == 1 and fields == HEADER):
            continue
        try:
            pair = _parse(config, f"{short}, line {number}", split, fields)
        except ValueError as error:
            raise InputError(f"{path}, line {number}: {error}, found '{line[:200]}'") from error
        if first := seen.get(pair.image):
            raise InputError(f"{path}, line {number}: {pair.image} is in line {first}, too")
        seen[pair.image] = number
        pairs.append(pair)
    if not pairs:
        raise InputError(f"{path}: no line in it; set datasets.<name>.{split} to null or fill it")
    return pairs


def _split_line(line: str) -> list[str]:
    if "," not in line:
        return line.split()
    try:
        return [field.strip() for field in next(csv.reader([line]))]
    except csv.Error:
        return [line]


def _parse(config: Config, place: str, split: str, fields: list[str]) -> Pair:
    # The third field is a focal length, the same for all.
    focal = r"\d+(\.\d+)?"
    if len(fields) not in (2, 3) or not all(re.fullmatch(focal, field) for field in fields[2:]):
        raise ValueError("expected '<image>,<depth>' or '<image> <depth> <focal>'")
    image, depth = (_name(config, field) for field in fields[:2])
    return Pair(place, split, image, None if fields[1] == NO_DEPTH else depth)


def _name(config: Config, field: str) -> str:
    parts = [part for part in f"{config.base}/{field}".split("/") if part not in ("", ".")]
    if ".." in parts or not field.strip("/."):
        raise ValueError("expected names of files in the raw data")
    return "/".join(parts)


def _hold_out(config: Config, pairs: list[Pair]) -> list[Pair]:
    if not config.val_scenes:
        return pairs
    scenes = [pair.scene for pair in pairs if pair.split == "train"]
    dealt = split_by_ratio(scenes, (1 - config.val_scenes, config.val_scenes, 0), config.seed)
    split_of = dict(zip(scenes, dealt, strict=True))
    return [
        replace(pair, split=split_of[pair.scene]) if pair.split == "train" else pair
        for pair in pairs
    ]


def _sample_ids(pairs: list[Pair]) -> dict[str, str]:
    """Image → `<scene>__<stem>`, or its whole path where two images would have the same one."""
    short = {pair.image: pair.name for pair in pairs}
    counts = Counter(short.values())
    return {
        image: name if counts[name] == 1 else image.replace("/", "__")
        for image, name in short.items()
    }


def _item(pair: Pair, sample_id: str, names: set[str]) -> Frame | Rejected:
    if pair.depth is None:
        detail = f"{pair.place} says {NO_DEPTH} in place of a depth"
        return Rejected(sample_id, pair.split, "no ground truth", detail, expected=True)
    missing = [name for name in (pair.image, pair.depth) if name not in names]
    if missing:
        detail = f"{pair.place}: {', '.join(missing)} is not there"
        return Rejected(sample_id, pair.split, "missing file", detail)
    return Frame(sample_id, pair.split, pair.scene, {"image": pair.image, "depth": pair.depth})


def read_frames(
    config: Config, raw: Path, work: Path, frames: list[Frame], encoder: Encoder
) -> Iterator[Row | Rejected]:
    """Read pairs in the order of the archive; val and test keep their depth at its size as gt."""
    files = open_raw(raw, work)
    for frame in sorted(frames, key=lambda frame: files.position(frame.files["image"])):
        try:
            yield _row(files, frame, encoder)
        except CodecError as error:
            yield Rejected(frame.sample_id, frame.split, error.reason, str(error))


def _row(files: RawFiles, frame: Frame, encoder: Encoder) -> Row:
    image = files.image(frame.files["image"])
    depth, step = _read_depth(files, frame.files["depth"])
    try:
        if depth.shape != image.shape[:2]:
            detail = f"{depth.shape} px (height, width), its image has {image.shape[:2]}"
            raise CodecError(detail, "wrong size")
        return encoder.row(
            frame,
            encoder.image(image),
            scale_K(depth.shape),
            depth_scale=DEPTH_SCALE,
            source_step=step,
            depth=depth,
            gt=None if frame.split == "train" else depth,
        )
    except CodecError as error:
        raise error.about(frame.files["depth"]) from error


def _read_depth(files: RawFiles, name: str) -> tuple[NDArray[np.float32], float]:
    """Depth (H,W) in m of a PNG, and the metres of a code. Raises CodecError that names it."""
    try:
        data = files.read(name)
        bits = data[24] if data[:8] == PNG_SIGNATURE and len(data) > 24 else None
        if bits not in METRES_PER_CODE:
            detail = f"a PNG of {bits} bits" if bits else "not a PNG"
            raise CodecError(f"{detail}; a PNG of 8 or 16 bits is expected", "not a depth image")
        codes = decode_raw_depth(data)
    except CodecError as error:
        raise error.about(name) from error
    step = METRES_PER_CODE[bits]
    return codes.astype(np.float32) * np.float32(step), step
