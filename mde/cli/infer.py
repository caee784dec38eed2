"""The `mde predict-dataset` command: a model's depths of a whole split."""

from pathlib import Path
from typing import Annotated

import typer

from mde.errors import explained


def predict_dataset(
    model: Annotated[
        str, typer.Argument(help="A checkpoint folder, a variant, models:/… or runs:/…")
    ],
    data: Annotated[str, typer.Argument(help="A converted dataset: a folder, or a URI.")],
    out: Annotated[Path, typer.Option(help="A new folder, for Parquet shards and a manifest.")],
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    params: Annotated[
        Path, typer.Option(help="The params file; its section cluster says how many actors.")
    ] = Path("params.yaml"),
    root: Annotated[Path, typer.Option(envvar="MDE_ROOT", help="Folder of models.")] = Path("."),
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Predict the depth of every image of a split, on all nodes of the Ray cluster."""
    from mde.cluster.inference import ActorPool
    from mde.cluster.session import ClusterConfig
    from mde.config import load_section
    from mde.data.place import resolve
    from mde.model_source import checkpoint_of
    from mde.predictions import predict_split

    with explained(debug):
        pool = ActorPool(load_section(params, "cluster", ClusterConfig))
        place = resolve(data)
        # Ray's workers may stand in another folder.
        place = place.resolve() if isinstance(place, Path) else place
        # All nodes see the root folder.
        with checkpoint_of(model, root, downloads=root) as folder:
            found = predict_split(folder.resolve(), place, split, out.resolve(), pool)
        unit = "m" if found.is_metric else "units that are right up to one factor an image"
        print(f"{out}: {found.rows} depths in {len(found.shards)} shards, in {unit}")
        print(f"next: mde.predictions.read_predictions(Path('{out}')) gives them back")
