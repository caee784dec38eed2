"""The `mde export` command: a model as one checked ONNX file."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mde.errors import explained


class Precisions(StrEnum):
    """Bits of the network."""

    FP32 = "fp32"
    INT8 = "int8"
    FP16 = "fp16"


def export(
    model: Annotated[
        str,
        typer.Argument(help="A checkpoint folder, a trained variant, models:/<name>@<alias>, …"),
    ],
    out: Annotated[
        Path | None, typer.Argument(metavar="OUT.onnx", help="Default: <variant>.onnx, here.")
    ] = None,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="The format; the only one, so it may be left out.")
    ] = True,
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="That the network sees; default: training's.")
    ] = None,
    precision: Annotated[
        Precisions, typer.Option(help="int8 is fastest on CPUs; fp16 is half as large.")
    ] = Precisions.FP32,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Real images to check it on: a folder of pictures, or a converted dataset; "
            "default: the dataset that it was trained on."
        ),
    ] = None,
    max_loss: Annotated[
        float, typer.Option(min=0, help="Of int8 and fp16: relative rise of abs_rel at most.")
    ] = 0.01,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.onnx.")] = False,
    root: Annotated[
        Path, typer.Option(envvar="MDE_ROOT", help="Where models/, data/ and mlflow.db are.")
    ] = Path("."),
    debug: Annotated[bool, typer.Option("--debug", help="Show an error's traceback.")] = False,
) -> None:
    """Export a model as one ONNX file: images of any size in, depth of that size out.

    The file is kept only after its depth has been compared with torch's on real images.
    """
    from rich.console import Console

    from mde.cli.sizes import parse_size
    from mde.errors import InputError
    from mde.export import export_onnx
    from mde.model_source import checkpoint_of
    from mde.train.checkpoint import read_state

    console = Console()
    with explained(debug), checkpoint_of(model, root) as folder:
        path = out or Path(f"{read_state(folder)['variant']['name']}.onnx")
        if path.suffix != ".onnx":
            raise InputError(f"{path}: the name of the file must end with .onnx")
        if path.exists() and not overwrite:
            raise InputError(f"{path}: is there already; take another name, or --overwrite")
        with console.status("loading") as status:
            report = export_onnx(
                folder, path, parse_size(size), precision.value, images, max_loss, root,
                status.update,
            )  # fmt: skip
        for line in report.lines():
            console.print(line, highlight=False, soft_wrap=True)
        print(f"next: mde predict {path} IMAGE --out DIR, or mde.load('{path}') in Python")
