"""How a variant is trained: numbers of the optimizer, its schedule, and the stages."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from mde.errors import InputError

History = list[dict[str, float]]


@dataclass(frozen=True)
class Stage:
    """A part of the training that has parameters and an optimizer of its own (eigen's recipe).

    epochs: at most so many. train: prefixes of the depth model's parameters that are trained, such
    as `scale1`; empty: all. output: number of the native map that the loss is taken of, 0 the
    finest. lr: the recipe's when None. patience: the stage ends after so many epochs without a
    lower validation loss; None: never early.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    epochs: int
    train: tuple[str, ...] = ()
    output: int = 0
    lr: float | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        _check_positive(self, ("epochs", "lr", "patience"))
        if self.output < 0:
            raise ValueError(f"output is the number of a native map, from 0, found {self.output}")


@dataclass(frozen=True)
class Recipe:
    """How a variant is trained.

    batch_size: samples per step over all workers. accumulate: a worker's share of a step is cut
    into so many parts that are computed one after the other, which saves memory; batch norm sees
    the parts. schedule: `step` multiplies the rate by `lr_gamma` every `lr_step` epochs, `cosine`
    warms up for 5 % of the steps and decays to zero; both start anew with each stage.
    sync_batch_norm: statistics are those of all workers' samples, see `mde.train.sync_norm`.
    result: the epoch whose weights become the model. best_by: a metric of an epoch; None: val_loss,
    or train_loss where there is no val split.
    stages: `epochs` is their sum then. patience: as in Stage. momentum: of sgd.
    precision: `bf16` and `fp16` are autocast; losses stay in float32. fused: one kernel for all
    parameters of an optimizer step.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    epochs: int
    batch_size: int
    lr: float = 1e-4
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Literal["constant", "step", "cosine"] = "constant"
    lr_step: int = 15
    lr_gamma: float = 0.1
    grad_clip: float | None = None
    accumulate: int = 1
    sync_batch_norm: bool = False
    patience: int | None = None
    result: Literal["last", "best"] = "last"
    best_by: str | None = None
    best_is: Literal["lowest", "highest"] = "lowest"
    stages: tuple[Stage, ...] = ()
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = False
    compile: bool = False
    fused: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        names = ("epochs", "batch_size", "lr", "lr_step", "lr_gamma", "grad_clip", "accumulate")
        _check_positive(self, (*names, "patience"))
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must not be negative, found {self.weight_decay}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be within 0 and 1, found {self.momentum}")
        total = sum(stage.epochs for stage in self.stages)
        if self.stages and self.epochs != total:
            raise ValueError(
                f"epochs must be the sum of the stages' ({total}), found {self.epochs}"
            )
        if self.stages and self.patience is not None:
            raise ValueError("patience belongs into each of the stages")

    @property
    def all_stages(self) -> tuple[Stage, ...]:
        """The stages; one that trains everything when none are given."""
        return self.stages or (Stage(self.epochs, patience=self.patience),)


def _check_positive(config: Any, names: Iterable[str]) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive, found {value}")


def _sgd(params: Sequence[Tensor], recipe: Recipe, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, momentum=recipe.momentum, **options)


def _adam(params: Sequence[Tensor], recipe: Recipe, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(params, **options)


def _adamw(params: Sequence[Tensor], recipe: Recipe, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params, **options)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": _adam,
    "adamw": _adamw,
    "sgd": _sgd,
}


def build_optimizer(
    params: Sequence[Tensor], recipe: Recipe, stage: Stage
) -> torch.optim.Optimizer:
    """The stage's optimizer, at its full rate."""
    lr = recipe.lr if stage.lr is None else stage.lr
    # None leaves the choice to torch, which prefers grouped kernels to a loop where it can.
    fused = True if recipe.fused else None
    options = {"lr": lr, "weight_decay": recipe.weight_decay, "fused": fused}
    return OPTIMIZERS[recipe.optimizer](params, recipe, **options)


def lr_factor(recipe: Recipe, stage: Stage, step: int, steps_per_epoch: int) -> float:
    """What the rate is multiplied with at a step of the stage: a pure function, to resume from."""
    if recipe.schedule == "step":
        return recipe.lr_gamma ** (step // steps_per_epoch // recipe.lr_step)
    if recipe.schedule == "cosine":
        total = stage.epochs * steps_per_epoch
        warm_up = max(1, total // 20)
        return min((step + 1) / warm_up, (1 + math.cos(math.pi * step / total)) / 2)
    return 1.0


def next_epoch(recipe: Recipe, history: History) -> tuple[int, int] | None:
    """Which stage, and which epoch of it, comes after `history`; None when training is over.

    history: metrics of all epochs so far; it alone decides, so a resumed run stops where an
    uninterrupted one does. Raises InputError when patience is asked for without validation data.
    """
    number = int(history[-1]["stage"]) if history else 0
    stage = recipe.all_stages[number]
    own = [metrics for metrics in history if metrics["stage"] == number]
    if len(own) < stage.epochs and not _out_of_patience(own, stage.patience):
        return number, len(own)
    return (number + 1, 0) if number + 1 < len(recipe.all_stages) else None


def _out_of_patience(history: History, patience: int | None) -> bool:
    if patience is None or not history:
        return False
    if "val_loss" not in history[-1]:
        raise InputError("patience watches the validation loss, and the dataset has no val split")
    losses = [metrics["val_loss"] for metrics in history]
    return len(losses) - 1 - losses.index(min(losses)) >= patience


def best_steps(recipe: Recipe, history: History) -> list[int]:
    """The step after each epoch, best epoch first; of equal ones, the earlier first.

    Raises InputError when `best_by` is not a metric of the epochs.
    """
    if not history:
        return []
    name = recipe.best_by or ("val_loss" if "val_loss" in history[-1] else "train_loss")
    if name not in history[-1]:
        raise InputError(
            f"recipe.best_by: no metric of an epoch is called '{name}'; there are "
            f"{', '.join(sorted(history[-1]))}"
        )
    sign = -1 if recipe.best_is == "highest" else 1
    ranked = sorted(history, key=lambda metrics: sign * metrics[name])
    return [int(metrics["step"]) for metrics in ranked]
