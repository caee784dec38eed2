"""What the page shows of an upload, as files of a folder of its own."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import cv2

from mde.data.codecs import encode_image, resize_image
from mde.depth_files import CODINGS, Codes, save_depth
from mde.errors import InputError
from mde.film import color_range, tint
from mde.predict.clips import VideoClip
from mde.predict.inputs import VIDEO_SUFFIXES, Input
from mde.predict.outputs import Options
from mde.predict.record import Record
from mde.predict.videos import predict_clip
from mde.predict.writers import MapWriter
from mde.predictor import DepthMap, ModelInfo, Predictor, as_pixels

MAX_SIDE = 1600
"""px; larger images are shrunk to it, which keeps each answer quick."""
MAX_FRAMES = 300
"""Of a video; what comes later is left out. 10 s of most."""


@dataclass(frozen=True)
class Result:
    """The depth of an image, and the files of it.

    name: what the image's file was called, without ending. size: (H,W) px of the upload. low, high:
    the range of colours, in the unit of the model.
    """

    folder: Path
    name: str
    found: DepthMap
    size: tuple[int, int]
    seconds: float
    low: float
    high: float

    @property
    def image(self) -> Path:
        """The image, as large as the depth."""
        return self.folder / f"{self.name}.jpg"

    @property
    def colors(self) -> Path:
        """The depth in colours."""
        return self.folder / f"{self.name}-colors.png"

    @property
    def array(self) -> Path:
        """(H,W) float32, as of `DepthMap.depth`."""
        return self.folder / f"{self.name}-depth.npy"

    @property
    def codes(self) -> Codes | None:
        """Those of the 16-bit PNG; none reaches as far as some models do."""
        far = self.found.info.max_depth
        fitting: tuple[Codes, ...] = ("mm", "kitti")
        return next((codes for codes in fitting if far <= CODINGS[codes].most), None)

    @property
    def png(self) -> Path:
        """The depth in `codes`."""
        return self.folder / f"{self.name}-depth.png"


@dataclass(frozen=True)
class Film:
    """A video beside its depth. frames: how many were predicted, of `of` if that is known."""

    folder: Path
    path: Path
    info: ModelInfo
    frames: int
    of: int | None
    size: tuple[int, int]
    seconds: float


def predict_upload(predictor: Predictor, path: Path, folder: Path) -> Result | Film:
    """Predict the depth of an image or a video, and write what the page shows below `folder`.

    Raises InputError when it is neither. Messages call the file as the person does.
    """
    own = Path(tempfile.mkdtemp(dir=folder))
    try:
        if path.suffix.lower() in VIDEO_SUFFIXES:
            return _predict_video(predictor, path, own)
        return _predict_image(predictor, path, own)
    except InputError as error:
        raise InputError(str(error).replace(str(path), path.name)) from None


def _predict_image(predictor: Predictor, path: Path, folder: Path) -> Result:
    pixels = as_pixels(path)
    height, width = pixels.shape[:2]
    share = min(1.0, MAX_SIDE / max(height, width))
    pixels = resize_image(pixels, (max(1, round(height * share)), max(1, round(width * share))))
    start = time.perf_counter()
    found = predictor.predict(pixels)
    seconds = time.perf_counter() - start
    norm = color_range([found.depth])
    low, high = float(norm.vmin or 0), float(norm.vmax or 0)
    result = Result(folder, path.stem, found, (height, width), seconds, low, high)
    result.image.write_bytes(encode_image(found.image))
    cv2.imwrite(str(result.colors), cv2.cvtColor(tint(found.depth, norm), cv2.COLOR_RGB2BGR))
    save_depth(result.array, found.depth)
    if result.codes is not None:
        save_depth(result.png, found.depth, result.codes)
    return result


def _predict_video(predictor: Predictor, path: Path, folder: Path) -> Film:
    options = Options(kinds=("video",), max_frames=MAX_FRAMES)
    clip, record = VideoClip(path), Record(folder, {})
    start = time.perf_counter()
    predict_clip(
        predictor, Input(str(path), path.stem, "video"), clip, MapWriter(folder, options), record,
        lambda: None,
    )  # fmt: skip
    if not record.entries:
        raise InputError(f"{path.name}: {'; '.join(f['reason'] for f in record.failures)}")
    entry = record.entries[0]
    film = folder / entry.files[0].path
    frames, seconds = int(entry.about["frames"]), time.perf_counter() - start
    return Film(folder, film, predictor.info, frames, clip.count, entry.size, seconds)
