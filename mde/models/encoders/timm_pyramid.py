"""Any model of timm that gives a feature pyramid. The one file that imports timm, when it must."""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.error import HTTPError

from torch import Tensor

from mde.errors import InputError
from mde.models.encoders.backbone import Backbone
from mde.models.encoders.imagenet import open_url

STRIDES = (2, 4, 8, 16, 32)


class TimmPyramid(Backbone):
    """A model of timm: `body`, timm's own module.

    channels: channels[0] is 0, and so is the first map's, when timm's model starts at stride 4.
    """

    def __init__(self, name: str, in_channels: int = 3, pretrained: bool = False) -> None:
        """Build timm's model `name`, such as `convnext_atto` or `resnet18.a1_in1k`.

        Raises InputError when timm has no such model, when the model has no maps at strides 4, 8,
        16 and 32, or when its pretrained weights cannot be had.
        """
        super().__init__()
        self.name = name
        self.body = create_body(name, in_channels, pretrained)
        info = self.body.feature_info
        found: list[int] = info.reduction()
        # A model may give several maps of one stride: the last one has seen most.
        last = {stride: index for index, stride in enumerate(found)}
        if missing := [stride for stride in STRIDES[1:] if stride not in last]:
            raise InputError(
                f"timm:{name} gives maps at strides {found}, none at {missing}; an encoder needs "
                "4, 8, 16 and 32. Take a convolutional or hierarchical model"
            )
        self.indices = [last[stride] for stride in STRIDES if stride in last]
        chosen = [info.channels()[index] for index in self.indices]
        self.channels = [0] * (len(STRIDES) - len(chosen)) + chosen
        self.is_channels_last = "NHWC" in str(getattr(self.body, "output_fmt", ""))
        config = self.body.pretrained_cfg
        self.fixed_size = tuple(config["input_size"][1:]) if config["fixed_input_size"] else None

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalised image (B,C,H,W) → five maps, finest first.

        Raises ValueError when the model was made for images of another size.
        """
        batch, _, height, width = image.shape
        if self.fixed_size and self.fixed_size != (height, width):
            raise ValueError(
                f"timm:{self.name} takes images of {'x'.join(map(str, self.fixed_size))} only, "
                f"found {height}x{width}; resize the image or take a convolutional encoder"
            )
        given = self.body(image)
        maps = [given[index] for index in self.indices]
        if self.is_channels_last:
            maps = [m.permute(0, 3, 1, 2).contiguous() for m in maps]
        if not self.channels[0]:
            # Of the maps' type: concatenation would widen bfloat16 to the image's float32.
            maps = [maps[0].new_zeros(batch, 0, -(-height // 2), -(-width // 2)), *maps]
        return maps


def create_body(name: str, in_channels: int, pretrained: bool) -> Any:
    """The module of timm, with near names or a way out in the InputError when it cannot be made."""
    import timm

    check_name(name)
    source = weights_source(name) if pretrained else ""
    try:
        with quick_hub(bool(source)):
            return timm.create_model(
                name, pretrained=pretrained, features_only=True, in_chans=in_channels
            )
    except Exception as error:  # timm and the hub raise whatever they like
        if source:
            raise InputError(missing_weights(name, source, error)) from error
        raise InputError(f"timm:{name} cannot be made into a feature pyramid: {error}") from error


def check_name(name: str) -> None:
    """Raises InputError with near names, or known tags, when timm has no model `name`."""
    import timm

    model, _, tag = name.partition(".")
    if not timm.is_model(model):
        near = difflib.get_close_matches(model, timm.list_models())
        hint = f"near names: {', '.join(near)}" if near else "timm.list_models() lists them"
        raise InputError(f"timm {timm.__version__} has no model '{model}'; {hint}")
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{model}.*")]
    if tag and tag not in tags:
        known = ", ".join(tags) or "none"
        raise InputError(f"timm's {model} has no weights '{tag}'; known: {known}")


def weights_source(name: str) -> str:
    """Where timm has the weights of `name` from. Raises InputError when there are none."""
    import timm

    config = timm.get_pretrained_cfg(name)
    source = config and (config.hf_hub_id or config.url)
    if not source:
        raise InputError(f"timm has no weights for '{name}'; set `weights: scratch`")
    return str(source)


def missing_weights(name: str, source: str, error: Exception) -> str:
    """What to do when timm could not load the pretrained weights of `name`."""
    from huggingface_hub import constants

    return (
        f"the ImageNet weights of 'timm:{name}' could not be loaded: {error}. Go online once so "
        f"that {constants.ENDPOINT}/{source} is cached in {constants.HF_HUB_CACHE}, or run "
        f"`hf download {source}` elsewhere and copy that folder, or set `weights: scratch`"
    )


@contextmanager
def quick_hub(needed: bool) -> Iterator[None]:
    """Keep the hub from retrying for most of a minute when there is no network.

    It then looks in its cache alone. Its environment variable is read at import: too late here.
    """
    if not needed:
        yield
        return
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not is_reachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def is_reachable(url: str) -> bool:
    """Whether something answers at `url`, within seconds."""
    try:
        open_url(url, "HEAD").close()
    except HTTPError:
        return True
    except OSError:
        return False
    return True
