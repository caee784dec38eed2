"""The training loop: learning, schedules, exact resume, several processes."""

import itertools
import json
import math
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from mde.models import ModelConfig, build_model
from mde.storage import open_storage
from mde.train.checkpoint import read_state
from mde.train.checkpoints import RunConfig, checkpoint_names
from mde.train.context import LocalContext
from mde.train.loop import train
from mde.train.objectives import SupervisedConfig, build_objective
from mde.train.progress import Progress, Show
from mde.train.recipe import OPTIMIZERS, History, Recipe, lr_factor

PROVENANCE = {"variant": {"name": "small"}, "git_commit": "abc", "data_sha256": "def"}


class SmallDepth(nn.Module):
    """Two convolutions without batch norm, so that a batch is the mean of its samples."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 1, 3, padding=1)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        return [self.layers(image)]

    def native_to_depth(self, native: Tensor) -> Tensor:
        return native


class NoisyDepth(SmallDepth):
    """Draws random numbers in training, as dropout does."""

    def __init__(self) -> None:
        super().__init__()
        self.layers.insert(2, nn.Dropout(0.5))


def build(network: type[nn.Module] = SmallDepth, loss: str = "mse") -> nn.Module:
    torch.manual_seed(0)
    return build_objective(SupervisedConfig("supervised", loss), network())


def make_batch(start: int, stop: int, size: int = 8) -> dict[str, Any]:
    """Samples start..stop of an endless dataset; each is a function of its number."""
    images, depths = [], []
    for number in range(start, stop):
        generator = torch.Generator().manual_seed(number)
        image = torch.randint(0, 256, (3, size, size), dtype=torch.uint8, generator=generator)
        images.append(image)
        depths.append(1 + image.float().mean(0, keepdim=True) / 255)
    return {
        "sample_id": [f"sample_{number}" for number in range(start, stop)],
        "image": torch.stack(images),
        "depth": torch.stack(depths),
        "color_matrix": torch.eye(3, 4).repeat(stop - start, 1, 1),
        "K": torch.eye(3).repeat(stop - start, 1, 1),
        "baseline_m": torch.zeros(stop - start),
    }


@dataclass
class InMemory:
    """Batches of `sizes`, dealt sample by sample to the workers; every epoch starts elsewhere."""

    sizes: tuple[int, ...] = (4, 4, 3)
    rank: int = 0
    world_size: int = 1
    val_sizes: tuple[int, ...] = ()
    cache: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)

    @property
    def steps_per_epoch(self) -> int:
        return len(self.sizes)

    def train(self, epoch: int, start: int = 0) -> Iterator[tuple[Any, float]]:
        return itertools.islice(self._deal(1000 * epoch, self.sizes), start, None)

    def val(self) -> Iterator[tuple[Any, float]]:
        return self._deal(10**6, self.val_sizes)

    def _deal(self, start: int, sizes: tuple[int, ...]) -> Iterator[tuple[Any, float]]:
        for size in sizes:
            batch = make_batch(start, start + size)
            share = slice(self.rank, None, self.world_size)
            batch = {name: values[share] for name, values in batch.items()}
            yield batch, len(batch["sample_id"]) * self.world_size / size
            start += size


class OneBatch(InMemory):
    """The same batch in every epoch."""

    def train(self, epoch: int, start: int = 0) -> Iterator[tuple[Any, float]]:
        return super().train(0, start)


RECIPE = Recipe(epochs=3, batch_size=4, lr=1e-2, schedule="cosine")


def quiet(progress: Progress) -> None:
    pass


def run(
    folder: Path,
    objective: nn.Module,
    batches: Any = None,
    recipe: Recipe = RECIPE,
    config: RunConfig | None = None,
    show: Show = quiet,
) -> History:
    batches, context = batches or InMemory(), LocalContext(folder)
    return train(objective, batches, recipe, context, PROVENANCE, config, show)


def newest(folder: Path) -> Path:
    """The newest checkpoint in a run's folder."""
    return folder / checkpoint_names(open_storage(folder))[0]


def assert_equal(a: nn.Module, b: nn.Module) -> None:
    torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=0, atol=0)


# --- Learning ---------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_one_batch_is_learnt_by_heart(tmp_path: Path, optimizer):
    recipe = replace(RECIPE, epochs=30, optimizer=optimizer, schedule="constant")
    history = run(tmp_path, build(), OneBatch(sizes=(4,)), recipe)
    assert history[-1]["train_loss"] < history[0]["train_loss"] / 5


