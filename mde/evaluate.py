"""Score a checkpoint, and two baselines on the same images, with a protocol."""

import csv
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from typing import Protocol as Interface

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor

from mde.config import parse_section
from mde.data.codecs import decode_depth, decode_image
from mde.data.shards import read_manifest, read_rows
from mde.errors import InputError
from mde.files import write_json
from mde.metrics import mean_over_images
from mde.models import DepthModel, ModelConfig, build_model
from mde.protocols import Protocol
from mde.schema import Row
from mde.train.checkpoint import load_model, read_state
from mde.variants import from_dict
from mde.visualize import draw_panel, figure_to_png


@dataclass(frozen=True)
class Scored:
    """One test image as a panel shows it. image (H,W,3) uint8; depths (h,w) m, target 0 = none."""

    sample_id: str
    image: NDArray[np.uint8]
    pred: NDArray[np.float32]
    target: NDArray[np.float32]
    metrics: dict[str, float]


class Predictor(Interface):
    """Image and ground-truth size → depth (h,w) in m."""

    def __call__(self, image: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
        """image: (H,W,3) uint8 RGB."""
        ...


def load_depth_model(folder: Path) -> tuple[DepthModel, dict[str, Any]]:
    """Rebuild the depth model of a checkpoint, trained or imported, in eval mode; also its state.

    Raises InputError when the folder is not a whole checkpoint.
    """
    state = read_state(folder)
    # Weights come from the checkpoint: nothing is downloaded.
    content = state["variant"]["model"] | {"weights": "scratch"}
    config = parse_section(folder / "state.json", "variant.model", content, ModelConfig)
    model = build_model(config)
    load_model(folder, model)
    return model.eval(), state


class ModelPredictor:
    """A depth model's prediction at the ground truth's size."""

    def __init__(self, model: DepthModel) -> None:
        self.model = model

    @torch.inference_mode()
    def __call__(self, image: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
        """Depth in the model's range."""
        tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        return self.model.predict_depth(tensor, size)[0, 0]


class ConstantDepth:
    """Baseline: one depth for every pixel of every image."""

    def __init__(self, depth: float) -> None:
        self.depth = depth

    def __call__(self, image: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
        """The constant."""
        return torch.full(size, self.depth)


class RandomDepth:
    """Baseline: uniform in the depth range, for each pixel."""

    def __init__(self, low: float, high: float, seed: int = 0) -> None:
        self.low, self.high = low, high
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, image: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
        """Noise."""
        noise = torch.rand(size, generator=self.generator)
        return self.low + (self.high - self.low) * noise


def baselines(data: Path, protocol: Protocol) -> dict[str, Predictor]:
    """The two baselines: the training split's mean depth, and random within its depth range.

    Where training rows have no depth, as in self-supervised datasets, it is the val split's.
    """
    of_split = read_manifest(data).statistics
    statistics = next((of_split[s] for s in ("train", "val") if "depth_mean" in of_split[s]), None)
    if statistics is None:
        raise InputError(f"{data}: neither train nor val has depth to take the mean of")
    low, high = statistics["depth_min"], min(statistics["depth_max"], protocol.max_depth)
    return {
        "constant": ConstantDepth(statistics["depth_mean"]),
        "random": RandomDepth(low, high),
    }


def score(
    predict: Predictor, rows: Iterable[Row], protocol: Protocol
) -> Iterator[Scored | tuple[str, str]]:
    """Score each row; one without a usable ground truth gives (sample_id, reason) instead."""
    for row in rows:
        if row["gt_depth"] is None:
            yield row["sample_id"], "no ground truth"
            continue
        size = row["gt_height"], row["gt_width"]
        target = decode_depth(row["gt_depth"], *size, row["depth_scale"])
        if not protocol.valid_mask(torch.from_numpy(target)).any():
            yield row["sample_id"], f"no pixel that {protocol.id} counts"
            continue
        image = decode_image(row["image"])
        pred = predict(image, size)
        metrics = protocol.compare(pred, torch.from_numpy(target))
        yield Scored(row["sample_id"], image, pred.numpy(), target, metrics)


@dataclass(frozen=True)
class Evaluation:
    """Results of one variant. summary is what `metrics.json` holds."""

    summary: dict[str, Any]
    per_image: list[dict[str, Any]]
    panels: list[Scored]
    max_depth: float


def evaluate(
    checkpoint: Path, data: Path, protocol: Protocol, split: str = "test", num_panels: int = 6
) -> Evaluation:
    """Score a checkpoint and the baselines on a split of a dataset with one protocol.

    Raises InputError when the split has no image with ground truth.
    """
    model, state = load_depth_model(checkpoint)
    variant = from_dict(state["variant"], checkpoint / "state.json")
    rows = list(read_rows(data, split))
    started = time.perf_counter()
    steps = track(rows, description=f"evaluate {variant.name}", transient=False)
    results = list(score(ModelPredictor(model), steps, protocol))
    seconds = time.perf_counter() - started
    scored = [result for result in results if isinstance(result, Scored)]
    if not scored:
        raise InputError(f"{data}: no image of the {split} split has ground truth to score against")
    compared = {
        name: [r.metrics for r in score(predict, rows, protocol) if isinstance(r, Scored)]
        for name, predict in baselines(data, protocol).items()
    }
    summary = {
        "variant": variant.name,
        "dataset": variant.dataset,
        "split": split,
        "protocol": protocol.id,
        "images": len(scored),
        "skipped": [result for result in results if not isinstance(result, Scored)],
        "data_sha256": state["data_sha256"],
        "metrics": mean_over_images([result.metrics for result in scored]),
        "baselines": {name: mean_over_images(values) for name, values in compared.items()},
        "images_per_s": len(scored) / seconds,
    }
    per_image = [{"sample_id": result.sample_id, **result.metrics} for result in scored]
    chosen = np.linspace(0, len(scored) - 1, min(num_panels, len(scored))).round().astype(int)
    return Evaluation(summary, per_image, [scored[i] for i in chosen], protocol.max_depth)


def write_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Write `metrics.json`, `per_image.csv` and `panels/*.png` into a folder."""
    write_json(folder / "metrics.json", evaluation.summary)
    with (folder / "per_image.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, evaluation.per_image[0].keys())
        writer.writeheader()
        writer.writerows(evaluation.per_image)
    (folder / "panels").mkdir()
    for number, scored in enumerate(evaluation.panels):
        title = f"{scored.sample_id}\nabs_rel {scored.metrics['abs_rel']:.3f}"
        panel = draw_panel(scored.image, scored.target, scored.pred, evaluation.max_depth, title)
        (folder / "panels" / f"{number:02d}.png").write_bytes(figure_to_png(panel))
