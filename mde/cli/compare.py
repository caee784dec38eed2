"""The `mde compare` command: models side by side on the same images."""

from pathlib import Path
from typing import Annotated

import typer

from mde.cli.sizes import parse_size
from mde.errors import InputError, explained


def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL MODEL...",
            help="Two or more: a checkpoint folder, the name of a trained variant, "
            "models:/NAME@ALIAS, models:/NAME/VERSION, or runs:/ID.",
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(help="A converted dataset; default: that of the first model, below the root."),
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="For all models; default: that of the first one.")
    ] = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    root: Annotated[Path, typer.Option(envvar="MDE_ROOT", help="Folder of data and models.")] = (
        Path(".")
    ),
    out: Annotated[Path, typer.Option(help="A new folder.")] = Path("comparison"),
    force: Annotated[bool, typer.Option("--force", help="Replace the folder.")] = False,
    panels: Annotated[int, typer.Option(min=0, help="Images to show.")] = 6,
    sequence: Annotated[
        str | None,
        typer.Option(metavar="SCENE", help="Of the film; default: the longest one of the split."),
    ] = None,
    fps: Annotated[int, typer.Option(min=1, max=30, help="Frames per second of the film.")] = 5,
    size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Image whose cost is measured; default: as stored."),
    ] = None,
    cost_seconds: Annotated[
        float, typer.Option(min=0, help="Timing of each model, at most; 0 leaves costs out.")
    ] = 30.0,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Compare models on the same images: tables, panels, a film, error histograms, costs."""
    import tempfile

    with explained(debug):
        height_width = parse_size(size)
        if out.exists() and not force:
            raise InputError(
                f"{out}: is there already; give a new folder with --out, or --force to replace it"
            )
        from mde.compare import (
            Options,
            find_contenders,
            given_data,
            given_protocol,
            write_comparison,
        )
        from mde.compare import compare as compare_models
        from mde.files import fresh_folder

        with tempfile.TemporaryDirectory() as downloads:
            found = find_contenders(root, models, Path(downloads))
            place, judge = given_data(root, data, found[0]), given_protocol(protocol, found[0])
            options = Options(split, panels, sequence, height_width, cost_seconds)
            comparison = compare_models(found, place, judge, options)
        with fresh_folder(out) as folder:
            write_comparison(folder, comparison, fps)
        for entry in comparison.entries:
            print(f"{entry.contender.label}: abs_rel {entry.summary['metrics']['abs_rel']:.4f}")
        print(f"{out}: index.html, table.md, table.csv, sequence.mp4, sequence.gif, panels/ …")
