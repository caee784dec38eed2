"""What is written: which kinds of files there are, what their numbers mean, and where they lie."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.colors import LogNorm

from mde.depth_files import CODINGS, others
from mde.errors import InputError
from mde.predict.inputs import Inputs
from mde.predict.record import RECORD
from mde.predictor import ModelInfo

MAPS = {"mm": ".png", "kitti": ".png", "npy": ".npy", "color": ".png"}
"""One file an image or a frame."""
SCENES = {"pointcloud": ".ply", "turntable": ".mp4"}
"""Of images only, as they need to know the camera."""
FILM = "video"
IMAGE_KINDS, CLIP_KINDS = (*MAPS, *SCENES), (*MAPS, FILM)


@dataclass(frozen=True)
class Options:
    """kinds: what is asked for, of IMAGE_KINDS and CLIP_KINDS; none: colours, or a video of one.

    near_far: range of colours, m or units; else each image and each clip has its own. legend: below
    colours. smooth: weight of what was, see `Smoother`. max_frames: of each video. camera,
    fov_x_deg: see `find_intrinsics`.
    """

    kinds: tuple[str, ...] = ()
    near_far: tuple[float, float] | None = None
    legend: bool = True
    smooth: float = 0.0
    max_frames: int | None = None
    camera: Path | None = None
    fov_x_deg: float | None = None

    @property
    def of_image(self) -> tuple[str, ...]:
        """Kinds for an image."""
        return tuple(kind for kind in IMAGE_KINDS if kind in self.kinds) or ("color",)

    @property
    def of_clip(self) -> tuple[str, ...]:
        """Kinds for a video or a stream."""
        return tuple(kind for kind in CLIP_KINDS if kind in self.kinds) or (FILM,)

    @property
    def norm(self) -> LogNorm | None:
        """The stated colours."""
        return LogNorm(*self.near_far) if self.near_far else None

    def check_inputs(self, inputs: Inputs) -> None:
        """Raises InputError for what is asked for and no input can have."""
        is_clip = len(inputs.of("image")) < len(inputs.found)
        if is_clip and (scenes := sorted(set(self.kinds) & set(SCENES))):
            raise InputError(f"--{scenes[0]} is for images; predict videos and streams without")
        if not is_clip and (FILM in self.kinds or self.smooth or self.max_frames):
            raise InputError(
                "--video, --smooth and --frames are for videos and streams; there is none among "
                f"{len(inputs.found)} inputs"
            )

    def check_model(self, info: ModelInfo) -> None:
        """Raises InputError for codes that do not reach as far as the model predicts."""
        for kind in set(self.kinds) & set(CODINGS):
            if info.max_depth > CODINGS[kind].most:
                unit = " m" if info.is_metric else ""
                raise InputError(
                    f"--png {kind}: {info.variant} predicts depths up to {info.max_depth:g}{unit}, "
                    f"its 16-bit codes end at {CODINGS[kind].most:.1f}; {others(info.max_depth)}"
                )


def meaning(kind: str, info: ModelInfo) -> dict[str, Any]:
    """What the numbers in the files of a kind are."""
    unit = "m" if info.is_metric else "the model's units, which are right up to one factor an image"
    about: dict[str, Any] = {"unit": info.unit}
    if kind in CODINGS:
        per_unit = CODINGS[kind].per_unit
        about |= {"format": "16-bit grey PNG", "codes_per_unit": per_unit}
        about["meaning"] = f"code / {per_unit} is depth in {unit}; code 0: no depth"
    elif kind == "npy":
        about |= {"format": "NumPy array (H,W), float32", "meaning": f"depth in {unit}"}
    elif kind in ("color", FILM):
        form = "H.264 video, input | depth" if kind == FILM else "8-bit RGB PNG"
        about |= {"format": form, "meaning": f"near is bright; `colors` is from near to far {unit}"}
    elif kind == "pointcloud":
        about["format"] = "binary PLY, and an HTML page that shows it"
        about["meaning"] = f"x right, y down, z forward in {unit}; see `intrinsics`"
    else:
        about |= {"format": "H.264 video", "meaning": "the points, seen from around"}
    return about


def prepare_folder(out: Path, overwrite: bool) -> None:
    """Make the folder for outputs; what an earlier run has written there goes when `overwrite`.

    Files that its record does not name stay. Raises InputError when the folder is not empty.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; --out takes a folder")
    if out.is_dir() and any(out.iterdir()):
        if not overwrite:
            raise InputError(
                f"{out}: is there and not empty; give a new folder, or --overwrite, which removes "
                f"what an earlier run wrote there ({RECORD} has the list) and nothing else"
            )
        _remove_earlier(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be made: {error.strerror}") from error


def _remove_earlier(out: Path) -> None:
    record = out / RECORD
    if not record.is_file():
        return
    try:
        content = json.loads(record.read_text())
        names = [file["path"] for entry in content["predicted"] for file in entry["files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{record}: not the record of an earlier run ({error!r}); give another folder"
        ) from error
    for name in names:
        path = (out / name).resolve()
        # A record that was edited must not reach beyond its folder.
        if path.is_relative_to(out.resolve()) and path.is_file():
            path.unlink()
    record.unlink()
