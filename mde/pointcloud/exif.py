"""The focal length that a photograph carries, in px.

Cameras write FocalLengthIn35mmFilm, or FocalLength and how densely the sensor is covered by pixels.
A 35 mm equivalent has the same *diagonal* angle of view (CIPA DCG-001); so f / 43.27 mm times the
diagonal in px, as Depth Pro does it (arXiv:2410.02073). By the width of film, 36 mm, a 4:3
photograph would have a focal length that is 4 % smaller; one of 3:2 has the same. A diagonal does
not care whether the picture was turned upright.
"""

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import PIL.Image
from PIL.ExifTags import IFD, Base

from mde.data.sources.folder.camera_file import same_aspect

FILM_DIAGONAL = math.hypot(36, 24)
"""Of a 35 mm film's frame, mm."""
FILM_FOCALS = (5, 5000)
"""35 mm equivalents that there are, mm; below are fisheyes, no pinholes."""
SENSOR_DIAGONALS = (1, 100)
"""Of sensors that there are, mm."""
MM_PER_UNIT = {2: 25.4, 3: 10, 4: 1, 5: 0.001}
"""FocalPlaneResolutionUnit; its default is 2, an inch."""


class FocalLengthError(ValueError):
    """A photograph does not tell its focal length; the message says why."""


def read_focal_length(path: Path, size: tuple[int, int]) -> tuple[float, str]:
    """Focal length in px of a photograph at `size` (H,W), and where it is from in words.

    Raises FocalLengthError, with each value that was there and why it was not believed.
    """
    try:
        with PIL.Image.open(path) as image:
            stored = image.size
            tags = image.getexif().get_ifd(IFD.Exif)
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise FocalLengthError(f"no readable EXIF ({error})") from error
    if not tags:
        raise FocalLengthError("no EXIF, which editors and messengers remove")
    taken = _size_when_taken(tags, stored)
    for what, other in (("its EXIF is", taken), ("the depth is", size)):
        if not same_aspect(_wide(stored), _wide(other)):
            raise FocalLengthError(
                f"{what} of {max(other)}x{min(other)} px, the file has {max(stored)}x{min(stored)} "
                "px: it was cropped"
            )
    shares = [_by_film(tags), _by_sensor(tags, math.hypot(*taken))]
    for share, words in shares:
        if share is not None:
            return share * math.hypot(*size), f"{words} in the EXIF of {path.name}"
    raise FocalLengthError("in its EXIF " + ", and ".join(words for _, words in shares))


def _by_film(tags: Mapping[int, Any]) -> tuple[float | None, str]:
    """Focal length in diagonals of the picture, and words; or None, and why."""
    value = _number(tags, Base.FocalLengthIn35mmFilm)
    if value is None:
        return None, "FocalLengthIn35mmFilm is missing"
    words = f"FocalLengthIn35mmFilm = {value:g} mm"
    if not FILM_FOCALS[0] <= value <= FILM_FOCALS[1]:
        return None, f"{words} means unknown" if value == 0 else f"{words} is beyond any lens"
    return value / FILM_DIAGONAL, words


def _by_sensor(tags: Mapping[int, Any], diagonal: float) -> tuple[float | None, str]:
    """As `_by_film`; diagonal: of the photograph as it was taken, px."""
    focal, density = (_number(tags, t) for t in (Base.FocalLength, Base.FocalPlaneXResolution))
    unit = MM_PER_UNIT.get(int(_number(tags, Base.FocalPlaneResolutionUnit) or 2))
    if not focal or not density or not unit or min(focal, density) < 0:
        return None, "FocalLength with FocalPlaneXResolution is missing or 0"
    sensor = diagonal / density * unit
    words = f"FocalLength = {focal:g} mm on a sensor of {sensor:.3g} mm across"
    if not SENSOR_DIAGONALS[0] <= sensor <= SENSOR_DIAGONALS[1]:
        return None, f"{words}, by FocalPlaneXResolution, cannot be"
    share = focal / sensor
    if not FILM_FOCALS[0] <= share * FILM_DIAGONAL <= FILM_FOCALS[1]:
        return None, f"{words} is beyond any lens"
    return share, words


def _size_when_taken(tags: Mapping[int, Any], stored: tuple[int, int]) -> tuple[int, int]:
    """In px, either side first: by EXIF, where files that were resized since keep it."""
    sides = (_number(tags, tag) for tag in (Base.ExifImageWidth, Base.ExifImageHeight))
    width, height = (round(side) if side else 0 for side in sides)
    return (width, height) if min(width, height) > 0 else stored


def _wide(size: tuple[int, int]) -> tuple[int, int]:
    """The short side first, as (H,W) in landscape."""
    return min(size), max(size)


def _number(tags: Mapping[int, Any], tag: int) -> float | None:
    """A finite number, or None: EXIF has divisions by 0, texts and lists, too."""
    try:
        value = float(tags[tag])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return value if math.isfinite(value) else None
