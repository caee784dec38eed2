"""`mde recipe`: list the published recipes, and switch a params file to one."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mde.errors import explained

if TYPE_CHECKING:
    from mde.recipes import PublishedRecipe, Switch

COLOURS = {"+": "green", "-": "red", "@": "cyan"}

recipe = typer.Typer(help="Recipes of the published projects, at full scale.", no_args_is_help=True)

Params = Annotated[Path, typer.Option(help="The params file; recipes/ lies beside it.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
PARAMS = Path("params.yaml")


@recipe.command("list")
def list_all(params: Params = PARAMS, debug: Debug = False) -> None:
    """Print the recipes that are there."""
    from mde.recipes import list_recipes

    # Wide enough for the names; a narrow terminal wraps lines, and a file gets them whole.
    console = Console(width=None if sys.stdout.isatty() else 140)
    with explained(debug):
        found, errors = list_recipes(params)
        table = Table("variant", "encoder", "data", box=None, pad_edge=False)
        for heading in ("epochs", "batch", "lr", "input"):
            table.add_column(heading, justify="right", no_wrap=True)
        for each in found:
            table.add_row(*_row(each))
        console.print(table)
        for path, error in errors.items():
            print(f"left out: {path}: {str(error).removeprefix(f'{path}: ')}", file=sys.stderr)


def _row(found: "PublishedRecipe") -> tuple[str, ...]:
    variant, (height, width) = found.variant, found.input_size
    of = variant.recipe
    epochs = " + ".join(f"≤{s.epochs}" if s.patience else str(s.epochs) for s in of.all_stages)
    size = "native" if height == "native" else f"{width}x{height}"
    numbers = (epochs, str(of.batch_size), f"{of.lr:g}", size)
    return variant.name, variant.model.encoder, variant.dataset, *numbers


@recipe.command()
def use(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `mde recipe list` has it.")],
    params: Params = PARAMS,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Of a step, over all workers; lr is not rescaled."),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="The schedule (lr_step) is not rescaled.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Sets cluster.num_workers.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the diff alone.")] = False,
    debug: Debug = False,
) -> None:
    """Put a recipe's variant and dataset into the params file, and show what changes.

    The variant of that name is replaced; a dataset that is there already keeps its `raw`.
    """
    from mde.recipes import Overrides, find_recipe, switch

    with explained(debug):
        found = find_recipe(params, name)
        switched = switch(params, found, Overrides(batch_size, epochs, workers))
        if not dry_run:
            switched.write()
    console = Console(highlight=False, soft_wrap=True)
    for line in switched.diff:
        console.print(Text(line, style="bold" if line[:3] in ("+++", "---") else _colour(line)))
    _say_next(console, switched, dry_run)


def _colour(line: str) -> str:
    return COLOURS.get(line[:1], "")


def _say_next(console: Console, switched: "Switch", dry_run: bool) -> None:
    found, params = switched.recipe, switched.params
    if not switched.diff:
        console.print(f"{params} has this recipe already.", markup=False)
    elif dry_run:
        console.print(f"\n{params} is as it was; leave out --dry-run to write it.", markup=False)
        return
    else:
        undo = f"git checkout {params} brings the sample's scale back"
        console.print(f"\n{params} is written; {undo}.", markup=False)
    missing = switched.missing_raw(Path(os.environ.get("MDE_ROOT", params.parent)))
    if missing:
        text = (
            f"Not there yet: {', '.join(missing)} (source {found.source.source}; docs/data.md says "
            f"what belongs there). If the data lie elsewhere, set datasets.{found.variant.dataset}"
            ".raw."
        )
        console.print(text, markup=False)
    console.print(f"Next: dvc repro train@{found.variant.name}", markup=False)
