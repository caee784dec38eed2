"""The frame of every stage: its options, and errors for people."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from mde.errors import explained

Params = Annotated[Path, typer.Option(help="The params file.")]
Root = Annotated[
    Path, typer.Option(envvar="MDE_ROOT", help="Folder of data and results, shared by all nodes.")
]
Dataset = Annotated[str, typer.Option(help="A name in the params file: datasets.")]
Variant = Annotated[str, typer.Option(help="A name in the params file: variants.")]
PARAMS, ROOT = Path("params.yaml"), Path(".")


def run(main: Callable[..., None]) -> None:
    """Run a stage from the command line; bad input ends in one message and exit code 1."""

    @functools.wraps(main)
    def command(*args: object, debug: bool = False, **options: object) -> None:
        with explained(debug):
            main(*args, **options)

    debug = inspect.Parameter(
        "debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=bool
    )
    signature = inspect.signature(main)
    parameters = [*signature.parameters.values(), debug]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {**main.__annotations__, "debug": bool}
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    app()
