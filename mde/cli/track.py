"""`mde track`: deliver to MLflow what trainings had to leave in their run folders, or list it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from mde.errors import explained

if TYPE_CHECKING:
    from mde.tracking.run_folder import RunFolder

track_app = typer.Typer(help="Metrics that MLflow does not have yet.", no_args_is_help=True)

Places = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[URI]...", help="Where run folders lie: run.storage. [default: ROOT/checkpoints]"
    ),
]
Root = Annotated[Path, typer.Option(envvar="MDE_ROOT", help="Folder of data and results.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@track_app.command()
def sync(places: Places = None, root: Root = Path("."), debug: Debug = False) -> None:
    """Deliver what waits, and end the runs that were killed; exit code 1 when some is left."""
    from mde.errors import InputError
    from mde.tracking import delivery

    left = values = 0
    with explained(debug):
        for folder in _folders(places, root):
            synced = delivery.sync(root.resolve(), folder)
            if synced is None:
                continue
            values += synced.values
            left += len(synced.problems)
            print(f"{synced.uri}: {synced.values} values delivered; {synced.note}", flush=True)
            for problem in synced.problems:
                print(f"left out: {problem}", flush=True)
        if left:
            raise InputError(f"{left} damaged journal segments could not be delivered")
    if not values:
        print("no values wait")


@track_app.command()
def status(places: Places = None, root: Root = Path("."), debug: Debug = False) -> None:
    """List the runs of which something waits; MLflow is not asked.

    Beside values and the checkpoint these are files, pictures, datasets and use of the machine.
    """
    table = Table("run", "ended", "waiting", "MLflow run", box=None, pad_edge=False)
    with explained(debug):
        for folder in _folders(places, root):
            if folder.settled:
                continue
            end, delivered = folder.end, folder.delivered
            waiting = f"{folder.waiting_values()} values"
            if end is not None and end.artifacts and end.artifacts.sha256 != delivered.artifacts:
                waiting += ", checkpoint"
            if others := len(folder.waiting_once()) + len(folder.waiting_system()):
                waiting += f", {others} more"
            how = end.status if end else "training or killed"
            table.add_row(folder.uri, how, waiting, delivered.run_id or "not yet")
    if table.row_count:
        Console(soft_wrap=True).print(table)
    else:
        print("nothing waits")


def _folders(places: list[str] | None, root: Path) -> "list[RunFolder]":
    from mde.layout import Layout
    from mde.tracking.run_folder import run_folders

    uris = places or [str(Layout(root.resolve()).checkpoints)]
    return [folder for uri in uris for folder in run_folders(uri)]
