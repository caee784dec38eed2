"""`mde predict`: the depth of images, videos and cameras, as files."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mde.errors import InputError, explained

if TYPE_CHECKING:
    from mde.predict.inputs import Inputs
    from mde.predict.record import Record
    from mde.predictor import Predictor


class Codes(StrEnum):
    """Of 16-bit PNGs."""

    MM = "mm"
    KITTI = "kitti"


class Flips(StrEnum):
    """How the mirrored image takes part."""

    NONE = "none"
    MEAN = "mean"
    RAMP = "ramp"


class Precisions(StrEnum):
    """Of the network's arithmetic."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


MODEL = (
    "A checkpoint folder, a trained variant, models:/<name>@<alias>, runs:/<id>, or a file of "
    "`mde export`."
)
CHECKED = 4
"""Images that an export for one run is checked on, at most."""
INPUT = "Images, videos, folders, 'patterns/*.jpg', webcam, webcam:1, /dev/video0 or a URL."


def predict(
    model: Annotated[str, typer.Argument(help=MODEL)],
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help=INPUT)],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder for the outputs.")],
    png: Annotated[
        list[Codes],
        typer.Option(help="16-bit PNG: mm as NYU, to 65 m; kitti: 1/256 m, to 255 m."),
    ] = [],  # noqa: B006
    npy: Annotated[bool, typer.Option("--npy", help="NumPy arrays of float32.")] = False,
    color: Annotated[
        bool, typer.Option("--color", help="Colours with a legend; what images get by default.")
    ] = False,
    video: Annotated[
        bool, typer.Option("--video", help="A film: input | depth; what videos get by default.")
    ] = False,
    pointcloud: Annotated[
        bool, typer.Option("--pointcloud", help="PLY and an HTML page, of images.")
    ] = False,
    turntable: Annotated[
        bool, typer.Option("--turntable", help="A film of the points from around, of images.")
    ] = False,
    camera: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Intrinsics for points; default: EXIF.")
    ] = None,
    fov: Annotated[
        float | None, typer.Option(metavar="DEG", help="Horizontal field of view, instead.")
    ] = None,
    near_far: Annotated[
        str | None,
        typer.Option("--range", metavar="NEAR:FAR", help="Of colours; default: of what is seen."),
    ] = None,
    legend: Annotated[bool, typer.Option(help="Below coloured images.")] = True,
    smooth: Annotated[
        float,
        typer.Option(min=0, max=0.99, help="Of videos: weight of earlier frames, such as 0.8."),
    ] = 0.0,
    frames: Annotated[
        int | None, typer.Option(min=1, help="Of each video or stream, at most.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="That the network sees; default: training's.")
    ] = None,
    flip: Annotated[Flips, typer.Option(help="Join with the mirrored image's depth.")] = Flips.NONE,
    precision: Annotated[Precisions, typer.Option()] = Precisions.FP32,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1; default: a GPU if there is one.")
    ] = None,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Run as ONNX, by OpenVINO or ONNX Runtime.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove what an earlier run wrote to DIR first.")
    ] = False,
    root: Annotated[
        Path, typer.Option(envvar="MDE_ROOT", help="Where models/ and mlflow.db are.")
    ] = Path("."),
    debug: Annotated[bool, typer.Option("--debug", help="Show an error's traceback.")] = False,
) -> None:
    """Predict the depth of images, videos or a camera, and write it as files.

    DIR gets a folder for each kind of output, and predictions.json, which says what the numbers
    mean. Exit code 1: some inputs could not be read; 130: Ctrl-C, with all that is whole in place.
    """
    asked = {"npy": npy, "color": color, "video": video}
    asked |= {"pointcloud": pointcloud, "turntable": turntable}
    kinds = (*(str(codes) for codes in png), *(kind for kind, wanted in asked.items() if wanted))
    with explained(debug):
        from mde.cli.sizes import parse_size
        from mde.predict.inputs import find_inputs
        from mde.predict.job import open_streams, predict_all
        from mde.predict.outputs import Options, prepare_folder

        options = Options(kinds, _parse_range(near_far), legend, smooth, frames, camera, fov)
        found = find_inputs(inputs, out)
        options.check_inputs(found)
        streams = open_streams(found)
        asked_of_model = {
            "device": device,
            "image_size": parse_size(size),
            "flip": str(flip),
            "precision": str(precision),
        }
        with _loaded(model, root, onnx, asked_of_model, found) as predictor:
            options.check_model(predictor.info)
            prepare_folder(out, overwrite)
            about = {"source": model, **asked_of_model, **_where(predictor)}
            record = predict_all(predictor, found, streams, out, options, about)
    _say(record, out)
    raise typer.Exit(130 if record.interrupted else int(bool(record.failures)))


