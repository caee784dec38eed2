"""The training loop. It is handed an objective, batches and a context, and knows nothing else."""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from mde.schema import Batch
from mde.train.checkpoint import load_checkpoint, save_checkpoint
from mde.train.context import TrainContext, sum_over_ranks
from mde.train.recipe import History, Recipe, Stage, next_epoch
from mde.train.step import Stepper, Terms

__all__ = ["Batches", "Recipe", "Stage", "train"]

SAY_EVERY_S = 30

print_now = functools.partial(print, flush=True)


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
    objective: Any,
    batches: Batches,
    recipe: Recipe,
    context: TrainContext,
    provenance: dict[str, Any],
    say: Callable[[str], None] = print_now,
) -> None:
    """Train to the recipe's last epoch, from the context's latest checkpoint if there is one.

    objective: a `mde.train.objectives.Objective`. Reports metrics and a checkpoint after every
    epoch. `provenance` (variant, git commit, data hash) is stored in each checkpoint. `say` gets
    lines of progress on rank 0.
    Raises FloatingPointError when a loss is not finite, and keeps the batch.
    """
    run = _Run(objective, batches, recipe, context, say if context.rank == 0 else _silent)
    first_epoch = len(run.history)
    started = time.perf_counter()
    while (position := next_epoch(recipe, run.history)) is not None:
        epoch = len(run.history)
        # Seeded by epoch, so a resumed run draws what an uninterrupted one would have drawn.
        torch.manual_seed(hash((recipe.seed, epoch, context.rank)) % 2**31)
        metrics = run.train_epoch(*position) | run.validate()
        run.history.append({**metrics, "epoch": epoch + 1, "step": run.step, "stage": position[0]})
        eta_s = (time.perf_counter() - started) / (epoch + 1 - first_epoch)
        run.say(_epoch_line(run.history[-1], recipe, eta_s * (recipe.epochs - epoch - 1)))
        context.report(run.history[-1], run.save_to(provenance) if context.rank == 0 else None)


class _Run:
    """One worker's training, and its position."""

    def __init__(
        self,
        objective: Any,
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
        self.history: History = []
        self.stage, self.step = 0, 0
        checkpoint = context.latest_checkpoint()
        if checkpoint is None:
            self.stepper = self._start_stage(0)
            return
        state, stepper = load_checkpoint(checkpoint, objective)
        self.history, self.step = state["history"], state["step"]
        self.stage = int(self.history[-1]["stage"])
        self.stepper = self._start_stage(self.stage)
        self.stepper.load_state_dict(stepper)
        say(f"going on after epoch {state['epoch']} of {recipe.epochs}")

    def _start_stage(self, number: int) -> Stepper:
        stage = self.recipe.all_stages[number]
        self.objective.start_stage(stage.train, stage.output)
        return Stepper(self.objective, self.recipe, stage, self.context)

    def save_to(self, provenance: dict[str, Any]) -> Callable[..., None]:
        """What writes the checkpoint of this moment into a folder."""
        state = {
            "epoch": len(self.history), "step": self.step, "history": self.history, **provenance
        }  # fmt: skip
        return functools.partial(
            save_checkpoint,
            module=self.objective,
            optimizer=self.stepper.state_dict(),
            state=state,
        )

    def train_epoch(self, stage: int, stage_epoch: int) -> dict[str, float]:
        """One epoch of a stage; returns its metrics, over all workers."""
        if stage != self.stage:
            self.stage, self.stepper = stage, self._start_stage(stage)
            self.say(f"stage {stage + 1} of {len(self.recipe.all_stages)}")
        sums, steps = _Sums(self.context.device), self.batches.steps_per_epoch
        started = said = waited_from = time.perf_counter()
        waited, epoch = 0.0, len(self.history)
        for number, (batch, weight) in enumerate(self.batches.train(epoch)):
            waited += time.perf_counter() - waited_from
            terms = self.stepper.step(batch, weight, stage_epoch * steps + number, steps)
            sums.add(terms, len(batch["sample_id"]))
            self.step += 1
            waited_from = time.perf_counter()
            if waited_from - said > SAY_EVERY_S:
                said = waited_from
                speed = (number + 1) / (said - started)
                self.say(
                    f"epoch {epoch + 1}/{self.recipe.epochs} · step {number + 1}/{steps} · "
                    f"{speed:.2f} steps/s"
                )
        seconds = time.perf_counter() - started
        return {f"train_{name}": value for name, value in sums.means().items()} | {
            "lr": self.stepper.lr,
            "images_per_s": sums.count / seconds,
            "data_wait": waited / seconds,
            "epoch_s": seconds,
        }

    def validate(self) -> dict[str, float]:
        """Loss terms of the validation split, over all workers; nothing when it is empty."""
        sums = _Sums(self.context.device)
        self.objective.eval()
        with torch.no_grad():
            for batch, _ in self.batches.val():
                terms = self.stepper.loss_terms(self.objective, batch)
                sums.add(terms, len(batch["sample_id"]))
        self.objective.train()
        return {f"val_{name}": value for name, value in sums.means().items()}


class _Sums:
    """Image-weighted sums of loss terms, reduced over workers at the end."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.totals: dict[str, Tensor] = {}
        self.count = 0

    def add(self, terms: Terms, count: int) -> None:
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
