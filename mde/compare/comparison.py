"""Score models on the same images, and keep what is shown of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich import progress
from torch import Tensor

from mde.bench import measure_costs
from mde.compare.film import Film, row_size
from mde.compare.sequence import pick_sequence
from mde.compare.sources import Contender
from mde.cost import Cost
from mde.data.place import Place
from mde.errors import InputError
from mde.evaluate import choose, error_histogram, evaluate
from mde.film import resize_frame
from mde.inference import BatchPredictor, RowGroup, Work, decode_row_image, row_groups
from mde.predictor import default_device
from mde.promotion import PromotionConfig
from mde.promotion import compare as compare_images
from mde.protocols import PROTOCOLS, Protocol
from mde.scoring import COLUMNS, Scorer

# One-sided: both bounds together hold with 95 %.
PAIRED = PromotionConfig(metric="abs_rel", confidence=0.975)


@dataclass(frozen=True)
class Options:
    """What is compared, and how.

    split: of the dataset. num_panels: images to show, spread over the split. scene: of the film;
    None: the one with the most consecutive frames. size: (H,W) px of the image whose cost is
    measured; None: that of the stored images. cost_seconds: for the timing of each model, at most;
    0 leaves costs out.
    """

    split: str = "test"
    num_panels: int = 6
    scene: str | None = None
    size: tuple[int, int] | None = None
    cost_seconds: float = 30.0


@dataclass(frozen=True)
class Guess:
    """A model's depth of one image as the protocol sees it: (h,w) m, scaled and clipped."""

    depth: NDArray[np.float32]
    abs_rel: float


@dataclass(frozen=True)
class SharedPanel:
    """One test image, and all models on it by label.

    image: (H,W,3) RGB. target: (h,w) m, 0 = unknown; as are the depths.
    """

    sample_id: str
    image: NDArray[np.uint8]
    target: NDArray[np.float32]
    guesses: dict[str, Guess]
    max_depth: float


@dataclass(frozen=True)
class Entry:
    """A model's results.

    summary: as of `mde.evaluate`, with the label as its `variant`, and `parameters`.
    improvement: of abs_rel over the first model, as a share of it, with both bounds of its 95 %
    interval; None for the first.
    """

    contender: Contender
    summary: dict[str, Any]
    per_image: pa.Table
    histogram: NDArray[np.int64]
    parameters: int
    cost: Cost | None
    improvement: tuple[float, float, float] | None


@dataclass(frozen=True)
class Comparison:
    """Models in the order in which they were given."""

    data: Place
    protocol: Protocol
    entries: list[Entry]
    panels: list[SharedPanel]
    film: Film

    @property
    def costs(self) -> dict[str, tuple[float, Cost]]:
        """abs_rel and cost by label; empty where costs were left out."""
        return {
            entry.contender.label: (entry.summary["metrics"]["abs_rel"], entry.cost)
            for entry in self.entries
            if entry.cost is not None
        }


def compare(
    contenders: Sequence[Contender], data: Place, protocol: Protocol, options: Options
) -> Comparison:
    """Score all models anew on the same images with the same protocol; on the GPU if there is one.

    data: a dataset. Raises InputError as `mde.evaluate.evaluate` does, when a model's depth is up
    to scale and the protocol does not scale, for an unknown scene, and when a cost cannot be
    measured.
    """
    groups = row_groups(data, options.split)
    scorers = {one.label: _scorer(one, protocol) for one in contenders}
    scene, ids = pick_sequence(data, options.split, options.scene)
    entries: list[Entry] = []
    for one in contenders:
        first = entries[0] if entries else None
        entries.append(_evaluate(one, scorers[one.label], data, options, first))
    return Comparison(
        data,
        protocol,
        _with_costs(entries, options, groups[0]),
        _panels(entries, scorers, groups, options.num_panels),
        _film(entries, scorers, groups, scene, ids),
    )


def run_here(work: Work, groups: list[RowGroup]) -> Iterator[pa.Table]:
    """An `mde.inference.Runner`: this process, one group after the other."""
    return (work(group, default_device()) for group in groups)


def _scorer(one: Contender, protocol: Protocol) -> Scorer:
    predictor = BatchPredictor(one.checkpoint, flip=protocol.flip)
    if predictor.model.is_metric:
        return Scorer(predictor, protocol, {})
    if protocol.scaling == "none":
        scaling = ", ".join(p.name for p in PROTOCOLS.values() if p.scaling == "median")
        raise InputError(
            f"{one.source}: its depth is right up to a factor, and {protocol.id} does not scale; "
            f"compare all models with a protocol that does, --protocol: {scaling}"
        )
    return Scorer(predictor, protocol, {}, protocol.metres_per_unit)


