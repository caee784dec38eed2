"""Encoders in decoders: parameters, MACs, memory, latency and accuracy. Needs torch alone.

`python -m benchmarks.encoders --help`. Memory is measured in fresh processes,
inference and training apart. For latency the cells take turns in one process, A B C A B C, run by
run, and each is compared with its family's first encoder. Accuracy is that of evaluated variants.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import devices
from benchmarks.cases import FAMILIES, Case, model_config
from benchmarks.train_step import Side
from mde.files import read_json, write_json
from mde.models import build_model

RESULTS = Path("benchmarks/results/encoders.json")
CPU_BATCH = 2
WARM_UP = 10
# All that a cell imports, but not this program itself.
PRELOAD = "benchmarks.train_step"


def count(case: Case) -> dict[str, float]:
    """Parameters of the depth network, and MACs of one image; nothing is computed.

    MACs: of convolutions and matrix products, half of what torch's FlopCounterMode counts on meta
    tensors; norms, activations and resizing are not in it.
    """
    with torch.device("meta"):
        model = build_model(model_config(case)).eval()
        image = torch.empty(1, 3, *case.size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    params = list(model.parameters())
    return {
        "params": sum(p.numel() for p in params),
        "trainable": sum(p.numel() for p in params if p.requires_grad),
        "macs": counter.get_total_flops() / 2,
    }


def measure_inference(case: Case, device_name: str) -> dict[str, float | None]:
    """Memory of image → depth at batch 1; run it in a fresh process."""
    device = devices.pick_device(device_name)
    before = devices.resident_mib()
    devices.free_memory(device)
    predict = predictor(case, device)
    for _ in range(3):
        predict()
    return peaks(device, before)


def predictor(case: Case, device: torch.device) -> Callable[[], torch.Tensor]:
    """What turns one image, already on the device, into its depth."""
    model = build_model(model_config(case)).to(device).eval()
    image = torch.rand(1, 3, *case.size, device=device)
    return torch.inference_mode()(lambda: model.predict_depth(image))


def measure_training(case: Case, device_name: str) -> dict[str, float | None]:
    """Memory of whole training steps at the case's batch; run it in a fresh process."""
    device = devices.pick_device(device_name)
    before = devices.resident_mib()
    devices.free_memory(device)
    # The optimizer's state comes with the first step, so the second is the highest.
    side = Side(case, {"fused": True}, device)
    for _ in range(2):
        side.step()
    return peaks(device, before)


def peaks(device: torch.device, before: float | None) -> dict[str, float | None]:
    """Peak memory of this process, MiB; see `benchmarks.devices`."""
    peak = devices.resident_mib("VmHWM") if device.type == "cpu" else None
    above = None if peak is None or before is None else peak - before
    return {
        **devices.gpu_peaks_mib(device), "resident_mib": above
    }  # fmt: skip


def measure_memory(cases: dict[str, Case], batch: int, device: str) -> dict[str, Any]:
    """Of all cells; one that fails, such as for want of memory, leaves its reason."""
    found: dict[str, Any] = {}
    for name, case in cases.items():
        try:
            found[name] = {
                "training": devices.alone(
                    PRELOAD, measure_training, replace(case, batch=batch), device
                ),
                "inference": devices.alone(PRELOAD, measure_inference, case, device),
            }
        except RuntimeError as error:
            found[name] = {"failed": f"{type(error).__name__}: {error}"[:500]}
        print(f"  memory: {name}: " + found[name].get("failed", "measured"), flush=True)
    return found


def measure_latency(cases: dict[str, Case], runs: int, device: torch.device) -> dict[str, Any]:
    """Seconds of every run of all cells, which take turns."""
    predictors = {name: predictor(case, device) for name, case in cases.items()}
    for predict in predictors.values():
        devices.time_calls(predict, WARM_UP, device)
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(runs):
        for name, predict in predictors.items():
            seconds[name].append(devices.time_calls(predict, 1, device))
    return {name: {"latency_s": values} for name, values in summarise(seconds).items()}


