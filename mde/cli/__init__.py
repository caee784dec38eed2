"""The `mde` command."""

from pathlib import Path
from typing import Annotated

import typer
from rich import progress
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from mde.cli.bench import bench
from mde.cli.compare import compare
from mde.cli.demo import demo
from mde.cli.doctor import doctor
from mde.cli.evaluate import evaluate
from mde.cli.export import export
from mde.cli.infer import predict_dataset
from mde.cli.odometry import odometry
from mde.cli.predict import predict
from mde.cli.promote import promote
from mde.cli.recipes import recipe
from mde.cli.reproduce import reproduce
from mde.cli.score import protocols, score
from mde.cli.track import track_app
from mde.errors import explained

# What fits into 80 columns; the report has all.
SHOWN = ("abs_rel", "rmse", "rmse_log", "a1")
SCALED = ("abs_rel", "rmse", "a1", "scale median", "scale spread")

app = typer.Typer(
    help="Monocular depth estimation.", no_args_is_help=True, pretty_exceptions_enable=False
)

data = typer.Typer(help="Look at a converted dataset and check it.", no_args_is_help=True)
app.add_typer(data, name="data")
app.add_typer(recipe, name="recipe")
app.add_typer(track_app, name="track")
app.command()(doctor)
app.command()(predict)
app.command("predict-dataset")(predict_dataset)
app.command()(export)
app.command()(demo)
app.command()(bench)
app.command()(compare)
app.command()(evaluate)
app.command()(odometry)
app.command()(promote)
app.command()(protocols)
app.command()(reproduce)
app.command()(score)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a converted dataset.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@app.command()
def check(params: Path = Path("params.yaml"), debug: Debug = False) -> None:
    """Check every section of a params file, before anything runs."""
    from mde.cluster.session import ClusterConfig
    from mde.config import load_params, load_section
    from mde.data.curated import load_pictures
    from mde.data.sample import SampleConfig
    from mde.data.sources import load_source_config
    from mde.promotion import PromotionConfig
    from mde.train.checkpoints import RunConfig
    from mde.variants import check_networks, load_variant

    with explained(debug):
        content = load_params(params)
        load_section(params, "sample", SampleConfig)
        load_section(params, "run", RunConfig, optional=True)
        load_section(params, "promotion", PromotionConfig, optional=True)
        load_section(params, "cluster", ClusterConfig)
        datasets = content.get("datasets") or {}
        sizes = {name: load_source_config(params, name).size for name in datasets}
        for name in datasets:
            load_pictures(params, name)
        variants = content.get("variants") or {}
        for name in progress.track(variants, description="networks", transient=True):
            variant = load_variant(params, name)
            size = variant.augment.size or sizes[variant.dataset]
            check_networks(variant, size, f"{params}: variants.{name}")
        print(f"{params} is fine")


@app.command()
def summary(root: Path = Path("."), debug: Debug = False) -> None:
    """Print the variants with their metrics, and where to look further."""
    from mde.layout import Layout
    from mde.report import read_summaries, tables
    from mde.tracking.store import shown_uri

    console, layout = Console(), Layout(root)
    with explained(debug):
        for content in tables(read_summaries(layout)):
            title = f"{content['dataset']} · {content['protocol']} · {content['images']} images"
            table = Table(title=title, title_justify="left", box=SIMPLE, pad_edge=False)
            table.add_column("variant", no_wrap=True)
            names = [name for name, *_ in content["columns"]]
            wanted = SCALED if SCALED[-1] in names else SHOWN
            shown = [i for i, name in enumerate(names) if name in wanted]
            for name, unit, higher in (content["columns"][i] for i in shown):
                heading = f"{name} ({unit})" if unit else name
                arrow = {True: " ↑", False: " ↓", None: ""}[higher]
                table.add_column(heading + arrow, justify="right")
            for row in content["rows"]:
                cells = [row["cells"][i] for i in shown]
                cells = [f"[bold]{text}[/]" if best else text for text, best in cells]
                table.add_row(row["name"], *cells, style="dim" if row["baseline"] else None)
            console.print(table)
    where = f"report:  {layout.report.resolve().as_uri()}\n"
    uri = shown_uri(root)
    if uri.startswith("sqlite:"):
        where += f"MLflow:  .venv/bin/mlflow ui --backend-store-uri {uri}"
    else:
        where += f"MLflow:  {uri}"
    console.print(where, highlight=False, soft_wrap=True)


