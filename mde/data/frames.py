"""What a source lists before it reads: frames, the frames it must leave out, and their splits."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mde.errors import InputError
from mde.schema import SPLITS


@dataclass(frozen=True)
class Frame:
    """One input frame before it is read.

    files: role → name of a raw file, relative to the raw folder (or the member of an archive);
    when one of them changes, the frame is converted again. locator: the source's own way to find
    the frame inside them.
    """

    sample_id: str
    split: str
    scene: str
    files: dict[str, str]
    locator: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Rejected:
    """An input frame that did not become a row.

    reason: a few words to count by. expected: so by nature, such as the last frame of a sequence
    where each frame needs the next one; it does not count against `max_rejected`.
    """

    sample_id: str
    split: str
    reason: str
    detail: str = ""
    expected: bool = False


def split_by_ratio(groups: Sequence[str], ratios: Sequence[float], seed: int) -> list[str]:
    """The split of each item, when whole groups are dealt to train, val and test.

    groups: the group of each item; a name of its own for each item deals them one by one. ratios:
    shares of the groups in the order of SPLITS; val and test are rounded, train takes the rest.
    """
    names = sorted(set(groups))
    shuffled = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    num_val, num_test = (round(ratio * len(names)) for ratio in ratios[1:])
    split_of = dict.fromkeys(shuffled, "train")
    split_of |= dict.fromkeys(shuffled[:num_val], "val")
    split_of |= dict.fromkeys(shuffled[num_val : num_val + num_test], "test")
    return [split_of[group] for group in groups]


def check_ratios(ratios: Sequence[float]) -> None:
    """Raises ValueError when these are not three shares that sum to 1."""
    if len(ratios) != len(SPLITS) or min(ratios) < 0 or abs(sum(ratios) - 1) > 1e-6:
        raise ValueError(f"ratios are the shares of train, val and test, found {list(ratios)}")


def check_leaks(frames: Sequence[Frame], allow_shared_scenes: bool) -> None:
    """Raises InputError when there is no frame, or a frame or a scene is in test and elsewhere."""
    if not frames:
        raise InputError("the dataset has no frame; check its raw folder and its split files")
    twice = [name for name, n in Counter(frame.sample_id for frame in frames).items() if n > 1]
    if twice:
        raise InputError(
            f"{len(twice)} frames are listed twice, or in two splits: {', '.join(twice[:5])}"
        )
    test = {frame.scene for frame in frames if frame.split == "test"}
    leaks = sorted({frame.scene for frame in frames if frame.split != "test"} & test)
    if leaks and not allow_shared_scenes:
        raise InputError(
            f"{len(leaks)} scenes are in the test split and in train or val: "
            f"{', '.join(leaks[:5])}; a model must not be tested on scenes that it was trained "
            "on. For a try-out on a single drive set allow_shared_scenes: true"
        )


def check_rejected(rejected: Sequence[Rejected], total: int, max_rejected: float) -> None:
    """Raises InputError, with counts by split and reason, when too many frames are rejected.

    Those that are expected do not count.
    """
    rejected = [frame for frame in rejected if not frame.expected]
    if len(rejected) <= max_rejected * total:
        return
    counts = Counter((frame.split, frame.reason) for frame in rejected)
    lines = [f"  {n} of {split}: {reason}" for (split, reason), n in counts.most_common()]
    examples = [f"  {f.sample_id}: {f.detail or f.reason}" for f in rejected[:5]]
    raise InputError(
        "\n".join(
            [
                f"{len(rejected)} of {total} frames cannot be used, max_rejected allows "
                f"{max_rejected:.1%}; mend the raw data or raise max_rejected:",
                *lines,
                "The first ones:",
                *examples,
            ]
        )
    )
