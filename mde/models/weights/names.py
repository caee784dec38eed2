"""What the published names say: which encoder it is, and which layer of the network each one is."""

import math
import re
from typing import NamedTuple

from mde.errors import InputError
from mde.models.encoders import ENCODERS
from mde.models.weights.files import Source
from mde.models.weights.match import Part, find_prefix

# Residual blocks or dense layers in the four stages.
BASIC = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
BOTTLENECK = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3), "resnet152": (3, 8, 36, 3)}
DENSE = {
    "densenet121": (6, 12, 24, 16),
    "densenet161": (6, 12, 36, 24),
    "densenet169": (6, 12, 32, 32),
    "densenet201": (6, 12, 48, 32),
}


class Backbone(NamedTuple):
    """An encoder that was recognised in a file."""

    name: str
    source: Source
    prefix: str

    def part(self, own: str) -> Part:
        """Its tensors, for the `Encoder` with the prefix `own`, without the ImageNet classifier."""
        prefix, own = self.prefix, own + "backbone."
        if not self.name.startswith("densenet"):
            return Part(own, self.source, prefix, dropped=_linear(prefix + "fc"))
        # Some keep the `features.` of torchvision, some do not.
        classifier = _linear(prefix.removesuffix("features.") + "classifier")
        return Part(own + "features.", self.source, prefix, dropped=classifier)


def _linear(layer: str) -> tuple[str, str]:
    return f"{layer}.weight", f"{layer}.bias"


def recognize_backbone(source: Source, prefix: str) -> Backbone:
    """Tell a ResNet or DenseNet by the layers that a file holds.

    prefix: the published one, for the case that the file has none of its names.
    Raises InputError when it is neither, or one that is not among ENCODERS.
    """
    if any("denseblock" in name for name in source.tensors):
        known, blocks = DENSE, r"denseblock([1-4])\.denselayer(\d+)\."
        anchors, first = ("conv0.weight", "norm5.weight"), 1
        prefix += "features."
    else:
        bottleneck = any(name.endswith("layer1.0.conv3.weight") for name in source.tensors)
        known, blocks = BOTTLENECK if bottleneck else BASIC, r"layer([1-4])\.(\d+)\."
        anchors, first = ("layer1.0.conv1.weight", "layer4.0.conv1.weight"), 0
    counts = [0, 0, 0, 0]
    for name in source.tensors:
        if found := re.search(blocks, name):
            stage, number = int(found[1]) - 1, int(found[2])
            counts[stage] = max(counts[stage], number + 1 - first)
    if not any(counts):
        names = ", ".join(list(source.tensors)[:3])
        raise InputError(f"{source.path}: neither a ResNet nor a DenseNet; it begins with {names}")
    # The nearest one: what is missing from it, or too much, is listed when it is filled.
    name = min(known, key=lambda each: math.dist(known[each], counts))
    if name not in ENCODERS:
        raise InputError(
            f"{source.path}: its encoder is {name}, which is not among the encoders here: "
            + ", ".join(sorted(each for each in (BASIC | BOTTLENECK | DENSE) if each in ENCODERS))
        )
    return Backbone(name, source, find_prefix(source, anchors, prefix))


def disparity_decoder_name(own: str) -> str:
    """monodepth2's list of layers: upconv (4,0), (4,1), (3,0) … (0,1), then dispconv 0 … 3."""
    part, number, *_, kind = own.split(".")
    if part == "heads":
        return f"{10 + int(number)}.conv.{kind}"
    position = 2 * (4 - int(number)) + (part == "after_skip")
    return f"{position}.conv.conv.{kind}"


def decode_conv_name(own: str) -> str:
    """FastDepth's decode_conv1 … 5 are the blocks, decode_conv6 is the head."""
    part, rest = own.split(".", 1)
    if part == "head":
        return f"decode_conv6.{rest}"
    number, rest = rest.split(".", 1)
    return f"decode_conv{int(number) + 1}.{rest}"


def pose_decoder_name(own: str) -> str:
    """monodepth2's list of convolutions (squeeze, pose 0 … 2): without the ReLUs between them."""
    number, kind = own.split(".")
    return f"net.{int(number) // 2}.{kind}"


def width_of(source: Source, conv2: str) -> float:
    """DenseDepth's decoder width: channels that leave conv2, of those that enter it."""
    weight = source.tensors.get(conv2 + "weight")
    if weight is None or weight.ndim != 4 or not weight.numel():
        return 1.0
    outputs, inputs = weight.shape[:2]
    width = outputs / inputs
    # The channels are rounded down.
    return width if int(inputs * width) == outputs else math.nextafter(width, math.inf)