def summarise(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Median, p95, and the median ratio to the family's first encoder in the same turn."""
    found, firsts = {}, dict[str, list[float]]()
    for name, runs in seconds.items():
        first = firsts.setdefault(name.split(" + ")[0], runs)
        found[name] = {
            "median": statistics.median(runs),
            "p95": devices.percentile(runs, 0.95),
            "ratio": statistics.median(a / b for a, b in zip(runs, first, strict=True)),
            "runs": runs,
        }
    return found


def read_accuracy(folder: Path | None) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Family, encoder, downsampling → metrics of the evaluated variants by name.

    folder: `results/` of a project; the variants' networks stand in `models/` beside it.
    """
    found: dict[tuple[str, str, int], dict[str, Any]] = {}
    for path in sorted(folder.glob("*/metrics.json")) if folder else []:
        state = path.parents[2] / "models" / path.parent.name / "checkpoint/state.json"
        if not state.is_file():
            continue
        model = json.loads(state.read_text())["variant"]["model"]
        summary = json.loads(path.read_text())
        key = model["family"], model["encoder"], model.get("downsample", 1)
        found.setdefault(key, {})[path.parent.name] = {
            "abs_rel": summary["metrics"]["abs_rel"],
            "protocol": summary["protocol"],
            "dataset": summary["dataset"],
        }
    return found


def tabulate(found: dict[str, Any], on_gpu: bool, markdown: bool) -> str:
    """One line a cell; memory in MiB, latency in ms."""
    kinds = ("allocated", "reserved") if on_gpu else ("resident",)
    headings = ["decoder + encoder", "M params", "M trainable", "GMACs"]
    headings += [f"{part} {kind} MiB" for part in ("training", "inference") for kind in kinds]
    headings += ["ms median", "ms p95", "x first", "abs_rel"]
    rows = []
    for name, cell in found.items():
        row = [name, f"{cell['params'] / 1e6:.2f}", f"{cell['trainable'] / 1e6:.2f}"]
        row.append(f"{cell['macs'] / 1e9:.2f}")
        for part in ("training", "inference"):
            row += [devices.show(cell.get(part, {}).get(f"{kind}_mib"), 0) for kind in kinds]
        latency = cell.get("latency_s", {})
        row += [devices.show(1e3 * latency[key] if latency else None) for key in ("median", "p95")]
        scores = [f"{v['abs_rel']:.3f} ({n})" for n, v in cell["accuracy"].items()]
        rows.append([*row, devices.show(latency.get("ratio"), 2), "; ".join(scores) or "–"])
    return devices.format_table(headings, rows, markdown)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, keep and print; other devices, cells and parts in the file stay."""
    args = parse(arguments)
    device = devices.pick_device(args.device)
    args.batch_train = args.batch_train or (8 if device.type == "cuda" else CPU_BATCH)
    cases, accuracy = cells(args), read_accuracy(args.results)
    name = devices.device_name(device)
    print(f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads", flush=True)
    settings = {
        "batch_train": args.batch_train, "runs": args.runs, "warm_up": WARM_UP,
        "sizes": {family: list(args.size or FAMILIES[family].size) for family in args.families},
    }  # fmt: skip
    parts: dict[str, Any] = {}
    if "memory" in args.only:
        parts["memory"] = measure_memory(cases, args.batch_train, device.type)
    if "latency" in args.only:
        parts["latency"] = measure_latency(cases, args.runs, device)
    results = read_json(args.out) if args.out.is_file() else {}
    former = results.get(name, {})
    kept = former["cells"] if former.get("settings") == settings else {}
    found: dict[str, Any] = {}
    for cell, case in cases.items():
        key = case.family, case.encoder, case.settings.get("downsample", 1)
        found[cell] = {**kept.get(cell, {}), **count(case), "accuracy": accuracy.get(key, {})}
        for measured in parts.values():
            found[cell].update(measured[cell])
    results[name] = {
        "cells": {**kept, **found}, "settings": settings,
        "machine": devices.describe_machine(device), "measured_at": devices.now(),
    }  # fmt: skip
    write_json(args.out, results)
    print(f"training at batch {args.batch_train}, inference at batch 1")
    print(tabulate(found, device.type == "cuda", args.markdown))
    print(f"all runs: {args.out}")


def cells(args: argparse.Namespace) -> dict[str, Case]:
    """The decoders and encoders asked for; eigen has an encoder of its own alone."""
    return {
        f"{family} + {encoder}": replace(
            FAMILIES[family], encoder=encoder, size=tuple(args.size or FAMILIES[family].size)
        )
        for family in args.families
        for encoder in ([FAMILIES[family].encoder] if family == "eigen" else args.encoders)
    }


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoders", default="resnet18,densenet121", help="timm:<name> too")
    parser.add_argument("--families", default="monodepth2", help=", ".join(FAMILIES))
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="as published")
    parser.add_argument("--batch-train", type=int, help=f"8; {CPU_BATCH} on a CPU")
    parser.add_argument("--runs", type=int, default=100, help="timed, of every cell")
    parser.add_argument("--only", default="memory,latency", help="parts to measure")
    parser.add_argument("--results", type=Path, help="folder of evaluated variants, for abs_rel")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(arguments)
    args.encoders, args.families = args.encoders.split(","), args.families.split(",")
    if unknown := set(args.families) - set(FAMILIES):
        parser.error(f"no family {', '.join(sorted(unknown))}; families: {', '.join(FAMILIES)}")
    return args


if __name__ == "__main__":
    main()
