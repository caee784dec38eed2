"""The `mde promote` command: a champion by hand."""

import getpass
from pathlib import Path
from typing import Annotated

import typer

from mde.errors import explained


def promote(
    uri: Annotated[str, typer.Argument(help="models:/mde-NAME/VERSION, or …@challenger")],
    reason: Annotated[str, typer.Option(help="Why; it stays in the version's tags.")],
    root: Annotated[Path, typer.Option(envvar="MDE_ROOT", help="Folder of data and results.")] = (
        Path(".")
    ),
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Make a registered version champion by hand, after its files have been verified."""
    from mde.registry import promote as promote_version

    with explained(debug):
        found = promote_version(root.resolve(), uri, reason, _user())
        print(f"{found.name} version {found.version} is champion: {found.reason}")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"
