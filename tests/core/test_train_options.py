"""Options of the loop: stages, patience, accumulation, memory format."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mde.errors import InputError
from mde.train.checkpoints import RunConfig
from mde.train.progress import Progress
from mde.train.recipe import Recipe, Stage, next_epoch
from mde.train.step import split_batch
from tests.core.test_train import (
    RECIPE,
    InMemory,
    Stops,
    assert_equal,
    build,
    make_batch,
    run,
)


class TwoScales(nn.Module):
    """A coarse map, and a fine one that is made from it."""

    def __init__(self) -> None:
        super().__init__()
        self.coarse = nn.Conv2d(3, 1, 3, padding=1)
        self.fine = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, image: Tensor) -> list[Tensor]:
        coarse = self.coarse(image)
        return [self.fine(torch.cat([image, coarse], 1)), coarse]

    def native_to_depth(self, native: Tensor) -> Tensor:
        return native


STAGED = Recipe(
    epochs=5,
    batch_size=4,
    lr=1e-2,
    stages=(Stage(2, train=("coarse",), output=1), Stage(3, train=("fine",), lr=5e-3)),
)


def weights(objective: Any) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in objective.model.named_parameters()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


# --- Stages -----------------------------------------------------------------------------------


class Watches:
    """Notes what every epoch has changed."""

    def __init__(self, objective: Any) -> None:
        self.objective, self.before = objective, weights(objective)
        self.changes: list[set[str]] = []

    def __call__(self, progress: Progress) -> None:
        if progress.epoch_done:
            now = weights(self.objective)
            self.changes.append(changed(self.before, now))
            self.before = now


def test_each_stage_trains_its_part_at_its_rate(tmp_path: Path):
    objective = build(TwoScales)
    watches = Watches(objective)
    history = run(tmp_path, objective, InMemory(val_sizes=(4,)), STAGED, show=watches)
    assert watches.changes == [{"coarse"}, {"coarse"}, {"fine"}, {"fine"}, {"fine"}]
    assert [m["stage"] for m in history] == [0, 0, 1, 1, 1]
    assert [m["lr"] for m in history] == [1e-2, 1e-2, 5e-3, 5e-3, 5e-3]


@pytest.mark.parametrize("interrupted_at", [3, 4, 6, 8, 11])
def test_a_staged_run_is_resumed_in_its_stage(tmp_path: Path, interrupted_at: int):
    recipe = replace(STAGED, schedule="cosine", optimizer="adamw")
    every_step = RunConfig(checkpoint_steps=1)
    whole, resumed = build(TwoScales), build(TwoScales)
    expected = run(tmp_path / "whole", whole, InMemory(), recipe)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", build(TwoScales), Stops(at=interrupted_at), recipe, every_step)
    history = run(tmp_path / "cut", resumed, InMemory(), recipe, every_step)
    assert_equal(resumed, whole)
    assert [m["train_loss"] for m in history] == [m["train_loss"] for m in expected]
    assert [m["stage"] for m in history] == [0, 0, 1, 1, 1]


def epochs(*losses: float, stage: int = 0) -> list[dict[str, float]]:
    return [{"stage": stage, "val_loss": loss} for loss in losses]


def test_patience_counts_epochs_since_the_best():
    recipe = Recipe(epochs=9, batch_size=1, patience=2)
    assert next_epoch(recipe, []) == (0, 0)
    assert next_epoch(recipe, epochs(3, 2, 2.5)) == (0, 3)
    assert next_epoch(recipe, epochs(3, 2, 2.5, 1.9)) == (0, 4)
    assert next_epoch(recipe, epochs(3, 2, 2.5, 2.0)) is None
    assert next_epoch(replace(recipe, patience=None), epochs(3, 2, 2.5, 2.0)) == (0, 4)


def test_a_stage_that_is_out_of_patience_makes_room_for_the_next():
    recipe = Recipe(epochs=9, batch_size=1, stages=(Stage(5, patience=1), Stage(4, patience=1)))
    first = epochs(3, 2, 2.5)
    assert next_epoch(recipe, epochs(3, 2)) == (0, 2)
    assert next_epoch(recipe, first) == (1, 0)
    # What the first stage reached does not count against the second.
    assert next_epoch(recipe, first + epochs(9, stage=1)) == (1, 1)
    assert next_epoch(recipe, first + epochs(9, 9, stage=1)) is None


def test_patience_without_validation_data_is_refused():
    recipe = Recipe(epochs=9, batch_size=1, patience=2)
    with pytest.raises(InputError, match=r"patience .* no val split"):
        next_epoch(recipe, [{"stage": 0, "train_loss": 1.0}])


def test_training_ends_when_the_validation_loss_no_longer_falls(tmp_path: Path):
    class Hopeless(InMemory):
        def val(self) -> Iterator[tuple[Any, float]]:
            for batch, weight in super().val():
                yield batch | {"depth": 1e3 - batch["depth"]}, weight

    recipe = replace(RECIPE, epochs=50, lr=1e-4, patience=2, schedule="constant")
    objective = build()
    # Moves away from what the validation split asks for, from the first epoch on.
    nn.init.constant_(objective.model.layers[-1].bias, 5.0)
    history = run(tmp_path, objective, Hopeless(val_sizes=(4,)), recipe)
    assert len(history) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 4, "stages": (Stage(2), Stage(3))}, "the sum of the stages' .5., found 4"),
        ({"epochs": 2, "stages": (Stage(2),), "patience": 1}, "each of the stages"),
        ({"epochs": 2, "accumulate": 0}, "accumulate must be positive, found 0"),
        ({"epochs": 2, "momentum": 1.0}, "momentum must be within 0 and 1, found 1.0"),
        ({"epochs": 2, "patience": 0}, "patience must be positive, found 0"),
    ],
)
def test_a_wrong_recipe_is_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        Recipe(batch_size=4, **settings)


# --- Accumulation -----------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [2, 3, 99])
def test_accumulated_steps_equal_whole_ones(tmp_path: Path, accumulate: int):
    whole, parts = build(), build()
    batches = InMemory(sizes=(4, 5, 3))
    expected = run(tmp_path / "whole", whole, batches)
    recipe = replace(RECIPE, accumulate=accumulate)
    history = run(tmp_path / "parts", parts, batches, recipe)
    assert [m["train_loss"] for m in history] == pytest.approx(
        [m["train_loss"] for m in expected], rel=1e-5
    )
    torch.testing.assert_close(parts.state_dict(), whole.state_dict(), rtol=0, atol=1e-6)


def test_parts_of_a_batch_differ_by_one_sample_at_most_and_lose_none():
    parts = list(split_batch(make_batch(0, 7), 3))
    assert [part["sample_id"] for part in parts] == [
        ["sample_0", "sample_1"], ["sample_2", "sample_3"], ["sample_4", "sample_5", "sample_6"],
    ]  # fmt: skip
    assert torch.equal(torch.cat([part["image"] for part in parts]), make_batch(0, 7)["image"])
    assert len(list(split_batch(make_batch(0, 2), 5))) == 2


# --- Memory format, fused kernels -------------------------------------------------------------


def losses(folder: Path, **options: Any) -> list[float]:
    history = run(folder, build(), InMemory(), replace(RECIPE, **options))
    return [metrics["train_loss"] for metrics in history]


@pytest.mark.parametrize(
    "options", [{"channels_last": True}, {"fused": False}, {"optimizer": "adamw", "fused": False}]
)
def test_options_that_only_change_the_speed_keep_the_losses(tmp_path: Path, options: dict):
    plain = losses(tmp_path / "plain", **{k: v for k, v in options.items() if k == "optimizer"})
    assert losses(tmp_path / "changed", **options) == pytest.approx(plain, rel=1e-4)


def test_channels_last_reaches_the_convolutions(tmp_path: Path):
    objective = build()
    run(tmp_path, objective, recipe=replace(RECIPE, epochs=1, channels_last=True))
    assert objective.model.layers[0].weight.is_contiguous(memory_format=torch.channels_last)
