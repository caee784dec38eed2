"""Split files of KITTI in the formats that people have, recognised line by line."""

import re
from pathlib import Path
from typing import NamedTuple

from mde.errors import InputError

SELECTION = "test_depth_prediction_anonymous"
"""Folder of the depth benchmark's 500 test images, which belong to no drive."""

FORMATS = {
    # monodepth2 and most others; frames may be padded with zeros.
    "<date>/<drive> <frame> <l|r>": r"(?P<scene>[\w-]+/[\w-]+) (?P<frame>\d{1,10}) (?P<side>[lr])",
    # Odometry.
    "<sequence> <frame> <l|r>": r"(?P<sequence>\d{1,2}) (?P<frame>\d{1,10}) (?P<side>[lr])",
    # BTS and its successors; the truth has to be that of the image.
    "<date>/<drive>/image_02/data/<frame>.png <annotated depth or None> <focal>": (
        r"/?(?P<scene>[\w-]+/(?P<drive>[\w-]+))/image_0(?P<camera>[23])/data/(?P<frame>\d{10})"
        r"\.(?:png|jpg) (?:(?P<none>None)|/?(?:[\w-]+/)?(?P=drive)/proj_depth/groundtruth/"
        r"image_0(?P=camera)/(?P=frame)\.png) \d+(?:\.\d+)?"
    ),
    # The depth benchmark's test images.
    "image <number>": r"image (?P<frame>\d{1,10})",
}
_PATTERNS = [re.compile(pattern, re.ASCII) for pattern in FORMATS.values()]


class Entry(NamedTuple):
    """An image of a list.

    scene: the drive's folder below the raw folder. side: camera, `l` or `r`. has_truth: False
    where the list says that there is no annotated depth.
    """

    scene: str
    frame: int
    side: str
    has_truth: bool = True


def read_list(path: Path) -> list[Entry]:
    """The images of a split file, sorted by drive, frame and side; empty lines are left out.

    Raises InputError that names the line which is malformed or there twice, or when nothing is in
    the file.
    """
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}; datasets.<name>.train, val and test are split files, "
            "inside raw or absolute"
        ) from error
    entries: dict[tuple[str, int, str], Entry] = {}
    lines: dict[tuple[str, int, str], int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        entry = _parse(line)
        if entry is None:
            raise InputError(
                f"{path}, line {number}: found '{line.strip()[:200]}', expected one of\n  "
                + "\n  ".join(FORMATS)
            )
        key = entry[:3]
        if key in entries:
            raise InputError(
                f"{path}, line {number}: '{line.strip()}' is there twice, first in line "
                f"{lines[key]}; remove one of them"
            )
        entries[key], lines[key] = entry, number
    if not entries:
        raise InputError(f"{path}: no frame in it; fill it, or remove its key")
    return sorted(entries.values())


def _parse(line: str) -> Entry | None:
    line = " ".join(line.split())
    match = next((found for p in _PATTERNS if (found := p.fullmatch(line))), None)
    if match is None:
        return None
    parts = match.groupdict()
    frame = int(parts["frame"])
    if sequence := parts.get("sequence"):
        return Entry(f"sequences/{int(sequence):02d}", frame, parts["side"])
    if camera := parts.get("camera"):
        return Entry(parts["scene"], frame, "l" if camera == "2" else "r", not parts["none"])
    if "scene" in parts:
        return Entry(parts["scene"], frame, parts["side"])
    return Entry(SELECTION, frame, "l", has_truth=False)
