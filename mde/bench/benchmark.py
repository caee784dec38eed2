"""Models at sizes, each in all modes: one group of rows each."""

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from mde.bench.models import BenchModel, load_images, save_image, sizes_of
from mde.bench.modes import EAGER, Mode, has_bf16
from mde.bench.side import Side, SideError, ask, fresh_process
from mde.bench.turns import Pace, Result, Tell, take_turns
from mde.cost import Cost
from mde.errors import InputError
from mde.export import Report, export_onnx
from mde.export.loss import MAX_LOSS, Loss
from mde.predictor import default_device


@dataclass(frozen=True)
class Plan:
    """What is measured, and how. sizes: (H,W) px; none: each model's own.

    images: a dataset, a folder, or a picture: to time, to compare depths, to calibrate int8; None:
    made colours, and for int8 the dataset that the model was trained on, below `root`.
    """

    modes: Sequence[Mode]
    sizes: Sequence[tuple[int, int]] = ()
    device: str = "cpu"
    threads: int = 0
    images: Path | None = None
    pace: Pace = field(default_factory=Pace)
    root: Path = Path()

    @property
    def num_threads(self) -> int:
        """As given, or as many as torch takes; the same for every runtime."""
        return self.threads or torch.get_num_threads()


@dataclass(frozen=True)
class Group:
    """A model at a size (H,W) px; results in the order of the modes, `eager` first.

    exports: of the ONNX files by precision, or why there is none.
    """

    model: BenchModel
    size: tuple[int, int]
    results: list[Result]
    exports: dict[str, Report | str]

    @property
    def base(self) -> Cost | None:
        """What `eager` costs; None when it has failed."""
        return self.results[0].cost

    def loss_of(self, one: Result) -> Loss | None:
        """What a mode loses against float32, if the export has measured it."""
        report = self.exports.get(one.side.mode.precision) if one.side.mode.needs_file else None
        return report.loss.get(one.side.mode.runtime) if isinstance(report, Report) else None


@dataclass(frozen=True)
class Benchmark:
    """All groups, and what holds for all of them."""

    plan: Plan
    groups: list[Group]

    @property
    def notes(self) -> list[str]:
        """What a reader must know to judge the numbers."""
        modes = self.plan.modes
        notes = []
        if self.plan.device == "cpu":
            notes.append("MiB: growth of resident memory, weights in it, libraries not")
            if any(mode.options.get("precision") == "bf16" for mode in modes) and not has_bf16():
                notes.append("bf16: this CPU has no instructions for it, so that it costs time")
        else:
            notes.append("float32 on a GPU: as torch is set, which is TF32 in convolutions")
        return notes


def bench(models: Sequence[BenchModel], plan: Plan, tell: Tell) -> Benchmark:
    """Measure every model at every size in every mode; one group after the other.

    Raises InputError for a model without a size and for images that cannot be read. Modes that
    fail are results with a reason.
    """
    if plan.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no GPU here; use --device cpu")
    todo = [(model, size) for model in models for size in sizes_of(model, plan.sizes)]
    groups = []
    for number, (model, size) in enumerate(todo):

        def tell_share(text: str, share: float, number: int = number) -> None:
            tell(text, (number + share) / len(todo))

        groups.append(_measure(model, size, plan, tell_share))
    return Benchmark(plan, groups)


def _measure(model: BenchModel, size: tuple[int, int], plan: Plan, tell: Tell) -> Group:
    images = load_images(plan.images, size)
    label = f"{model.label} at {size[0]}x{size[1]}"
    with tempfile.TemporaryDirectory() as folder:
        exports = {}
        for precision in dict.fromkeys(mode.precision for mode in plan.modes if mode.needs_file):
            tell(f"{label}: exporting ONNX {precision}", 0)
            exports[precision] = _export(model, size, precision, plan, Path(folder))
        sides, failed = [], {}
        for mode in plan.modes:
            side = Side(label, model.checkpoint, size, mode, plan.device, plan.num_threads)
            found = exports[mode.precision] if mode.needs_file else None
            if isinstance(found, str):
                failed[mode] = Result(side, reason=found)
            else:
                sides.append(replace(side, model=found.path) if found else side)
        measured = {one.side.mode: one for one in take_turns(sides, images, plan.pace, tell)}
    results = [measured.get(mode) or failed[mode] for mode in plan.modes]
    return Group(model, size, results, exports)


def _export(
    model: BenchModel, size: tuple[int, int], precision: str, plan: Plan, folder: Path
) -> Report | str:
    """The ONNX file, or why there is none; made in a process of its own, as it may well die."""
    images: Path | None = plan.images
    if images is None and not model.is_trained:
        # What fits the ranges of activations of an untrained network matters to nobody.
        images = folder / "made.png"
        save_image(images, load_images(None, size)[0])
    with fresh_process() as pool:
        try:
            path, limit = folder / f"{precision}.onnx", MAX_LOSS if model.is_trained else math.inf
            return ask(
                pool, export_onnx, model.checkpoint, path, size, precision, images, limit, plan.root
            )
        except SideError as error:
            return str(error)


def measure_costs(
    checkpoints: Sequence[Path], size: tuple[int, int], seconds: float, tell: Tell
) -> list[Cost]:
    """What plain torch costs of each checkpoint, taking turns; on a GPU when there is one.

    seconds: for the timing of each, about. Raises InputError when one cannot be measured.
    """
    device = default_device().type
    threads = torch.get_num_threads()
    sides = [Side(str(one), one, size, EAGER, device, threads) for one in checkpoints]
    pace = Pace(seconds=seconds * len(sides))
    results = take_turns(sides, load_images(None, size), pace, tell)
    for result in results:
        if result.cost is None:
            raise InputError(f"{result.side.label}: its cost cannot be measured: {result.reason}")
    return [result.cost for result in results if result.cost is not None]
