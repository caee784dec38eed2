"""Depth maps as files: 16-bit PNG in the codes of NYU and KITTI, and arrays of float32."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from mde.errors import InputError
from mde.files import write_bytes

MOST_CODE = 65535
Codes = Literal["mm", "kitti"]


@dataclass(frozen=True)
class Coding:
    """How depth becomes the codes of a 16-bit PNG; code 0 is for pixels without depth.

    per_unit: codes for 1 m, or for 1 unit of a model that is right up to scale.
    """

    per_unit: int
    known_from: str

    @property
    def most(self) -> float:
        """The largest depth that has a code, m or units."""
        return MOST_CODE / self.per_unit


CODINGS: dict[str, Coding] = {"mm": Coding(1000, "NYU Depth v2"), "kitti": Coding(256, "KITTI")}


def encode_png(depth: NDArray[np.float32], codes: str) -> bytes:
    """Depth (H,W), m or up to scale, as a 16-bit grey PNG; what is not finite or <= 0 gets code 0.

    codes: a key of CODINGS. Depths are rounded to the nearest code, to no less than 1.
    Raises InputError for a depth that has no code: nothing is cut off or wraps around.
    """
    coding = CODINGS[codes]
    known = np.isfinite(depth) & (depth > 0)
    farthest = float(depth.max(where=known, initial=0))
    values = np.rint(np.where(known, depth, 0) * np.float32(coding.per_unit))
    if values.max(initial=0) > MOST_CODE:
        raise InputError(
            f"a depth of {farthest:.1f} has no code: 16 bits with {coding.per_unit} codes per unit "
            f"end at {coding.most:.1f}; {others(farthest)}"
        )
    values[known] = np.maximum(values[known], 1)
    ok, data = cv2.imencode(".png", values.astype(np.uint16))
    if not ok:
        raise InputError(f"a depth map of shape {depth.shape} cannot be written as PNG")
    return data.tobytes()


def others(farthest: float) -> str:
    """What to write in place of a 16-bit PNG whose codes do not reach so far."""
    fitting = [name for name, coding in CODINGS.items() if farthest <= coding.most]
    return " or ".join([*(f"the codes of {name}" for name in fitting), "float32 (.npy)"]) + " can"


def encode_npy(depth: NDArray[np.float32]) -> bytes:
    """Depth (H,W) as the bytes of a NumPy file, float32."""
    buffer = io.BytesIO()
    np.save(buffer, depth.astype(np.float32, copy=False), allow_pickle=False)
    return buffer.getvalue()


def save_depth(path: Path, depth: NDArray[np.float32], codes: Codes = "mm") -> None:
    """Write a depth map (H,W), in one rename: `.npy` as float32, `.png` as 16-bit codes.

    Raises InputError for another suffix, and for a depth that has no code.
    """
    if path.suffix.lower() == ".npy":
        write_bytes(path, encode_npy(depth))
    elif path.suffix.lower() == ".png":
        if codes not in CODINGS:
            raise InputError(f"codes are {codes!r}; allowed are {', '.join(CODINGS)}")
        try:
            data = encode_png(depth, codes)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        write_bytes(path, data)
    else:
        raise InputError(
            f"{path}: depth is written as .npy (float32) or as .png (16 bits); for colours write "
            "what colorize() gives"
        )
