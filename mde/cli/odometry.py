"""The `mde odometry` command: the path of a camera as the pose network sees it, and its error."""

from pathlib import Path
from typing import Annotated

import typer

from mde.cli.sizes import parse_size
from mde.errors import InputError, explained


def odometry(
    model: Annotated[
        str,
        typer.Argument(help="Of a self-supervised training (mode m or ms): a folder or models:/…"),
    ],
    data: Annotated[
        Path,
        typer.Argument(
            help="Consecutive frames: a folder of images, a KITTI sequence (sequences/09), or a "
            "KITTI raw drive."
        ),
    ],
    out: Annotated[Path, typer.Option(help="A new folder for trajectories, scores, a picture.")],
    truth: Annotated[
        Path | None,
        typer.Option(
            help="Poses in KITTI's or TUM's format, or a KITTI raw drive. Found by itself where "
            "KITTI has it."
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Images are resized to it; default: as in training."),
    ] = None,
    root: Annotated[Path, typer.Option(envvar="MDE_ROOT", help="Folder of models.")] = Path("."),
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Predict the path of a camera with the pose network, and score it where the truth is known."""
    with explained(debug):
        height_width = parse_size(size)
        if out.exists():
            raise InputError(f"{out}: is there already; give a new folder with --out")
        from mde.model_source import checkpoint_of
        from mde.odometry import measure, write_odometry

        with checkpoint_of(model, root) as checkpoint:
            found = measure(checkpoint, data, truth, height_width)
        scores = write_odometry(found, model, out)
        unit = "m" if found.is_metric else "units of the model, not metric"
        print(f"{found.frames.folder}: {scores['frames']} frames, {scores['length']:.4g} {unit}")
        if scores["gaps"]:
            print(f"{scores['gaps']} gaps in the frame numbers: motions there span several frames")
        if found.truth is None:
            print("no true path: give it with --truth to have errors")
        else:
            print(f"truth: {scores['truth']}, {scores['truth_length']:.4g} m")
            for key, title in (
                ("ate_snippets", "ATE, 5 frames"),
                ("ate_snippets_monodepth2", "  as monodepth2 computes it"),
            ):
                print(f"{title}: {scores[key]['mean']:.4f} ± {scores[key]['std']:.4f} m")
            errors = ", ".join(f"{how} {error:.4g}" for how, error in scores["ate"].items())
            print(f"ATE, whole path (m), by alignment: {errors}")
            print(f"scale to the truth: {scores['scale']['sim3']:.4g} (sim3)")
        print(f"{out}: trajectory_kitti.txt, trajectory_tum.txt, odometry.json, trajectory.png")
