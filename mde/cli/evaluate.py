"""`mde evaluate`: score a checkpoint on a dataset with any protocol."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mde.errors import explained


def evaluate(
    model: Annotated[
        str, typer.Argument(help="A checkpoint folder, a variant, models:/… or runs:/…")
    ],
    data: Annotated[str, typer.Argument(help="A converted dataset: a folder, or its URI.")],
    protocol: Annotated[str, typer.Option(help="A name; `mde protocols` lists them.")],
    out: Annotated[Path, typer.Option(help="A new folder for numbers, tables and pictures.")],
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    root: Annotated[Path, typer.Option(envvar="MDE_ROOT", help="Folder of models.")] = Path("."),
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback.")] = False,
) -> None:
    """Score a model, and two baselines, on a split of a dataset."""
    from mde.data.place import resolve
    from mde.errors import InputError
    from mde.evaluate import evaluate as score_checkpoint
    from mde.evaluate import write_evaluation
    from mde.files import fresh_folder
    from mde.model_source import checkpoint_of
    from mde.protocols import find_protocol

    with explained(debug):
        chosen = find_protocol(protocol)
        if out.exists():
            raise InputError(f"{out}: is there already; give a new folder with --out")
        with checkpoint_of(model, root) as checkpoint:
            evaluation = score_checkpoint(checkpoint, resolve(data), chosen, split=split)
        with fresh_folder(out) as folder:
            write_evaluation(folder, evaluation)
        console, summary = Console(), evaluation.summary
        skipped = len(summary["skipped"])
        console.print(f"{summary['protocol']}: {summary['images']} images, {skipped} skipped")
        for name, value in summary["metrics"].items():
            console.print(f"  {name:32} {'–' if value is None else f'{value:.4f}'}")
        if scale := summary.get("scale"):
            console.print(
                f"  scale ratio: median {scale['median']:.4f}, spread {scale['spread']:.4f}"
            )
        console.print(str(out), soft_wrap=True)