def _evaluate(
    one: Contender, scorer: Scorer, data: Place, options: Options, first: Entry | None
) -> Entry:
    found = evaluate(
        one.checkpoint, data, scorer.protocol, run_here, options.split, num_panels=0, num_extremes=0
    )
    parameters = sum(p.numel() for p in scorer.predictor.model.parameters())
    summary = {**found.summary, "variant": one.label, "parameters": parameters}
    improvement = None
    if first is not None:
        new, old = _abs_rel(found.per_image), _abs_rel(first.per_image)
        verdict = compare_images(new, old, PAIRED, first.contender.label)
        assert verdict.improvement is not None, "all models are scored on the same images"
        assert verdict.bounds is not None, "all models are scored on the same images"
        improvement = (verdict.improvement, *verdict.bounds)
    histogram = error_histogram(found.per_image)
    return Entry(one, summary, found.per_image, histogram, parameters, None, improvement)


def _abs_rel(per_image: pa.Table) -> dict[str, float]:
    rows = per_image.select(["sample_id", "skipped", "abs_rel"]).to_pylist()
    return {row["sample_id"]: row["abs_rel"] for row in rows if row["skipped"] is None}


def _with_costs(entries: list[Entry], options: Options, group: RowGroup) -> list[Entry]:
    if not options.cost_seconds:
        return entries
    row = group.read(["height", "width"])[0]
    size = options.size or (row["height"], row["width"])
    checkpoints = [entry.contender.checkpoint for entry in entries]
    with progress.Progress() as bar:
        task = bar.add_task("measure costs", total=1)
        costs = measure_costs(
            checkpoints,
            size,
            options.cost_seconds,
            lambda _, share: bar.update(task, completed=share),
        )
    return [replace(entry, cost=cost) for entry, cost in zip(entries, costs, strict=True)]


def _find(groups: list[RowGroup], ids: Sequence[str]) -> dict[str, tuple[RowGroup, Any]]:
    """Rows of these names, in this order, with their groups."""
    wanted, found = set(ids), {}
    for group in groups:
        names = [row["sample_id"] for row in group.read(["sample_id"])]
        if wanted & set(names):
            for row in group.read(COLUMNS):
                found[row["sample_id"]] = (group, row)
    return {name: found[name] for name in ids}


def _panels(
    entries: list[Entry], scorers: dict[str, Scorer], groups: list[RowGroup], count: int
) -> list[SharedPanel]:
    scored = [row for row in entries[0].per_image.to_pylist() if row["skipped"] is None]
    ids = [name for _, _, name in choose(scored, count, 0)]
    values = {entry.contender.label: _abs_rel(entry.per_image) for entry in entries}
    panels = []
    for name, (group, row) in _find(groups, ids).items():
        some = next(iter(scorers.values()))
        target, guesses = some.target(group, row), {}
        assert isinstance(target, Tensor), "it was scored"
        for label, scorer in scorers.items():
            depth = scorer.predict(group, [row], default_device())[name].cpu()
            aligned = scorer.protocol.align(depth, target, scorer.metres_per_unit)
            guesses[label] = Guess(aligned.pred.numpy(), values[label][name])
        image = some.seen(decode_row_image(group, row))
        max_depth = some.protocol.max_depth
        panels.append(SharedPanel(name, image, target.numpy(), guesses, max_depth))
    return panels


def _film(
    entries: list[Entry],
    scorers: dict[str, Scorer],
    groups: list[RowGroup],
    scene: str,
    ids: list[str],
) -> Film:
    rows = _find(groups, ids)
    images = {name: decode_row_image(group, row) for name, (group, row) in rows.items()}
    height, width = next(iter(images.values())).shape[:2]
    size = row_size((height, width), 1 + len(entries))
    sizes = dict.fromkeys(images, size)
    depths: dict[str, list[NDArray[np.float32]]] = {}
    for entry in progress.track(entries, "predict the film"):
        label, scale = entry.contender.label, _scale(entry, scorers)
        found = scorers[label].predictor.predict(images, sizes, default_device())
        depths[label] = [(scale * depth).cpu().numpy() for depth in found.values()]
    pictures = [resize_frame(image, size) for image in images.values()]
    max_depth = next(iter(scorers.values())).protocol.max_depth
    return Film(scene, ids, pictures, depths, max_depth)


def _scale(entry: Entry, scorers: dict[str, Scorer]) -> float:
    """Of the whole film: a scale of its own for each frame would flicker, and needs its truth."""
    if "scale" in entry.summary:
        return float(entry.summary["scale"]["median"])
    return scorers[entry.contender.label].metres_per_unit