def test_a_real_depth_model_learns_too(tmp_path: Path):
    torch.manual_seed(0)
    model = build_model(ModelConfig("resfpn", "resnet18", "scratch", 0.1, 10.0))
    objective = build_objective(SupervisedConfig("supervised", "l1"), model)
    batch = make_batch(0, 2, size=64)

    class Again(InMemory):
        def train(self, epoch: int, start: int = 0) -> Iterator[tuple[Any, float]]:
            yield from 15 * [(batch, 1.0)]

    before = objective(batch)["loss"].item()
    run(tmp_path, objective, Again(sizes=15 * (2,)), Recipe(epochs=1, batch_size=2, lr=3e-4))
    assert objective(batch)["loss"].item() < before / 5


def test_history_counts_epochs_steps_and_images_and_has_the_validation_loss(tmp_path: Path):
    history = run(tmp_path, build(), InMemory(val_sizes=(4, 1)))
    assert [(m["epoch"], m["step"]) for m in history] == [(1, 3), (2, 6), (3, 9)]
    assert all(0 <= m["data_wait"] <= 1 and m["images_per_s"] > 0 for m in history)
    assert history[-1]["val_loss"] < history[0]["val_loss"]


def test_means_of_an_epoch_count_samples_and_not_batches(tmp_path: Path):
    objective = build()
    whole = next(InMemory(val_sizes=(5,)).val())[0]
    recipe = replace(RECIPE, epochs=1)
    (metrics,) = run(tmp_path, objective, InMemory(val_sizes=(4, 1)), recipe)
    with torch.no_grad():
        assert metrics["val_loss"] == pytest.approx(float(objective(whole)["loss"]), rel=1e-5)


def test_without_validation_data_there_is_no_validation_loss(tmp_path: Path):
    assert not [name for name in run(tmp_path, build())[0] if name.startswith("val")]


def test_gradients_are_clipped_when_asked_for(tmp_path: Path):
    def first_step(grad_clip: float | None) -> float:
        objective = build()
        before = [p.detach().clone() for p in objective.parameters()]
        recipe = Recipe(epochs=1, batch_size=4, lr=1.0, grad_clip=grad_clip)
        # Adam's first step does not depend on the gradient's length until it nears epsilon.
        run(tmp_path / str(grad_clip), objective, InMemory(sizes=(4,)), recipe)
        pairs = zip(objective.parameters(), before, strict=True)
        return max(float((p - b).detach().abs().max()) for p, b in pairs)

    assert first_step(None) == pytest.approx(1, rel=1e-3)
    assert first_step(1e-9) < 0.1


def test_bfloat16_runs_with_losses_in_float32(tmp_path: Path):
    recipe = replace(RECIPE, epochs=20, precision="bf16", schedule="constant")
    history = run(tmp_path, build(), OneBatch(sizes=(4,)), recipe)
    assert history[-1]["train_loss"] < history[0]["train_loss"] / 5


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_samples(tmp_path: Path):
    class Broken(InMemory):
        def train(self, epoch: int, start: int = 0) -> Iterator[tuple[Any, float]]:
            for number, (batch, weight) in enumerate(super().train(epoch, start)):
                if number == 1:
                    batch["depth"][0, 0, 0, 0] = math.inf
                yield batch, weight

    objective = build()
    message = r"step 1: the loss is not finite \(loss=inf\); samples: sample_4, .*, sample_7"
    with pytest.raises(FloatingPointError, match=message):
        run(tmp_path, objective, Broken())
    assert all(torch.isfinite(p).all() for p in objective.parameters())

    (kept,) = tmp_path.glob("non_finite-*.safetensors")
    with safe_open(kept, "pt") as file:
        assert file.get_tensor("depth")[0, 0, 0, 0] == math.inf
        assert torch.equal(file.get_tensor("image"), make_batch(4, 8)["image"])
        metadata = file.metadata()
    assert json.loads(metadata["sample_id"]) == [f"sample_{number}" for number in range(4, 8)]
    assert json.loads(metadata["terms"]) == {"loss": "inf"}


# --- Schedules --------------------------------------------------------------------------------