@contextmanager
def _loaded(
    model: str, root: Path, onnx: bool, options: dict[str, Any], found: "Inputs"
) -> "Iterator[Predictor]":
    import mde

    if not onnx and not model.endswith(".onnx"):
        _check_device(options["device"])
        yield mde.load(model, root=root, **options)
        return
    _check_onnx(model, options)
    with _onnx_file(model, root, options["image_size"], found) as path:
        yield mde.load(path)


def _check_onnx(model: str, options: dict[str, Any]) -> None:
    """Raises InputError for options that a file's network has no say in."""
    fixed = {"device": None, "flip": "none", "precision": "fp32"}
    if model.endswith(".onnx"):
        fixed["image_size"] = None
    for name, usual in fixed.items():
        if options[name] != usual:
            option = "size" if name == "image_size" else name
            raise InputError(
                f"--{option}: an ONNX file has this built in, or its runtime chooses; give the "
                "checkpoint without --onnx, or export another file"
            )


@contextmanager
def _onnx_file(
    model: str, root: Path, size: tuple[int, int] | None, found: "Inputs"
) -> Iterator[Path]:
    """The file of a model; of a checkpoint a temporary one is made, and checked on the inputs."""
    from mde.export import export_onnx
    from mde.model_source import checkpoint_of

    if model.endswith(".onnx"):
        yield Path(model)
        return
    with checkpoint_of(model, root) as folder, tempfile.TemporaryDirectory() as place:
        path = Path(place) / "model.onnx"
        export_onnx(folder, path, size, images=_readable(found) or None, root=root)
        yield path


def _readable(found: "Inputs") -> list[Path]:
    """Some images, without those that the run is going to report as damaged."""
    from mde.predictor import as_pixels

    paths: list[Path] = []
    for item in found.of("image"):
        with suppress(InputError):
            as_pixels(item.path)
            paths.append(item.path)
        if len(paths) == CHECKED:
            break
    return paths


def _where(predictor: "Predictor") -> dict[str, str]:
    """What runs the network, and on what."""
    runtime = getattr(predictor, "runtime", "torch")
    return {"runtime": runtime, "device": str(getattr(predictor, "device", "unknown"))}


def _check_device(name: str | None) -> None:
    import torch

    try:
        torch.zeros(1, device=name or "cpu")
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name}: {reason}; expected cpu, cuda or cuda:1") from error


def _parse_range(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        near, far = (float(part) for part in text.split(":"))
    except ValueError:
        near, far = 0.0, 0.0
    if not 0 < near < far < float("inf"):
        raise InputError(f"--range {text}: expected NEAR:FAR with 0 < NEAR < FAR, such as 0.5:10")
    return near, far


def _say(record: "Record", out: Path) -> None:
    failed = len(record.failures)
    for failure in record.failures:
        typer.echo(f"failed: {failure['input']}: {failure['reason']}", err=True)
    stopped = "stopped by Ctrl-C; " if record.interrupted else ""
    if record.ignored:
        names = f"{record.ignored[0]} and others" if len(record.ignored) > 1 else record.ignored[0]
        typer.echo(f"{len(record.ignored)} files are no images or videos by their names: {names}")
    unit = record.head["model"]["unit"]
    meant = "depth in m" if unit == "m" else "depth that is right up to one factor an image"
    typer.echo(
        f"{stopped}{out}: {record.files} files of {len(record.entries)} inputs, {failed} failed; "
        f"{meant}, see {out / 'predictions.json'}"
    )
