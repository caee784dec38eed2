"""The commands `mde score` and `mde protocols`: numbers of anyone's predictions."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape

from mde.errors import explained

if TYPE_CHECKING:
    from mde.protocols import Protocol
    from mde.score import Score

# Written out: to ask `mde.protocols` would load torch before any command.
PROTOCOL_NAMES = (
    "kitti_eigen_mono", "kitti_eigen_mono_pp", "kitti_eigen_stereo", "kitti_eigen_stereo_pp",
    "kitti_benchmark", "kitti_benchmark_stereo", "kitti_eigen_supervised", "nyu_labeled",
    "nyu_eigen", "nyu_eigen_median", "nyu_densedepth", "nyu_densedepth_pooled", "nyu_fastdepth",
)  # fmt: skip
SKIPPED_SHOWN = 5

Scale = Annotated[
    float | None, typer.Option(min=1e-6, help="Codes per metre of PNGs. Default: the protocol's.")
]
SideScale = Annotated[float | None, typer.Option(min=1e-6, help="The same, of one side alone.")]
Key = Annotated[str | None, typer.Option(help="Name of the array in an .npz.")]
SideKey = Annotated[str | None, typer.Option(help="The same, of one side alone.")]


def score(
    pred: Annotated[
        Path,
        typer.Argument(help=".npy or .npz; a folder of .npy or .png, or of mde predict-dataset."),
    ],
    gt: Annotated[
        Path, typer.Argument(help="Ground truth in m: the same kinds, or a converted dataset.")
    ],
    protocol: Annotated[
        str, typer.Option(help=f"What `mde protocols` explains: {', '.join(PROTOCOL_NAMES)}.")
    ],
    kind: Annotated[
        Literal["auto", "depth", "disparity"],
        typer.Option(help="Of the predictions; auto: disparity if PRED has 'disp' in its name."),
    ] = "auto",
    metres_per_unit: Annotated[
        float | None,
        typer.Option(min=1e-9, help="Factor on predicted depths. Default: the protocol's."),
    ] = None,
    flipped: Annotated[
        Path | None,
        typer.Option(help="Predictions for the mirrored images, not mirrored back, to be joined."),
    ] = None,
    by_order: Annotated[
        bool, typer.Option("--by-order", help="Pair a stack with the sorted names of a folder.")
    ] = False,
    png_scale: Scale = None,
    pred_png_scale: SideScale = None,
    gt_png_scale: SideScale = None,
    key: Key = None,
    pred_key: SideKey = None,
    gt_key: SideKey = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder. Default: score-<name of PRED>-<protocol>.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Score anyone's predictions with a published protocol; print and save the table."""
    from mde.protocols import find_protocol
    from mde.score import Submission, guess_kind
    from mde.score import score as compare
    from mde.score.map_files import Reading, open_maps
    from mde.score.tables import check_out, write_score

    with explained(debug):
        rules = find_protocol(protocol)
        out = out or Path(f"score-{pred.resolve().stem}-{rules.name}")
        check_out(out)
        usual = rules.depth_png_scale
        how = Reading(usual, pred_key or key, pred_png_scale or png_scale)
        submission = Submission(
            open_maps(pred, how),
            guess_kind(pred) if kind == "auto" else kind,
            open_maps(flipped, how) if flipped else None,
            metres_per_unit,
        )
        targets = open_maps(gt, Reading(usual, gt_key or key, gt_png_scale or png_scale))
        result = compare(submission, targets, rules, by_order)
        write_score(out, result, rules)
    if as_json:
        print(json.dumps(result.summary, indent=2))
    else:
        _show(result, rules, out)


def _show(result: "Score", protocol: "Protocol", out: Path) -> None:
    from mde.protocol_words import describe
    from mde.score import worst
    from mde.score.tables import metric_table, scale_text

    console, summary = Console(highlight=False), result.summary
    console.print(f"[bold]{protocol.id}[/] · {escape(summary['predictions'])}")
    definition = (f"{name}: {text}" for name, text in describe(protocol).items())
    console.print(f"[dim]{' · '.join(definition)}[/]")
    for role, source in summary["inputs"].items():
        console.print(f"{role}: {escape(source['path'])}, {source['read']}", soft_wrap=True)
    joined = "" if summary["flip"] == "as given" else f"; joined with the mirrored: {protocol.flip}"
    console.print(
        f"taken as: {summary['kind']}; {summary['metres_per_unit']:g} m per unit{joined}\n"
    )
    console.print(metric_table(summary, protocol))
    unused, skipped = summary["unused_predictions"], summary["skipped"]
    console.print(
        f"\n{summary['images']} images · {len(skipped)} skipped · {summary['clipped']:.2%} of the "
        "pixels clipped" + (f" · {len(unused)} predictions without ground truth" * bool(unused))
    )
    if "scale" in summary:
        console.print(f"scale ratio: median {scale_text(summary['scale'])}")
    names = (f"{escape(name)} ({value:.3f})" for name, value in worst(result.per_image))
    console.print(f"worst abs_rel: {', '.join(names)}", soft_wrap=True)
    for name, reason in skipped[:SKIPPED_SHOWN]:
        console.print(f"skipped: {escape(name)}: {reason}", soft_wrap=True)
    if len(skipped) > SKIPPED_SHOWN:
        console.print(f"and {len(skipped) - SKIPPED_SHOWN} more, see metrics.json")
    console.print(f"{out}: metrics.json, per_image.parquet, table.csv, table.md", soft_wrap=True)


def protocols() -> None:
    """List the evaluation protocols, and what each fixes."""
    from mde.score.tables import protocol_table

    Console(highlight=False).print(protocol_table())