def factor(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    return lr_factor(recipe, recipe.all_stages[0], step, steps_per_epoch)


def test_a_constant_rate_stays():
    assert {factor(replace(RECIPE, schedule="constant"), step, 10) for step in range(30)} == {1}


def test_the_step_schedule_drops_after_every_lr_step_epochs():
    recipe = Recipe(epochs=5, batch_size=1, schedule="step", lr_step=2, lr_gamma=0.1)
    factors = [factor(recipe, step, 10) for step in range(50)]
    assert factors == pytest.approx([1] * 20 + [0.1] * 20 + [0.01] * 10)


def test_cosine_warms_up_for_a_twentieth_and_decays_towards_zero():
    recipe = Recipe(epochs=10, batch_size=1, schedule="cosine")
    factors = [factor(recipe, step, 20) for step in range(200)]
    assert factors[:10] == pytest.approx([0.1 * n for n in range(1, 11)], abs=0.01)
    assert factors[100] == pytest.approx(0.5)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert 0 < factors[-1] < 1e-3
    assert factor(replace(recipe, epochs=1), 0, 1) == 1


def test_the_rate_in_the_history_is_that_of_the_last_step(tmp_path: Path):
    history = run(tmp_path, build())
    assert history[1]["lr"] == pytest.approx(RECIPE.lr * factor(RECIPE, 5, 3))


# --- Resume -----------------------------------------------------------------------------------


@dataclass
class Stops(InMemory):
    """Is interrupted before step `at` of the run, the first of the second epoch by default."""

    at: int = 3

    def train(self, epoch: int, start: int = 0) -> Iterator[tuple[Any, float]]:
        for number, item in enumerate(super().train(epoch, start), start):
            if epoch * self.steps_per_epoch + number == self.at:
                raise KeyboardInterrupt
            yield item


@pytest.mark.parametrize("schedule", ["constant", "step", "cosine"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path: Path, schedule):
    recipe = replace(RECIPE, schedule=schedule, lr_step=1, weight_decay=0.01, optimizer="adamw")
    batches = InMemory(val_sizes=(4,))
    whole = build(NoisyDepth)
    expected = run(tmp_path / "whole", whole, batches, recipe)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", build(NoisyDepth), Stops(val_sizes=(4,)), recipe)
    resumed = build(NoisyDepth)
    nn.init.constant_(resumed.model.layers[0].weight, 9.0)
    torch.manual_seed(12345)
    history = run(tmp_path / "cut", resumed, batches, recipe)

    assert_equal(resumed, whole)
    assert [m["epoch"] for m in history] == [1, 2, 3]
    for name in ("train_loss", "val_loss", "lr", "step"):
        assert [m[name] for m in history] == [m[name] for m in expected]


def test_a_resumed_run_in_float16_keeps_the_scale_of_its_gradients(tmp_path: Path):
    class Far(InMemory):
        """Errors so large that float16 gradients overflow until the scale has come down."""

        def train(self, epoch: int, start: int = 0) -> Iterator[tuple[Any, float]]:
            for batch, weight in super().train(epoch, start):
                yield batch | {"depth": 20 * batch["depth"]}, weight

    recipe = replace(RECIPE, precision="fp16", schedule="constant")
    whole, resumed = build(), build()
    run(tmp_path / "whole", whole, Far(), recipe)
    run(tmp_path / "cut", build(), Far(), replace(recipe, epochs=2))
    run(tmp_path / "cut", resumed, Far(), recipe)
    assert_equal(resumed, whole)


def test_dropout_makes_the_resume_test_mean_something():
    torch.manual_seed(0)
    noisy, batch = build(NoisyDepth), make_batch(0, 4)
    assert noisy(batch)["loss"] != noisy(batch)["loss"]


def test_a_checkpoint_tells_where_it_comes_from(tmp_path: Path):
    run(tmp_path, build())
    state = read_state(newest(tmp_path))
    assert (state["epoch"], state["step"]) == (3, 9)
    assert PROVENANCE.items() <= state.items()


def test_a_finished_run_is_left_alone(tmp_path: Path):
    finished = build()
    run(tmp_path, finished)
    again = build()
    assert len(run(tmp_path, again)) == RECIPE.epochs
    assert_equal(again, finished)


# --- Two processes ----------------------------------------------------------------------------

SIZES = (6, 4, 5, 3)
"""Batches of which some leave one worker a sample less."""


def train_as_worker(rank: int, port: int, folder: str) -> None:
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    objective = build()
    if rank == 1:
        # DDP starts every worker from the weights of the first.
        nn.init.zeros_(objective.model.layers[0].weight)
    context = LocalContext(Path(folder))
    recipe = Recipe(epochs=2, batch_size=6, lr=1e-3)
    batches = InMemory(SIZES, rank, 2, val_sizes=(5, 4))
    history = train(objective, batches, recipe, context, PROVENANCE, show=quiet)
    torch.save((objective.state_dict(), history), Path(folder) / f"worker_{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_compute_what_one_does_with_the_whole_batches(tmp_path: Path):
    objective = build()
    recipe = Recipe(epochs=2, batch_size=6, lr=1e-3)
    alone = run(tmp_path / "alone", objective, InMemory(SIZES, val_sizes=(5, 4)), recipe)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Forked, so that the workers need not import everything again.
    torch.multiprocessing.start_processes(
        train_as_worker, (port, str(tmp_path)), nprocs=2, start_method="fork"
    )
    for rank in (0, 1):
        weights, history = torch.load(tmp_path / f"worker_{rank}.pt", weights_only=True)
        torch.testing.assert_close(weights, dict(objective.state_dict()), rtol=0, atol=1e-5)
        for name in ("train_loss", "val_loss", "step"):
            expected = [metrics[name] for metrics in alone]
            assert [m[name] for m in history] == pytest.approx(expected, rel=1e-4)
