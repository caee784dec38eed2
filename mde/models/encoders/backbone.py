"""What the torch-only backbones share: their form, and their scratch initialisation."""

from abc import ABC, abstractmethod
from typing import Literal

from torch import Tensor, nn


class Backbone(nn.Module, ABC):
    """An image network without its classifier.

    channels: of the five maps, at strides 2, 4, 8, 16, 32.
    """

    channels: list[int]

    @abstractmethod
    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalised image (B,C,H,W) → five maps, finest first."""


def init_for_relu(module: nn.Module, mode: Literal["fan_in", "fan_out"]) -> None:
    """Draw the convolutions of `module` from N(0, sqrt(2 / fan)) and zero their biases.

    With "fan_out" the fan is k² times the number of output channels. Batch norms stay as torch
    makes them, at 1 and 0. Source: He et al. 2015, arXiv:1502.01852, eq. 10 and 14.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
