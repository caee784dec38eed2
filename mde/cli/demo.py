"""The `mde demo` command: a web page to try models on one's own pictures."""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from mde.errors import InputError, explained


def demo(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="What may be chosen; default: all champions, challengers and trained variants.",
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Default: the first free from 7860 on.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 lets the network in.")
    ] = "127.0.0.1",
    root: Annotated[Path, typer.Option(help="Folder of models/ and mlflow.db.")] = Path("."),
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Open a page on which a model is tried: drop a picture, and see its depth."""
    # Ended by a supervisor, it tidies up as with Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with explained(debug):
        try:
            from mde.demo.server import is_loopback, serving
        except ModuleNotFoundError as error:
            raise InputError(
                f"{error.name} is not installed; the page needs it: pip install 'mde[demo]'"
            ) from error
        with serving(root, models or (), host, port) as address:
            if not is_loopback(host):
                print(
                    f"warning: at {host} anybody in the network can open the page, and have this "
                    "machine work on files of theirs; there is no password",
                    file=sys.stderr,
                )
            print(f"{address}  (Ctrl-C ends it)", flush=True)
            try:
                signal.pause()
            except KeyboardInterrupt:
                print()
