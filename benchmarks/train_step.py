"""Speed of a whole training step, each option against plain eager float32. Needs torch alone.

`python -m benchmarks.train_step --help`. A step is what training makes: forward, loss, backward,
optimizer, on one made batch. The option and the plain side have equal weights and take turns,
A B A B, in one process; what counts is their ratio. The loss of their first steps is compared too.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import devices
from benchmarks.cases import CASES, Case, build_case_objective, make_batch
from mde.files import read_json, write_json
from mde.train.context import LocalContext
from mde.train.recipe import Recipe
from mde.train.step import Stepper

RESULTS = Path("benchmarks/results/train_step.json")
CPU_BATCH = 2
STEPS_PER_EPOCH = 1000
# The side that all are compared with; compared with itself it shows the noise.
PLAIN: dict[str, Any] = {"fused": False}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "channels_last": {"channels_last": True},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "compile": {"compile": True},
    "fused": {"fused": True},
    "accumulate=2": {"accumulate": 2},
    "channels_last+bf16": {"channels_last": True, "precision": "bf16"},
    "channels_last+bf16+compile": {"channels_last": True, "precision": "bf16", "compile": True},
}
ONLY_ON_GPU = ("fp16",)


class Side:
    """One way to make a training step: the engine's own objective, recipe and `Stepper`."""

    def __init__(self, case: Case, options: dict[str, Any], device: torch.device) -> None:
        torch.manual_seed(0)
        recipe = Recipe(1, case.batch, optimizer=case.optimizer, **{**PLAIN, **options})
        self.case, self.device, self.count = case, device, 0
        self.objective = build_case_objective(case).to(device)
        if recipe.channels_last:
            self.objective.to(memory_format=torch.channels_last)
        self.objective.start_stage(case.stage.train, case.stage.output)
        context = LocalContext(Path(tempfile.gettempdir()), device.type)
        self.stepper = Stepper(self.objective, recipe, case.stage, context)
        self.batch = make_batch(case, device)

    def step(self) -> torch.Tensor:
        """Make the next step; returns its loss."""
        number, self.count = self.count, self.count + 1
        return self.stepper.step(self.batch, 1.0, number, STEPS_PER_EPOCH)["loss"]

    def start(self, warm_up: int) -> dict[str, Any]:
        """The first steps: the losses of two, and the time of the first, which may compile."""
        begin, losses = time.perf_counter(), []
        for number in range(2):
            torch.manual_seed(number)
            losses.append(self.step().item())
            if number == 0:
                first_step_s = time.perf_counter() - begin
        devices.free_memory(self.device)
        for _ in range(max(1, warm_up - 2)):
            self.step()
        devices.synchronise(self.device)
        return {
            "losses": losses, "first_step_s": first_step_s, **devices.gpu_peaks_mib(self.device)
        }  # fmt: skip


def measure(
    case: Case, option: str, device: torch.device, rounds: int, steps: int, warm_up: int
) -> dict[str, Any]:
    """One option against plain; `steps` steps of each in every round."""
    devices.free_memory(device)
    side = Side(case, OPTIONS[option], device)
    # Before the other side is there, so that the memory is this one's alone.
    start = side.start(warm_up)
    plain = Side(case, {}, device)
    plain_start = plain.start(warm_up)
    runs: dict[str, list[float]] = {"plain": [], "option": []}
    for _ in range(rounds):
        runs["plain"].append(devices.time_calls(plain.step, steps, device))
        runs["option"].append(devices.time_calls(side.step, steps, device))
    pairs = zip(runs["plain"], runs["option"], strict=True)
    differences = [
        abs(ours - theirs) / abs(theirs)
        for ours, theirs in zip(start["losses"], plain_start["losses"], strict=True)
    ]
    return {
        "images_per_s": case.batch / statistics.median(runs["option"]),
        "plain_images_per_s": case.batch / statistics.median(runs["plain"]),
        "ratio": statistics.median(a / b for a, b in pairs),
        "loss_difference": differences[0],
        "loss_difference_after_update": differences[1],
        **start,
        "plain_losses": plain_start["losses"],
        "plain_first_step_s": plain_start["first_step_s"],
        "seconds_per_step": runs,
    }


