"""The training loop. It is handed an objective, batches and a context, and knows nothing else."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch

from mde.errors import InputError
from mde.schema import Batch
from mde.train.averages import Averages, means
from mde.train.checkpoint import load_checkpoint
from mde.train.checkpoints import Checkpoints, RunConfig
from mde.train.context import TrainContext, from_first
from mde.train.flushing import flushing
from mde.train.journal import Journal
from mde.train.progress import Lines, Progress, Show
from mde.train.recipe import History, Recipe, Stage, next_epoch
from mde.train.step import Stepper
from mde.train.sync_norm import synchronize_batch_norm
from mde.train.timing import Timing

__all__ = ["Batches", "Recipe", "RunConfig", "Stage", "train"]

SHOW_EVERY_S = 0.5
Paint = Callable[[Any, int, int], None]
"""Draws pictures of an objective after so many epochs and optimizer steps."""


class Batches(Protocol):
    """Where a worker's batches come from; every worker gets the same number of steps."""

    def train(self, epoch: int, start: int = 0) -> Iterator[tuple[Batch, float]]:
        """An epoch from step `start`: (batch, its share of the step's samples x workers)."""
        ...

    def val(self) -> Iterator[tuple[Batch, float]]:
        """This worker's batches of the validation split; those of all are it, once."""
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
    config: RunConfig | None = None,
    show: Show | None = None,
    paint: Paint | None = None,
) -> History:
    """Train to the recipe's last epoch, from the newest checkpoint in the context's storage.

    objective: a `mde.train.objectives.Objective`. provenance (variant, git commit, data hash) is
    stored in each checkpoint. Rank 0 writes checkpoints and the journal of metrics, both from
    threads of their own, calls `show` with its progress, and `paint` after each epoch's validation;
    when that fails, there is a note and training goes on.
    Returns the metrics of all epochs. Raises InputError when no checkpoint can be gone on from, and
    NotFiniteError when a loss is not finite.
    """
    run = _Run(objective, batches, recipe, context, provenance, config or RunConfig(), show)
    run.paint = paint if run.first else None
    with flushing(run.journal), run.checkpoints:
        run.restore()
        while (position := next_epoch(recipe, run.history)) is not None:
            run.train_epoch(*position)
    return run.history


