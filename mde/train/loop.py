"""The training loop. It is handed an objective, batches and a context, and knows nothing else."""

import functools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from mde.schema import Batch
from mde.train.checkpoint import load_checkpoint, save_checkpoint
from mde.train.context import TrainContext, sum_over_ranks

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}

SAY_EVERY_S = 30

print_now = functools.partial(print, flush=True)


@dataclass(frozen=True)
class Recipe:
    """How a variant is trained.

    batch_size: samples per step over all workers. schedule: `step` multiplies the rate by
    `lr_gamma` every `lr_step` epochs, `cosine` warms up for 5 % of the steps and decays to zero.
    precision: `bf16` and `fp16` are autocast; losses stay in float32.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    epochs: int
    batch_size: int
    lr: float = 1e-4
    optimizer: Literal["adam", "adamw"] = "adam"
    weight_decay: float = 0.0
    schedule: Literal["constant", "step", "cosine"] = "constant"
    lr_step: int = 15
    lr_gamma: float = 0.1
    grad_clip: float | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = False
    compile: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "lr", "lr_step", "lr_gamma"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive, found {getattr(self, name)}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must not be negative, found {self.weight_decay}")
        if self.grad_clip is not None and not self.grad_clip > 0:
            raise ValueError(f"grad_clip must be positive, found {self.grad_clip}")


class Batches(Protocol):
    """Where a worker's batches come from; every worker gets the same number of steps."""

    def train(self, epoch: int) -> Iterator[tuple[Batch, float]]:
        """One epoch of (batch, weight); weight = its share of the step's samples x workers."""
        ...

    def val(self) -> Iterator[tuple[Batch, float]]:
        """The validation split, once, in a fixed order."""
        ...

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        ...


def train(
    objective: nn.Module,
    batches: Batches,
    recipe: Recipe,
    context: TrainContext,
    provenance: dict[str, Any],
    say: Callable[[str], None] = print_now,
) -> None:
    """Train to the recipe's last epoch, from the context's latest checkpoint if there is one.

    Reports metrics and a checkpoint after every epoch. `provenance` (variant, git commit, data
    hash) is stored in each checkpoint. `say` gets lines of progress on rank 0.
    Raises FloatingPointError when a loss is not finite.
    """
    run = _Run(objective, batches, recipe, context, say if context.rank == 0 else _silent)
    first_epoch, history = run.restore()
    started = time.perf_counter()
    for epoch in range(first_epoch, recipe.epochs):
        # Seeded by epoch, so a resumed run draws what an uninterrupted one would have drawn.
        torch.manual_seed(hash((recipe.seed, epoch, context.rank)) % 2**31)
        metrics = run.train_epoch(epoch) | run.validate() | {"epoch": epoch + 1, "step": run.step}
        history.append(metrics)
        eta_s = (time.perf_counter() - started) / (epoch + 1 - first_epoch)
        run.say(_epoch_line(metrics, recipe, eta_s * (recipe.epochs - epoch - 1)))
        state = {"epoch": epoch + 1, "step": run.step, "history": history, **provenance}
        save_to = functools.partial(
            save_checkpoint, module=objective, optimizer=run.optimizer_state(), state=state
        )
        context.report(metrics, save_to if context.rank == 0 else None)


