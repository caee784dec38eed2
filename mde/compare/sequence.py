"""Which frames of a split play as a film."""

import itertools
import re

from mde.data.place import Place, show
from mde.errors import InputError
from mde.inference import row_groups

MAX_FRAMES = 60

Frames = list[tuple[int, str]]
"""(number, sample_id) of one camera in one scene, in order."""


def pick_sequence(data: Place, split: str, scene: str | None = None) -> tuple[str, list[str]]:
    """A scene, and the sample_ids of at most MAX_FRAMES frames of one camera there, in order.

    scene: the one to show; None: that of the longest run of frames with equal gaps between their
    numbers. Of a long scene it is the part that begins with its longest run.
    Raises InputError when there is no such scene in the split.
    """
    cameras = _cameras(data, split)
    if scene is not None:
        known = sorted({of for of, *_ in cameras})
        if scene not in known:
            shown = ", ".join(known[:8]) + (", …" if len(known) > 8 else "")
            raise InputError(
                f"{show(data)}: no scene '{scene}' in the {split} split; there are: {shown}"
            )
        cameras = {key: frames for key, frames in cameras.items() if key[0] == scene}
    # Of equals the first one, in stored order.
    key = max(cameras, key=lambda key: (longest_run(cameras[key])[1], len(cameras[key])))
    frames = cameras[key]
    first = max(0, min(longest_run(frames)[0], len(frames) - MAX_FRAMES))
    return key[0], [name for _, name in frames[first : first + MAX_FRAMES]]


def _cameras(data: Place, split: str) -> dict[tuple[str, str, str], Frames]:
    """(scene, sample_id before its number and after it) → frames."""
    cameras: dict[tuple[str, str, str], Frames] = {}
    for group in row_groups(data, split):
        for row in group.read(["sample_id", "scene"]):
            # The last number counts frames; what follows it names the camera, such as _l.
            found = re.fullmatch(r"(.*?)(\d+)(\D*)", row["sample_id"], re.ASCII)
            stem, number, camera = found.groups() if found else (row["sample_id"], "0", "")
            frames = cameras.setdefault((row["scene"], stem, camera), [])
            frames.append((int(number), row["sample_id"]))
    return {key: sorted(frames) for key, frames in cameras.items()}


def longest_run(frames: Frames) -> tuple[int, int]:
    """Where the longest run of frames with equal gaps begins, and how many frames it has."""
    gaps = [after[0] - before[0] for before, after in itertools.pairwise(frames)]
    begin, longest, at = 0, min(1, len(frames)), 0
    for _, equal in itertools.groupby(gaps):
        gap_count = len(list(equal))
        if gap_count + 1 > longest:
            begin, longest = at, gap_count + 1
        at += gap_count
    return begin, longest
