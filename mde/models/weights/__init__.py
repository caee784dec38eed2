"""Weights of the published projects → this project's models: same input, same output.

monodepth2: a folder with `encoder.pth` and `depth.pth` (Godard et al. 2019), ResNet; or DDSR2020's
    `depth_encoder.pth` and `depth_decoder.pth`, ResNet or DenseNet.
fastdepth: the state dict of MobileNetSkipAdd (Wofk et al. 2019), depthwise NNConv5, not pruned.
densedepth: the state dict of the PyTorch port of DenseDepth (Alhashim and Wonka 2018), DenseNet;
    its map is 10 m / depth.

Files may be bare dicts or wrapped (`state_dict`, …), with prefixes such as `module.`, in half
precision, or safetensors. ImageNet classifiers in them are dropped. Names and shapes must be
complete and exact. Encoders and widths are read off the tensors.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mde.errors import InputError
from mde.models import DepthModel, ModelConfig, build_model
from mde.models.monodepth2 import PoseNetwork
from mde.models.weights.files import Source, read_pair, read_single
from mde.models.weights.match import Part, fill, find_prefix
from mde.models.weights.names import (
    decode_conv_name,
    disparity_decoder_name,
    pose_decoder_name,
    recognize_backbone,
    width_of,
)

__all__ = ["FORMATS", "Published", "import_pose", "import_weights", "read_published"]

# Metres in a model unit of monodepth2's weights with stereo: KITTI's 0.54 m are 0.1 units there.
KITTI_METRES_PER_UNIT = 5.4


@dataclass(frozen=True)
class Published:
    """Imported weights. model: in eval mode. config: builds it; `weights` is scratch.

    files: where the tensors came from. input_size: (H,W) of training, as the files or else the
    papers say.
    """

    model: DepthModel
    config: ModelConfig
    files: tuple[Path, ...]
    input_size: tuple[int, int] | None = None

    def describe(self) -> str:
        """What was recognised, in three lines."""
        config, model = self.config, self.model
        num_parameters = sum(parameter.numel() for parameter in model.parameters())
        width = "" if config.width == 1 else f", decoder width {config.width:g}"
        height_width = "{} x {}".format(*self.input_size) if self.input_size else "not known"
        unit = "m" if model.is_metric else "units of an unknown scale"
        if config.family == "densedepth":
            unit += f"; the native map is {model.max_depth:g} m / depth"
        return (
            f"{config.family} with {config.encoder}{width}, {num_parameters:,} parameters\n"
            f"height and width in training: {height_width}\n"
            f"depth from {model.min_depth:g} to {model.max_depth:g} {unit}"
        )


def import_weights(fmt: str, path: str | Path, **settings: float) -> DepthModel:
    """Import published weights; see `read_published`. The model is in eval mode."""
    return read_published(fmt, path, **settings).model


def read_published(fmt: str, path: str | Path, **settings: float) -> Published:
    """Import published weights of one of FORMATS.

    settings: min_depth, max_depth in model units, and metres_per_unit (monodepth2, which is then
    metric) in place of the published ones. max_depth is also the m of densedepth's map m / depth.
    Raises InputError when a file is missing, damaged, holds code, or does not fit to the last name.
    """
    if fmt not in FORMATS:
        raise InputError(f"unknown format '{fmt}'; known: {', '.join(FORMATS)}")
    return FORMATS[fmt](Path(path), settings)


def _monodepth2(path: Path, settings: dict[str, float]) -> Published:
    encoder, decoder = read_pair(
        path, ("encoder", "depth_encoder", "resnet_encoder"), ("depth", "depth_decoder", "decoder")
    )
    if encoder is not decoder and list(encoder.path.parent.glob("fpn.*")):
        raise InputError(
            f"{encoder.path.parent}: fpn.pth: a feature pyramid lies between encoder and decoder "
            "of these weights, which this model does not have"
        )
    facts = decoder.facts | encoder.facts
    units: dict[str, Any] = {"metric": False}
    if facts.get("use_stereo") or "metres_per_unit" in settings:
        units = {"metric": True, "metres_per_unit": KITTI_METRES_PER_UNIT}
    backbone = recognize_backbone(encoder, "encoder.")
    defaults = {"min_depth": 0.1, "max_depth": 100.0} | units
    config, model = _build("monodepth2", backbone.name, defaults | settings)
    prefix = find_prefix(decoder, ("0.conv.conv.weight", "10.conv.weight"), "decoder.")
    disparity = Part("decoder.", decoder, prefix, disparity_decoder_name)
    fill(model, f"monodepth2 with {backbone.name}", [backbone.part("encoder."), disparity])
    size = (facts["height"], facts["width"]) if {"height", "width"} <= facts.keys() else None
    return Published(model, config, _files(encoder, decoder), size)


def _fastdepth(path: Path, settings: dict[str, float]) -> Published:
    source = read_single(path)
    defaults = {"min_depth": 1e-3, "max_depth": 10.0}
    config, model = _build("fastdepth", "mobilenet_v1", defaults | settings)
    prefix = find_prefix(source, ("conv0.0.weight", "decode_conv6.0.weight"), "")
    parts = [
        Part("encoder.backbone.", source, prefix),
        Part("decoder.", source, prefix, decode_conv_name),
    ]
    fill(model, "FastDepth (MobileNet, NNConv5 depthwise, skip-add, not pruned)", parts)
    return Published(model, config, _files(source), (224, 224))


def _densedepth(path: Path, settings: dict[str, float]) -> Published:
    source = read_single(path)
    backbone = recognize_backbone(source, "encoder.original_model.")
    prefix = find_prefix(source, ("up1.convA.weight", "up4.convB.weight"), "decoder.")
    defaults = {"min_depth": 0.1, "max_depth": 10.0, "width": width_of(source, prefix + "conv2.")}
    config, model = _build("densedepth", backbone.name, defaults | settings)
    parts = [backbone.part("encoder."), Part("decoder.", source, prefix)]
    fill(model, f"DenseDepth with {backbone.name} at width {config.width:g}", parts)
    return Published(model, config, _files(source), (480, 640))


FORMATS = {"monodepth2": _monodepth2, "fastdepth": _fastdepth, "densedepth": _densedepth}


def import_pose(path: str | Path) -> PoseNetwork:
    """Import monodepth2's pose network, in eval mode.

    path: a folder with `pose_encoder.pth` and `pose.pth` (DDSR2020: `pose_decoder.pth`).
    Raises InputError as `read_published` does.
    """
    encoder, decoder = read_pair(Path(path), ("pose_encoder",), ("pose", "pose_decoder"))
    backbone = recognize_backbone(encoder, "encoder.")
    network = PoseNetwork(backbone.name, "scratch")
    prefix = find_prefix(decoder, ("net.0.weight", "net.3.weight"), "")
    pose = Part("decoder.", decoder, prefix, pose_decoder_name)
    what = f"monodepth2's pose network with {backbone.name}"
    fill(network, what, [backbone.part("encoder."), pose])
    return network


def _build(family: str, encoder: str, settings: dict[str, Any]) -> tuple[ModelConfig, DepthModel]:
    try:
        config = ModelConfig(family, encoder, "scratch", **settings)
        return config, build_model(config)
    except (TypeError, ValueError) as error:
        raise InputError(f"{family}: {error}") from error


def _files(*sources: Source) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(source.path for source in sources))
