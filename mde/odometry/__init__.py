"""What the pose network of self-supervised training is worth: the path of a camera, and its error.

Frames in a folder → motions → trajectory files, and where the true path is known, its errors.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mde.errors import InputError
from mde.files import fresh_folder, write_json
from mde.odometry.frames import Frames, find_frames
from mde.odometry.motions import load_pose_model, predict_motions
from mde.odometry.picture import draw_paths
from mde.odometry.truth import read_truth
from mde.trajectory import (
    ALIGNMENTS,
    SNIPPET,
    Align,
    Poses,
    accumulate,
    align,
    ate,
    ate_snippets,
    ate_snippets_monodepth2,
    path_length,
    write_kitti,
    write_tum,
)
from mde.visualize import figure_to_png


@dataclass(frozen=True)
class Odometry:
    """A predicted path of N frames, and the true one where it is known.

    pred, truth: (N,4,4) T_first_cam; m when `is_metric`, else the prediction is in units of its
    own. truth_from: the file or folder of the true poses.
    """

    frames: Frames
    pred: Poses
    is_metric: bool
    truth: Poses | None = None
    truth_from: Path | None = None

    def scores(self) -> dict[str, Any]:
        """Lengths of the paths and, with a true one, all errors in m: plain values for JSON."""
        found: dict[str, Any] = {
            "frames": len(self.pred),
            "gaps": self.frames.gaps,
            "is_metric": self.is_metric,
            "length": path_length(self.pred),
        }
        if self.truth is None:
            return found
        pairs: dict[str, tuple[float, float]] = {
            "ate_snippets": ate_snippets(self.pred, self.truth),
            "ate_snippets_monodepth2": ate_snippets_monodepth2(self.pred, self.truth),
        }
        return {
            **found,
            "truth": str(self.truth_from),
            "truth_length": path_length(self.truth),
            **{name: {"mean": mean, "std": std} for name, (mean, std) in pairs.items()},
            "ate": {how: ate(self.pred, self.truth, how) for how in ALIGNMENTS},
            "scale": {how: self.scale(how) for how in ("scale", "sim3")},
        }

    def scale(self, how: Align) -> float:
        """What the predicted path is multiplied by when it is aligned to the true one."""
        assert self.truth is not None
        return align(self.pred, self.truth, how).scale


def measure(
    checkpoint: Path, data: Path, truth: Path | None, size: tuple[int, int] | None
) -> Odometry:
    """Predict the path through the frames of a folder.

    data, truth: see `find_frames`, `read_truth`. size: (H, W) in place of that of the training.
    Raises InputError for a model without a pose network, too few frames, damaged files, poses that
    are not finite.
    """
    frames = find_frames(data)
    # Before the long part.
    found = read_truth(frames, truth)
    if found and len(frames.images) < SNIPPET:
        raise InputError(
            f"{frames.folder}: {len(frames.images)} frames; errors need at least {SNIPPET}"
        )
    model = load_pose_model(checkpoint, size)
    motions = predict_motions(model, frames.images)
    if not np.isfinite(motions).all():
        raise InputError(
            f"{checkpoint}: predicts motions that are not finite; train again, or take an earlier "
            "checkpoint"
        )
    poses, source = found or (None, None)
    return Odometry(frames, accumulate(motions), model.is_metric, poses, source)


def write_odometry(odometry: Odometry, model: str, out: Path) -> dict[str, Any]:
    """Write `trajectory_kitti.txt`, `trajectory_tum.txt`, their truth, scores and picture.

    model: where the network comes from. out: a new folder. Returns the content of `odometry.json`.
    """
    frames, scores = odometry.frames, odometry.scores()
    content = {"model": model, "images": str(frames.folder), **scores}
    content["times"] = frames.times_from
    paths = {"trajectory": odometry.pred, "truth": odometry.truth}
    with fresh_folder(out) as folder:
        for name, poses in paths.items():
            if poses is not None:
                write_kitti(folder / f"{name}_kitti.txt", poses)
                write_tum(folder / f"{name}_tum.txt", frames.times, poses)
        figure = draw_paths(odometry.pred, odometry.truth, odometry.is_metric)
        (folder / "trajectory.png").write_bytes(figure_to_png(figure, dpi=110))
        write_json(folder / "odometry.json", content)
    return content
