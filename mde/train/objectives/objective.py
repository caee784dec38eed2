"""Base of the training modes: which parameters a stage trains, and what stays frozen."""

from typing import Any

import torch
from torch import Tensor, nn

from mde.schema import Batch


class Objective(nn.Module):
    """Owns the depth model and decides which of its parameters are trained.

    output: the native map that the current stage trains, where a mode trains one; 0 = finest.
    """

    def __init__(self, model: nn.Module, freeze_encoder: bool = False) -> None:
        """Freeze `model.encoder` when asked.

        What the model froze itself, such as a layer that it does not use, stays frozen for good.
        Raises ValueError when there is no encoder to freeze.
        """
        super().__init__()
        self.model: Any = model
        self.output = 0
        if freeze_encoder:
            if not isinstance(getattr(model, "encoder", None), nn.Module):
                raise ValueError(
                    f"freeze_encoder: {type(model).__name__} has no encoder of its own; its parts "
                    f"are {_parts(model)}"
                )
            self.model.encoder.requires_grad_(False)
        self._frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
        self.train()

    def train(self, mode: bool = True) -> "Objective":
        """Set the mode; parts of the depth model that are frozen as a whole stay in eval mode.

        Otherwise batch norm would change its statistics, and so the features, without training.
        """
        super().train(mode)
        for module in self.model.modules():
            params = list(module.parameters())
            if params and not any(p.requires_grad for p in params):
                module.eval()
        return self

    def explain(self, batch: Batch) -> dict[str, Tensor]:
        """What a person looks at to judge the training: maps by name, `image` first.

        `image` is (B,3,H,W) in [0,1], as the loss sees it. In eval mode, in float32 and without
        gradients; nothing is changed by it. What the batch has no images or depth for is left out.
        """
        training = self.training
        self.eval()
        try:
            with torch.no_grad(), torch.autocast(batch["image"].device.type, enabled=False):
                return self.maps(batch)
        finally:
            self.train(training)

    def maps(self, batch: Batch) -> dict[str, Tensor]:
        """The maps of `explain`; each training mode has its own."""
        raise NotImplementedError

    def start_stage(self, train: tuple[str, ...] = (), output: int = 0) -> None:
        """Train the parameters below `train`, and the native map `output`, from now on.

        train: parts of the depth model by name, such as `scale1` or `decoder.heads`; empty: all
        that is not frozen for good. Other networks, such as the pose network, are left alone.
        Raises ValueError for a part that the model does not have or that is frozen for good.
        """
        if output < 0:
            raise ValueError(f"output: expected the number of a native map, found {output}")
        for part in train:
            self._check_part(part)
        for name, parameter in self.model.named_parameters():
            wanted = not train or any(_is_below(name, part) for part in train)
            parameter.requires_grad_(wanted and name not in self._frozen)
            if not parameter.requires_grad:
                parameter.grad = None
        self.output = output
        self.train(self.training)

    def _check_part(self, part: str) -> None:
        found = [name for name, _ in self.model.named_parameters() if _is_below(name, part)]
        if not found:
            raise ValueError(
                f"train: {type(self.model).__name__} has no parameters below '{part}'; its parts "
                f"are {_parts(self.model)}"
            )
        if self._frozen.issuperset(found):
            raise ValueError(f"train: '{part}' is frozen as a whole, so it cannot be trained")


def _is_below(name: str, part: str) -> bool:
    return name == part or name.startswith(part + ".")


def _parts(model: nn.Module) -> str:
    """The names that a model's parameters begin with."""
    return ", ".join(dict.fromkeys(name.split(".")[0] for name, _ in model.named_parameters()))
