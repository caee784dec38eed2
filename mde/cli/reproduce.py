"""`mde reproduce`: from a registered version back to code, data and parameters."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mde.errors import explained

if TYPE_CHECKING:
    from mde.reproduce import Comparison


def reproduce(
    uri: Annotated[str, typer.Argument(help="models:/NAME@ALIAS, models:/NAME/3 or runs:/ID")],
    restore: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write its params.yaml and patch there.")
    ] = None,
    check: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Compare what was made there with it.")
    ] = None,
    root: Annotated[
        Path, typer.Option(envvar="MDE_ROOT", help="With mlflow.db, without MLFLOW_TRACKING_URI.")
    ] = Path("."),
    debug: Annotated[bool, typer.Option("--debug", help="Show an error's traceback.")] = False,
) -> None:
    """Print the commands that make a version again; or take a step of them.

    With --check, exit code 1 when the outcome differs.
    """
    from mde import reproduce as reproducing
    from mde.errors import InputError
    from mde.tracking.lineage import find_lineage

    with explained(debug):
        found = find_lineage(root.resolve(), uri)
        if restore is None and check is None:
            for line in reproducing.commands(found):
                print(line)
        if restore is not None:
            for path in reproducing.restore(found, restore):
                print(f"{path}: as it was")
        if check is not None:
            compared = reproducing.compare(found, check)
            _show(compared)
            if differing := [each.name for each in compared if not each.same]:
                raise InputError(f"{check} differs from {uri} in {', '.join(differing)}")
            print(f"{check} is {uri}, made again")


def _show(compared: "list[Comparison]") -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    for each in compared:
        state = Text("same", style="green") if each.same else Text("differs", style="bold red")
        table.add_row(each.name, state, Text(each.note))
    Console(soft_wrap=True, highlight=False).print(table)
