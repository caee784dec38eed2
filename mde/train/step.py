"""One optimizer step on one worker: precision, accumulation, clipping."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mde.schema import Batch
from mde.train.context import TrainContext
from mde.train.guard import Guard, Terms
from mde.train.recipe import Recipe, Stage, build_optimizer, lr_factor


class Stepper:
    """A stage's optimizer and the steps that it makes.

    params: what is trained. guard: what ends a run that is not finite. grad_norm: of the last
    step, before clipping.
    """

    def __init__(
        self, objective: nn.Module, recipe: Recipe, stage: Stage, context: TrainContext
    ) -> None:
        self.objective, self.recipe, self.stage, self.context = objective, recipe, stage, context
        self.params = [p for p in objective.parameters() if p.requires_grad]
        self.optimizer = build_optimizer(self.params, recipe, stage)
        self.full_lr = self.optimizer.param_groups[0]["lr"]
        self.scaler = torch.amp.GradScaler(context.device.type, enabled=recipe.precision == "fp16")
        self.guard = Guard(context, scaled=self.scaler.is_enabled())
        self.grad_norm = torch.zeros(())
        self.wrapped = context.wrap(objective)
        self.forward = torch.compile(self.wrapped) if recipe.compile else self.wrapped

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on within the stage."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])

    @property
    def lr(self) -> float:
        """The rate of the last step."""
        return self.optimizer.param_groups[0]["lr"]

    def step(
        self,
        batch: Batch,
        weight: float,
        number: int,
        steps_per_epoch: int,
        run_step: int | None = None,
    ) -> Terms:
        """One optimizer step; returns the loss terms, means over the batch.

        weight: the batch's share of the step's samples times the number of workers. number: of the
        step within the stage. run_step: of the step in the run, for messages; None: number.
        Raises NotFiniteError when the loss or its gradient is not finite.
        """
        factor = lr_factor(self.recipe, self.stage, number, steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = self.full_lr * factor
        self.optimizer.zero_grad(set_to_none=True)
        sums: Terms = {}
        parts = list(split_batch(batch, self.recipe.accumulate))
        for index, part in enumerate(parts):
            share = len(part["sample_id"]) / len(batch["sample_id"])
            with self._average_gradients(index == len(parts) - 1):
                terms = self.loss_terms(self.forward, part)
                # DDP averages over workers; the weight makes it an average over samples.
                self.scaler.scale(terms["loss"] * (weight * share)).backward()
            for name, value in terms.items():
                sums[name] = sums.get(name, 0) + value.detach() * share
        self._apply(sums, batch, number if run_step is None else run_step)
        return sums

    def _apply(self, sums: Terms, batch: Batch, number: int) -> None:
        self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.params if p.grad is not None]
        self.grad_norm = nn.utils.get_total_norm(gradients)
        self.guard.watch(self.grad_norm, sums, batch, number)
        if self.recipe.grad_clip is not None:
            nn.utils.clip_grads_with_norm_(self.params, self.recipe.grad_clip, self.grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def loss_terms(self, forward: Callable[[Any], Terms], batch: Batch) -> Terms:
        """Move a batch to the device and run the objective under the recipe's precision."""
        # Names are not for the device, and a compiled step would be compiled anew for each.
        moved = {
            key: value.to(self.context.device, non_blocking=True)
            for key, value in batch.items()
            if isinstance(value, Tensor)
        }
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.recipe.precision)
        with torch.autocast(self.context.device.type, dtype, enabled=dtype is not None):
            return forward(moved)

    def _average_gradients(self, last: bool) -> contextlib.AbstractContextManager[None]:
        # Workers exchange gradients once a step, after the last part.
        no_sync = getattr(self.wrapped, "no_sync", None)
        return contextlib.nullcontext() if last or no_sync is None else no_sync()


def split_batch(batch: Batch, parts: int) -> Iterator[Batch]:
    """Cut a batch into at most `parts` parts of nearly equal size, none of them empty."""
    size = len(batch["sample_id"])
    parts = min(parts, size)
    bounds = [size * i // parts for i in range(parts + 1)]
    for start, end in itertools.pairwise(bounds):
        part: Any = {name: values[start:end] for name, values in batch.items()}  # type: ignore[index]
        yield part
