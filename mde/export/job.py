"""Export a checkpoint: build the file, check it on real images, then let it be there."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from mde.errors import InputError
from mde.export.graph import build_onnx
from mde.export.half import to_fp16
from mde.export.loss import MAX_LOSS, Loss, Measure, loss_measure
from mde.export.metadata import metadata_of, pack, parse
from mde.export.onnx_predictor import OnnxPredictor, choose_runtime, installed
from mde.export.parity import LIMIT, MEAN_LIMIT, Parity, compare
from mde.export.pictures import Pictures, Source, find_pictures
from mde.export.quantize import to_int8
from mde.files import write_bytes
from mde.layout import Layout
from mde.models.eigen import Eigen
from mde.predictor import ModelInfo, TorchPredictor, load_predictor
from mde.provenance import mde_version
from mde.train.checkpoint import read_state

if TYPE_CHECKING:
    from onnx import ModelProto

Precision = Literal["fp32", "int8", "fp16"]
NUM_CHECK, NUM_CALIBRATE = 4, 32
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Report:
    """What was written. parity, loss: by runtime; loss is empty for float32."""

    path: Path
    bytes: int
    info: ModelInfo
    precision: Precision
    parity: dict[str, Parity]
    loss: dict[str, Loss] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """The report for people."""
        assert self.info.image_size is not None, "the exported network sees one size"
        size = "x".join(map(str, self.info.image_size))
        mib = self.bytes / 2**20
        lines = [f"{self.path}: {self.precision}, {mib:.1f} MiB, the network sees {size}"]
        for name, found in self.parity.items():
            text = f"max {found.max:.1e}, mean {found.mean:.1e} of {found.images} images"
            lines.append(f"  float32 on {name} against torch: relative difference {text}")
        for name, lost in self.loss.items():
            lines.append(f"  {self.precision} on {name} against torch in float32: {lost}")
        return lines


def export_onnx(
    folder: Path,
    path: Path,
    image_size: tuple[int, int] | None = None,
    precision: Precision = "fp32",
    images: Source | None = None,
    max_loss: float = MAX_LOSS,
    root: Path = Path(),
    tell: Tell = lambda text: None,
) -> Report:
    """Write the model of a checkpoint folder as one ONNX file, after it has proved equal to torch.

    image_size: (H,W) px that the network is to see, in place of training's. images: real images to
    check on: a converted dataset, a folder of pictures, or files; None: the dataset that it was
    trained on, below `root`. max_loss: of fp16 and int8, see `Loss`. tell: is told what is done.
    Raises InputError, and leaves no file, when the depth differs from torch's or too much is lost,
    when there are no images, and when the network's size is not known.
    """
    if precision not in get_args(Precision):
        raise InputError(f"unknown precision '{precision}'; there are fp32, int8, fp16")
    # Before the work: without a runtime nothing could be compared.
    choose_runtime("onnxruntime" if precision == "int8" else "auto")
    reference = load_predictor(folder, "cpu", image_size)
    state = read_state(folder)
    size = _fix_size(reference, folder)
    pictures = find_pictures(images or _trained_on(state, root), NUM_CHECK, NUM_CALIBRATE)
    tell("building the graph")
    content = build_onnx(reference.model, size)
    metadata = {
        **metadata_of(reference.info),
        "precision": precision,
        "mde_version": mde_version(),
        "model_sha256": state.get("sha256", {}).get("model.safetensors", "unknown"),
    }
    tell("comparing with torch")
    model, loss = parse(content), dict[str, Loss]()
    parity = _check_parity(model, metadata, reference, pictures)
    metadata["parity"] = {name: asdict(found) for name, found in parity.items()}
    if precision != "fp32":
        measure = loss_measure(reference, pictures, state)
        model, loss = _reduce(content, precision, metadata, pictures, measure, max_loss, tell)
    metadata["loss"] = {name: asdict(found) for name, found in loss.items()}
    size_bytes = _keep(path, model, metadata)
    return Report(path, size_bytes, reference.info, precision, parity, loss)


def _fix_size(reference: TorchPredictor, folder: Path) -> tuple[int, int]:
    """The (H,W) that the network sees, which the reference then knows too."""
    size = reference.info.image_size
    if size is None and isinstance(reference.model, Eigen):
        size = reference.model.input_size
        reference.info = replace(reference.info, image_size=size)
    if size is None:
        raise InputError(
            f"{folder}: does not know the size of its training's images; "
            "give the one that the network is to see with --size HxW"
        )
    return size


def _trained_on(state: dict[str, Any], root: Path) -> Path:
    name = state["variant"].get("dataset")
    place = Layout(root).shards(name) if name else None
    if place is None or not (place / "manifest.json").is_file():
        raise InputError(
            f"the file is checked on real images, and {place or 'no dataset'} is not there; "
            "give some with --images: a folder of pictures, or a converted dataset"
        )
    return place


def _on_each_runtime(
    model: "ModelProto", metadata: dict[str, Any]
) -> Iterator[tuple[str, OnnxPredictor]]:
    """Predictors of a model, as they will be, on each runtime that is installed."""
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "draft.onnx"
        draft.write_bytes(pack(model, metadata))
        for runtime in installed():
            yield runtime, OnnxPredictor(draft, runtime)


def _check_parity(
    model: "ModelProto", metadata: dict[str, Any], reference: TorchPredictor, pictures: Pictures
) -> dict[str, Parity]:
    found = {}
    for runtime, predictor in _on_each_runtime(model, metadata):
        found[runtime] = compare(reference, predictor, pictures.check)
        if not found[runtime].is_equal:
            raise InputError(
                f"refused: on {runtime} the depth of {metadata['variant']} differs from torch's by "
                f"{found[runtime].max:.1e} (mean {found[runtime].mean:.1e}) of it; allowed: "
                f"{LIMIT:.0e} (mean {MEAN_LIMIT:.0e}). No file was written"
            )
    return found


def _reduce(
    content: bytes,
    precision: Precision,
    metadata: dict[str, Any],
    pictures: Pictures,
    measure: Measure,
    max_loss: float,
    tell: Tell,
) -> tuple["ModelProto", dict[str, Loss]]:
    """The graph in fewer bits, and its loss on each runtime; of the ways the first that may be."""
    ways: list[Callable[[], ModelProto]] = [lambda: to_fp16(content)]
    if precision == "int8":
        ways = [partial(to_int8, content, pictures.calibrate, keep) for keep in (False, True)]
    worst = {}
    for make in ways:
        tell(f"reducing to {precision}")
        model = make()
        tell("measuring the loss")
        loss = {name: measure(found) for name, found in _on_each_runtime(model, metadata)}
        # Written so that NaN is too much.
        if all(found.value <= max_loss for found in loss.values()):
            return model, loss
        worst = loss
    lost = "; ".join(f"{name}: {found}" for name, found in worst.items())
    raise InputError(
        f"refused: {metadata['variant']} loses too much in {precision} ({lost}); allowed: "
        f"{max_loss:.2%}, another limit with --max-loss. No file was written"
    )


def _keep(path: Path, model: "ModelProto", metadata: dict[str, Any]) -> int:
    content = pack(model, metadata)
    write_bytes(path, content)
    return len(content)