class _Run:
    """One worker's training, and its position.

    step: optimizer steps so far. done: those of the present epoch.
    """

    def __init__(
        self,
        objective: Any,
        batches: Batches,
        recipe: Recipe,
        context: TrainContext,
        provenance: dict[str, Any],
        config: RunConfig,
        show: Show | None,
    ) -> None:
        if recipe.sync_batch_norm:
            synchronize_batch_norm(objective)
        objective.to(context.device)
        if recipe.channels_last:
            objective.to(memory_format=torch.channels_last)
        self.objective, self.batches, self.recipe = objective, batches, recipe
        self.context, self.config = context, config
        self.first = context.rank == 0
        self.show: Show = (show or Lines()) if self.first else _nobody
        self.journal = Journal(context.storage) if self.first else None
        flush = self.journal.flush if self.journal else lambda: None
        self.checkpoints = Checkpoints(context.storage, config, recipe, provenance, flush)
        self.history: History = []
        self.step = self.done = self.stage = 0
        self.loss, self.left_out = float("nan"), 0
        self.sums, self.timing = Averages(), Timing()
        self.paint: Paint | None = None

    def restore(self) -> None:
        """Go on from the newest checkpoint that fits, the same on all workers; else start."""
        found, failure = None, None
        if self.first:
            try:
                found = self.checkpoints.restore(self.objective, self._note)
            except InputError as error:
                failure = str(error)
        name, failure = from_first((found and found[0], failure))
        if failure:
            raise InputError(failure)
        if name and not found:
            folder = self.context.storage.fetch_folder(name)
            found = (name, *load_checkpoint(folder, self.objective))
        self.stage = found[1]["stage"] if found else 0
        self._start_stage(self.stage)
        if found:
            _, state, optimizer = found
            self.stepper.load_state_dict(optimizer)
            self.history, self.step, self.done = state["history"], state["step"], state["done"]
            if self.first:
                self.sums.restore(state["sums"])
                self.timing.restore(state["timing"])
            self._note(f"going on after step {self.step}")

    def _start_stage(self, number: int) -> None:
        stage = self.recipe.all_stages[number]
        self.objective.start_stage(stage.train, stage.output)
        self.stage = number
        self.stepper = Stepper(self.objective, self.recipe, stage, self.context)

    def train_epoch(self, stage: int, stage_epoch: int) -> None:
        """One epoch of a stage, or what is left of it; then the validation, and a checkpoint."""
        if stage != self.stage:
            self._start_stage(stage)
        steps, epoch = self.batches.steps_per_epoch, len(self.history)
        for batch, weight in self.timing.waiting(self.batches.train(epoch, self.done)):
            # Seeded by step, so a resumed run draws what an uninterrupted one would have drawn.
            torch.manual_seed(hash((self.recipe.seed, self.step, self.context.rank)) % 2**31)
            number = stage_epoch * steps + self.done
            terms = self.stepper.step(batch, weight, number, steps, self.step)
            self.sums.add(terms, len(batch["sample_id"]))
            self.timing.images += len(batch["sample_id"])
            self.step, self.done = self.step + 1, self.done + 1
            self._after_step(terms, len(batch["sample_id"]))
        self._end_epoch()

    def _after_step(self, terms: dict[str, Any], count: int) -> None:
        if self.step % self.config.log_steps == 0:
            # Of all workers: a global batch does not depend on their number.
            now = Averages()
            now.add(terms, count)
            values = {f"step_{name}": value for name, value in means(now.reduced()).items()}
            self._log(values | self.timing.rates(self.context.world_size) | {
                "step_lr": self.stepper.lr, "grad_norm": float(self.stepper.grad_norm)
            })  # fmt: skip
        if self.first and self.timing.due(SHOW_EVERY_S):
            self.loss = float(terms["loss"])
            self.show(self._progress())
        every = self.config.checkpoint_steps
        # The end of an epoch has a checkpoint of its own.
        if every and self.step % every == 0 and self.done < self.batches.steps_per_epoch:
            self._save()

    def _end_epoch(self) -> None:
        reduced = self.sums.reduced()
        seconds = self.timing.epoch_s
        metrics = {f"train_{name}": value for name, value in means(reduced).items()} | {
            "lr": self.stepper.lr,
            "images_per_s": reduced["count"] / seconds,
            "data_wait": self.timing.waited_s / seconds,
            "epoch_s": seconds,
            "epoch": len(self.history) + 1,
            "step": self.step,
            "stage": self.stage,
        }
        metrics |= {f"val_{name}": value for name, value in self.validate().items()}
        self.history.append(metrics)
        self._log({name: value for name, value in metrics.items() if name != "step"})
        self.loss = metrics["train_loss"]
        left_out, self.left_out = self.left_out, 0
        notes = [f"{left_out} checkpoints left out, the storage was busy"] if left_out else []
        # Before the checkpoint: a run that goes on from it has the pictures of what was before.
        notes += self._draw(len(self.history))
        self.show(self._progress(metrics, "; ".join(notes)))
        self.done, self.sums = 0, Averages()
        self.timing.start_epoch()
        self._save()

    def _draw(self, epoch: int) -> list[str]:
        """Have pictures painted; what went wrong, which is no reason to end a training."""
        try:
            if self.paint is not None:
                self.paint(self.objective, epoch, self.step)
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            return [f"no pictures: {reason}"]
        return []

    def validate(self) -> dict[str, float]:
        """Loss terms of the validation split, over all workers; nothing when it is empty."""
        sums = Averages()
        self.objective.eval()
        with torch.no_grad():
            for batch, _ in self.batches.val():
                sums.add(self.stepper.loss_terms(self.objective, batch), len(batch["sample_id"]))
        self.objective.train()
        return means(sums.reduced())

    def _save(self) -> None:
        self.stepper.guard.check()
        sums = self.sums.reduced()
        if not self.first:
            return
        if self.done and self.checkpoints.busy:
            self.left_out += 1
            return
        state = {
            "epoch": len(self.history), "stage": self.stage, "step": self.step, "done": self.done,
            "history": self.history, "sums": sums, "timing": self.timing.state(),
        }  # fmt: skip
        self.checkpoints.save(self.objective, self.stepper.state_dict(), state)

    def _log(self, values: dict[str, float]) -> None:
        if self.journal is not None:
            self.journal.add(self.step, values)

    def _note(self, text: str) -> None:
        self.show(self._progress(note=text))

    def _progress(self, ended: dict[str, float] | None = None, note: str = "") -> Progress:
        """How it stands; ended: metrics of the epoch that has just ended."""
        stages, steps = len(self.recipe.all_stages), self.batches.steps_per_epoch
        epoch, done = len(self.history) + (ended is None), steps if ended else self.done
        now = ended or self.timing.rates(self.context.world_size)
        return Progress(
            epoch=epoch,
            epochs=self.recipe.epochs,
            step=done,
            steps=steps,
            loss=self.loss,
            images_per_s=now["images_per_s"],
            data_wait=now["data_wait"],
            eta_s=(steps * (self.recipe.epochs - epoch + 1) - done) * self.timing.step_s,
            stage=f"stage {self.stage + 1}/{stages} · " if stages > 1 else "",
            val_loss=ended.get("val_loss") if ended else None,
            epoch_done=ended is not None,
            note=note,
        )


def _nobody(progress: Progress) -> None:
    pass
