"""The `mde bench` command: what models cost, in every way to run them."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from mde.errors import explained

OUT = "A file for {}."


def bench(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="A checkpoint folder, the name of a trained variant, models:/NAME@ALIAS, "
            "models:/NAME/VERSION, runs:/ID; or FAMILY:ENCODER, untrained.",
        ),
    ],
    size: Annotated[
        list[str] | None,
        typer.Option(metavar="HxW", help="Of images, several times; default: training's."),
    ] = None,
    device: Annotated[
        Literal["cpu", "cuda"] | None, typer.Option(help="Default: a GPU when there is one.")
    ] = None,
    modes: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="Some alone, beside eager.")
    ] = None,
    compile: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Modes that compile, a minute each.")
    ] = True,
    images: Annotated[
        Path | None,
        typer.Option(
            help="A dataset, a folder of photographs, or one; default of int8: training's dataset."
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=0, help="Of the CPU; 0: as torch takes.")] = 0,
    runs: Annotated[int, typer.Option(min=1, help="Timed, of every mode.")] = 100,
    seconds: Annotated[
        float, typer.Option(min=0, help="For a model's timed runs in all modes, about.")
    ] = 120.0,
    json: Annotated[Path | None, typer.Option(help=OUT.format("every single run"))] = None,
    markdown: Annotated[Path | None, typer.Option(help=OUT.format("the table"))] = None,
    root: Annotated[Path, typer.Option(envvar="MDE_ROOT", help="Folder of models.")] = Path("."),
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Measure parameters, arithmetic, latency and memory of models, beside plain torch."""
    import tempfile

    from rich import progress
    from rich.console import Console

    from mde.cli.sizes import parse_size

    with explained(debug):
        sizes = [one for text in size or () if (one := parse_size(text))]
        from mde.bench import (
            Pace,
            Plan,
            as_content,
            as_markdown,
            as_table,
            find_model,
            pick_modes,
        )
        from mde.bench import bench as measure
        from mde.files import write_bytes, write_json
        from mde.predictor import default_device

        where = device or default_device().type
        plan = Plan(
            modes=pick_modes(modes.split(",") if modes else None, where, compile),
            sizes=sizes,
            device=where,
            threads=threads,
            images=images,
            pace=Pace(runs, seconds),
            root=root,
        )
        columns = (progress.BarColumn(), progress.TaskProgressColumn(), "{task.description}")
        bar = progress.Progress(*columns, console=Console(stderr=True), transient=True)
        with tempfile.TemporaryDirectory() as downloads, bar:
            task = bar.add_task("looking for models", total=1)
            found_models = [
                find_model(root, source, Path(downloads) / str(number))
                for number, source in enumerate(models)
            ]
            found = measure(
                found_models,
                plan,
                lambda text, share: bar.update(task, description=text, completed=share),
            )
        if json:
            write_json(json, as_content(found))
        if markdown:
            write_bytes(markdown, as_markdown(found).encode())
        Console(highlight=False).print(as_table(found))