def measure_model(
    name: str, options: list[str], device: torch.device, args: argparse.Namespace
) -> dict[str, Any]:
    """The options of one model; one that fails leaves its reason instead of numbers."""
    published = CASES[name]
    on_gpu = device.type == "cuda"
    num = args.batch or (published.batch if on_gpu else CPU_BATCH)
    case = replace(published, batch=num, size=tuple(args.size or published.size))
    steps, warm_up = args.steps or (10 if on_gpu else 1), args.warm_up or (10 if on_gpu else 3)
    settings = {
        "model": name, "batch": num, "size": list(case.size), "rounds": args.runs, "steps": steps,
        "warm_up": warm_up, "objective": asdict(case.objective), "optimizer": case.optimizer,
        "train": list(case.stage.train), "output": case.stage.output,
    }  # fmt: skip
    found: dict[str, Any] = {}
    for option in options:
        if "compile" in OPTIONS[option]:
            torch.compiler.reset()
        try:
            measured = measure(case, option, device, args.runs, steps, warm_up)
        except (RuntimeError, FloatingPointError, ImportError) as error:
            measured = {"failed": f"{type(error).__name__}: {error}"[:500]}
        print(
            f"  {option}: " + measured.get("failed", f"{measured.get('ratio', 0):.2f}x"), flush=True
        )
        # Written at once, so that nothing is lost when a later option is killed.
        found = keep(args.out, settings, device, {option: measured})
    return found


def keep(
    path: Path, settings: dict[str, Any], device: torch.device, options: dict[str, Any]
) -> dict[str, Any]:
    """Write options beside those of other models and devices, and others of the same settings."""
    key = f"{settings['model']} on {devices.device_name(device)}"
    results = read_json(path) if path.is_file() else {}
    former = results.get(key, {})
    same = former.get("settings") == settings
    found = {
        "options": {**(former["options"] if same else {}), **options},
        "settings": settings, "machine": devices.describe_machine(device),
        "measured_at": devices.now(),
    }  # fmt: skip
    write_json(path, {**results, key: found})
    return found


def tabulate(found: dict[str, Any], markdown: bool = False) -> str:
    """Ratios, rates, memory and the loss of every option."""
    headings = (
        "option", "x plain", "images/s", "plain images/s", "first step s", "allocated MiB",
        "reserved MiB", "loss differs by", "after an update",
    )  # fmt: skip
    rows = []
    for option, values in found.items():
        if "failed" in values:
            rows.append([option, "failed", *[""] * 7])
            continue
        rows.append([
            option, f"{values['ratio']:.2f}", f"{values['images_per_s']:.2f}",
            f"{values['plain_images_per_s']:.2f}", f"{values['first_step_s']:.2f}",
            devices.show(values["allocated_mib"], 0), devices.show(values["reserved_mib"], 0),
            f"{values['loss_difference']:.1e}", f"{values['loss_difference_after_update']:.1e}",
        ])  # fmt: skip
    return devices.format_table(headings, rows, markdown)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, keep and print; results of other models, devices and options in the file stay."""
    args = parse(arguments)
    device = devices.pick_device(args.device)
    options = [o for o in args.only if device.type == "cuda" or o not in ONLY_ON_GPU]
    name = devices.device_name(device)
    print(f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for model in CASES if args.model == "all" else [args.model]:
        print(model, flush=True)
        found = measure_model(model, options, device, args)
        machine, num = found["machine"], found["settings"]["batch"]
        print(f"batch {num}, {found['settings']['size']} (H, W); TF32 of convolutions: "
              f"{machine['tf32_convolutions']}, of matrix products: "
              f"{machine['tf32_matrix_products']}")  # fmt: skip
        print(tabulate(found["options"], args.markdown))
    print(f"all runs: {args.out}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=[*CASES, "all"], default="monodepth2-resnet18")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--batch", type=int, help=f"as published; {CPU_BATCH} on a CPU")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="as published")
    parser.add_argument("--runs", type=int, default=5, help="rounds of plain and option")
    parser.add_argument("--steps", type=int, help="in a round, of each; 10 on a GPU, else 1")
    parser.add_argument("--warm-up", type=int, help="steps that are not timed; 10 on a GPU, else 3")
    parser.add_argument("--only", default=",".join(OPTIONS), help="options, with commas")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(arguments)
    args.only = args.only.split(",")
    if unknown := set(args.only) - set(OPTIONS):
        parser.error(f"no option {', '.join(sorted(unknown))}; options: {', '.join(OPTIONS)}")
    return args


if __name__ == "__main__":
    main()