def lr_factor(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """What the learning rate is multiplied with at a step; a pure function, so resume is exact."""
    if recipe.schedule == "step":
        return recipe.lr_gamma ** (step // steps_per_epoch // recipe.lr_step)
    if recipe.schedule == "cosine":
        total = recipe.epochs * steps_per_epoch
        warm_up = max(1, total // 20)
        return min((step + 1) / warm_up, (1 + math.cos(math.pi * step / total)) / 2)
    return 1.0


class _Run:
    """The parts of one worker's training, and its position."""

    def __init__(
        self,
        objective: nn.Module,
        batches: Batches,
        recipe: Recipe,
        context: TrainContext,
        say: Callable[[str], None],
    ) -> None:
        objective.to(context.device)
        if recipe.channels_last:
            objective.to(memory_format=torch.channels_last)
        self.objective, self.batches, self.recipe = objective, batches, recipe
        self.context, self.say = context, say
        self.params = [p for p in objective.parameters() if p.requires_grad]
        self.optimizer = OPTIMIZERS[recipe.optimizer](
            self.params, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True
        )
        self.scaler = torch.amp.GradScaler(context.device.type, enabled=recipe.precision == "fp16")
        stepper = context.wrap(objective)
        self.forward = torch.compile(stepper) if recipe.compile else stepper
        self.step = 0

    def restore(self) -> tuple[int, list[dict[str, float]]]:
        """Go on from the latest checkpoint; returns the next epoch and the history so far."""
        checkpoint = self.context.latest_checkpoint()
        if checkpoint is None:
            return 0, []
        state, optimizer = load_checkpoint(checkpoint, self.objective)
        self.optimizer.load_state_dict(optimizer["optimizer"])
        self.scaler.load_state_dict(optimizer["scaler"])
        self.step = state["step"]
        self.say(f"going on after epoch {state['epoch']} of {self.recipe.epochs}")
        return state["epoch"], state["history"]

    def optimizer_state(self) -> dict[str, Any]:
        """What `restore` needs beside the networks."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """One epoch; returns its metrics, over all workers."""
        sums = _Sums(self.context.device)
        started = said = waited_from = time.perf_counter()
        waited = 0.0
        for number, (batch, weight) in enumerate(self.batches.train(epoch), 1):
            waited += time.perf_counter() - waited_from
            sums.add(self.train_step(batch, weight), len(batch["sample_id"]))
            waited_from = time.perf_counter()
            if waited_from - said > SAY_EVERY_S:
                said = waited_from
                speed = number / (said - started)
                self.say(
                    f"epoch {epoch + 1}/{self.recipe.epochs} · step {number}/"
                    f"{self.batches.steps_per_epoch} · {speed:.2f} steps/s"
                )
        seconds = time.perf_counter() - started
        return {f"train_{name}": value for name, value in sums.means().items()} | {
            "lr": self.optimizer.param_groups[0]["lr"],
            "images_per_s": sums.count / seconds,
            "data_wait": waited / seconds,
            "epoch_s": seconds,
        }

    def train_step(self, batch: Batch, weight: float) -> dict[str, Tensor]:
        """One optimizer step; returns the loss terms."""
        factor = lr_factor(self.recipe, self.step, self.batches.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr * factor
        terms = self.loss_terms(self.forward, batch)
        _check_finite(terms, batch, self.step)
        self.optimizer.zero_grad(set_to_none=True)
        # DDP averages over workers; the weight makes it an average over samples.
        self.scaler.scale(terms["loss"] * weight).backward()
        if self.recipe.grad_clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.params, self.recipe.grad_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        return terms

    def validate(self) -> dict[str, float]:
        """Loss terms of the validation split, over all workers; nothing when it is empty."""
        sums = _Sums(self.context.device)
        self.objective.eval()
        with torch.no_grad():
            for batch, _ in self.batches.val():
                sums.add(self.loss_terms(self.objective, batch), len(batch["sample_id"]))
        self.objective.train()
        return {f"val_{name}": value for name, value in sums.means().items()}

    def loss_terms(
        self, forward: Callable[[Batch], dict[str, Tensor]], batch: Batch
    ) -> dict[str, Tensor]:
        """Move a batch to the device and run the objective under the recipe's precision."""
        device = self.context.device
        moved: Any = {
            key: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
            for key, value in batch.items()
        }
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.recipe.precision)
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            return forward(moved)


def _check_finite(terms: dict[str, Tensor], batch: Batch, step: int) -> None:
    if not bool(torch.isfinite(terms["loss"])):
        values = ", ".join(f"{name}={value.item():g}" for name, value in terms.items())
        raise FloatingPointError(
            f"step {step}: the loss is not finite ({values}); samples: "
            f"{', '.join(batch['sample_id'])}"
        )


class _Sums:
    """Image-weighted sums of loss terms, reduced over workers at the end."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.totals: dict[str, Tensor] = {}
        self.count = 0

    def add(self, terms: dict[str, Tensor], count: int) -> None:
        self.count += count
        for name, value in terms.items():
            total = self.totals.get(name, torch.zeros((), device=value.device))
            self.totals[name] = total + value.detach().float() * count

    def means(self) -> dict[str, float]:
        """Means over all workers; afterwards `count` is over all workers too."""
        names = sorted(self.totals)
        values = [self.totals[name].double() for name in names]
        count = torch.tensor(float(self.count), dtype=torch.float64, device=self.device)
        reduced = sum_over_ranks(torch.stack([*values, count]))
        self.count = int(reduced[-1])
        return {
            name: float(total / reduced[-1])
            for name, total in zip(names, reduced[:-1], strict=True)
        }


def _silent(line: str) -> None:
    pass


def _epoch_line(metrics: dict[str, float], recipe: Recipe, eta_s: float) -> str:
    val = f" · val {metrics['val_loss']:.4f}" if "val_loss" in metrics else ""
    return (
        f"epoch {metrics['epoch']:.0f}/{recipe.epochs} · loss {metrics['train_loss']:.4f}{val} · "
        f"{metrics['images_per_s']:.1f} images/s · waiting for data "
        f"{100 * metrics['data_wait']:.0f} % · ETA {eta_s / 60:.1f} min"
    )
