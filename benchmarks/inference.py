"""The two goals of inference: how many times as fast as plain float32 torch, and how accurate.

    python -m benchmarks.inference                      # untrained networks: speed alone
    python -m benchmarks.inference --checkpoints FASTDEPTH MONODEPTH2 --images DATASET

Batch 1 on the CPU, all modes of `mde bench` in turns. A mode reaches the goal of reduced precision
only with its loss of abs_rel, which is measured while a trained checkpoint is exported to int8.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.timing import describe_machine
from mde.bench import (
    Benchmark,
    Group,
    Pace,
    Plan,
    Result,
    as_content,
    as_table,
    bench,
    find_model,
    pick_modes,
)
from mde.files import write_json

RESULTS = Path("benchmarks/results/inference.json")
CASES = {"fastdepth:mobilenet_v1": (224, 224), "monodepth2:resnet18": (192, 640)}
FULL, REDUCED, MOST_LOSS = 1.4, 3.0, 0.01


def is_reduced(one: Result) -> bool:
    """Whether a mode computes in bf16 or int8."""
    mode = one.side.mode
    return mode.precision != "fp32" or mode.options.get("precision", "fp32") != "fp32"


def abs_rel_loss(group: Group, one: Result) -> float | None:
    """Relative, where the export has measured it against ground truth."""
    loss = group.loss_of(one)
    return None if loss is None or loss.reference is None else loss.value


def judge(group: Group) -> list[dict[str, Any]]:
    """The fastest mode in float32 and the fastest in reduced precision against their goals."""
    measured = [one for one in group.results[1:] if one.ratio is not None]
    goals = []
    for name, target, reduced in (("float32", FULL, False), ("bf16 or int8", REDUCED, True)):
        of_kind = [one for one in measured if is_reduced(one) == reduced]
        if not of_kind:
            continue
        best = max(of_kind, key=lambda one: one.ratio or 0)
        loss = abs_rel_loss(group, best) if reduced else 0.0
        fast = (best.ratio or 0) >= target
        goals.append(
            {
                "model": group.model.label,
                "size": list(group.size),
                "goal": name,
                "mode": best.side.mode.name,
                "ratio": best.ratio,
                "target": target,
                "abs_rel_loss": loss,
                "met": fast and loss is not None and loss < MOST_LOSS,
            }
        )
    return goals


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, keep and print."""
    args = parse(arguments)
    console = Console()
    modes = pick_modes(args.modes.split(",") if args.modes else None, "cpu", args.compile)
    pace = Pace(args.runs, args.seconds)
    groups: list[Group] = []
    with tempfile.TemporaryDirectory() as folder:
        for source, size in zip(args.checkpoints or CASES, CASES.values(), strict=True):
            model = find_model(args.root, source, Path(folder) / str(len(groups)))
            plan = Plan(
                modes, [tuple(args.size or size)], "cpu", args.threads, args.images, pace, args.root
            )
            console.print(f"{model.label} at {plan.sizes[0]}", highlight=False)
            groups += bench([model], plan, lambda text, share: None).groups
    whole = Benchmark(plan, groups)
    console.print(as_table(whole), highlight=False)
    goals = [goal for group in groups for goal in judge(group)]
    for goal in goals:
        console.print(in_words(goal), highlight=False)
    write_json(args.out, {"goals": goals, **as_content(whole), "machine": describe_machine()})
    console.print(f"all runs: {args.out}")


def in_words(goal: dict[str, Any]) -> str:
    """One line of a goal."""
    loss = goal["abs_rel_loss"]
    said = "abs_rel not measured" if loss is None else f"abs_rel {100 * loss:+.2f} %"
    if goal["goal"] == "float32":
        said = "the same arithmetic"
    return (
        f"{goal['model']}, {goal['goal']}: {goal['ratio']:.2f}x with {goal['mode']}, "
        f"goal {goal['target']}x; {said}: {'met' if goal['met'] else 'not met'}"
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument(
        "--checkpoints", nargs=len(CASES), metavar=("FASTDEPTH", "MONODEPTH2"),
        help="trained ones, for int8's loss of abs_rel; as `mde bench` takes them",
    )  # fmt: skip
    parser.add_argument("--images", type=Path, help="a dataset or photographs, for int8")
    parser.add_argument("--root", type=Path, default=Path(), help="folder of models and data")
    parser.add_argument("--modes", help="some alone, beside eager")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="of both")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=240, help="for each model")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