@app.command("import-weights")
def import_published(
    fmt: Annotated[str, typer.Argument(metavar="FORMAT", help="monodepth2, fastdepth, densedepth")],
    path: Annotated[Path, typer.Argument(help="monodepth2: a folder; the others: a file.")],
    out: Annotated[Path, typer.Option(help="A new folder, which becomes a checkpoint.")],
    min_depth: Annotated[float | None, typer.Option(help="In place of the published one.")] = None,
    max_depth: Annotated[float | None, typer.Option(help="In place of the published one.")] = None,
    metres_per_unit: Annotated[
        float | None, typer.Option(help="monodepth2: depth is metric, in units of so many m.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Turn weights of a published project into a checkpoint."""
    from dataclasses import asdict

    from mde.errors import InputError
    from mde.files import file_sha256, fresh_folder
    from mde.models.weights import read_published
    from mde.provenance import Provenance
    from mde.train.checkpoint import save_model

    given = {"min_depth": min_depth, "max_depth": max_depth, "metres_per_unit": metres_per_unit}
    with explained(debug):
        if out.exists():
            raise InputError(f"{out}: is there already; give a new folder with --out")
        found = read_published(fmt, path, **{k: v for k, v in given.items() if v is not None})
        variant = {"name": f"{fmt}-{found.config.encoder}", "model": asdict(found.config)}
        provenance = Provenance.of(variant, "unknown", found.input_size)
        state = {"epoch": 0, "step": 0, **provenance.as_dict()}
        state["imported"] = {str(file): file_sha256(file) for file in found.files}
        with fresh_folder(out) as folder:
            save_model(folder, found.model, state)
        print(f"{found.describe()}\n{out}: model.safetensors, state.json")
        print(f"next: mde predict {out} IMAGE, or mde.load('{out}').predict(image) in Python")


@data.command()
def verify(
    folder: Folder,
    quick: Annotated[bool, typer.Option(help="Checksums and counts; decode nothing.")] = False,
    debug: Debug = False,
) -> None:
    """Re-check a converted dataset: its files, its manifest and every row."""
    from mde.data.verify import describe_precision, tabulate
    from mde.data.verify import verify as check_dataset

    console = Console()
    with explained(debug):
        found = check_dataset(folder, quick)
        console.print(tabulate(found))
        console.print(describe_precision(found.manifest), highlight=False, soft_wrap=True)
        found.raise_problems()
        print(f"{folder} is fine" + (" as far as --quick looks" if quick else ""))


@data.command()
def show(
    folder: Folder,
    n: Annotated[int, typer.Option("--n", min=1, help="Number of rows.")] = 12,
    split: Annotated[str | None, typer.Option(help="Rows of this split only.")] = None,
    ids: Annotated[str | None, typer.Option(help="These instead: sample_ids, with commas.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Draws other rows.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Default: <name of DIR>-contact.png")] = None,
    debug: Debug = False,
) -> None:
    """Draw some rows of a converted dataset as a contact sheet, a PNG."""
    from mde.contact_sheet import draw_sheet, save_sheet
    from mde.data.pick import find_rows, pick_rows
    from mde.data.verify import open_dataset

    name = folder.resolve().name
    out = out or Path(f"{name}-contact.png")
    with explained(debug):
        manifest = open_dataset(folder)
        if ids:
            rows = find_rows(folder, manifest, ids.split(","))
        else:
            rows = pick_rows(folder, manifest, n, split, seed)
        save_sheet(draw_sheet(name, manifest, rows), out)
        print(f"{out.resolve()} ({len(rows)} of {sum(manifest.counts.values())} rows)")
