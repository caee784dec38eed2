"""Runs that are interrupted anywhere: exact resume, what is kept, what is passed over."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from mde.errors import InputError
from mde.storage import FolderStorage, open_storage
from mde.train.checkpoint import read_state
from mde.train.checkpoints import Checkpoints, RunConfig, checkpoint_names, result_name
from mde.train.context import LocalContext
from mde.train.journal import read_segment, segments
from mde.train.loop import train
from mde.train.progress import Progress
from mde.train.recipe import Recipe
from tests.core.test_train import (
    PROVENANCE,
    RECIPE,
    InMemory,
    NoisyDepth,
    SmallDepth,
    Stops,
    assert_equal,
    build,
    newest,
    quiet,
    run,
)

EVERY_STEP = RunConfig(checkpoint_steps=1, log_steps=1)
TIMES = {"images_per_s", "data_wait", "epoch_s"}


def curves(folder: Path) -> list[tuple[int, str, float]]:
    """All points of a journal, but for times."""
    storage = open_storage(folder)
    points = [p for name in segments(storage) for p in read_segment(storage, name)]
    return sorted((p.step, k, v) for p in points for k, v in p.values.items() if k not in TIMES)


# --- Anywhere in an epoch ---------------------------------------------------------------------


@pytest.mark.parametrize("at", range(2, 9))
def test_a_run_goes_on_in_mid_epoch_bit_for_bit(tmp_path: Path, at: int) -> None:
    recipe = replace(RECIPE, optimizer="adamw", weight_decay=0.01)
    config = replace(EVERY_STEP, checkpoint_steps=2)
    whole, resumed = build(NoisyDepth), build(NoisyDepth)
    expected = run(tmp_path / "whole", whole, InMemory(val_sizes=(4,)), recipe, config)
    stops = Stops(val_sizes=(4,), at=at)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", build(NoisyDepth), stops, recipe, config)
    nn.init.constant_(resumed.model.layers[0].weight, 9.0)
    torch.manual_seed(12345)
    history = run(tmp_path / "cut", resumed, InMemory(val_sizes=(4,)), recipe, config)
    assert_equal(resumed, whole)
    timeless = [{k: v for k, v in m.items() if k not in TIMES} for m in history]
    assert timeless == [{k: v for k, v in m.items() if k not in TIMES} for m in expected]
    assert curves(tmp_path / "cut") == curves(tmp_path / "whole")


def test_the_same_seed_gives_the_same_curve_to_the_bit(tmp_path: Path) -> None:
    for name in ("first", "second"):
        run(tmp_path / name, build(NoisyDepth), config=EVERY_STEP)
    assert curves(tmp_path / "first") == curves(tmp_path / "second")
    assert len({step for step, _, _ in curves(tmp_path / "first")}) == 9


def test_a_run_says_where_it_goes_on(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, build(), Stops(at=5), config=EVERY_STEP)
    said: list[Progress] = []
    run(tmp_path, build(), config=EVERY_STEP, show=said.append)
    step = (said[0].epoch - 1) * 3 + said[0].step
    # The newest checkpoint is that of the first epoch at least.
    assert step >= 3
    assert said[0].note == f"going on after step {step}"
    assert [p.epoch for p in said if p.epoch_done] == [2, 3]


# --- What is kept -----------------------------------------------------------------------------


def steps_kept(folder: Path) -> list[int]:
    return sorted(int(name.split("-")[1]) for name in checkpoint_names(open_storage(folder)))


class Worsens(InMemory):
    """The validation loss is lowest after the second of five epochs."""

    epoch = 0

    def train(self, epoch: int, start: int = 0):
        self.epoch = epoch
        return super().train(epoch, start)

    def val(self):
        for batch, weight in super().val():
            far = [5.0, 0.0, 7.0, 8.0, 9.0][self.epoch]
            yield batch | {"depth": batch["depth"] + far}, weight


def test_the_last_few_and_the_best_are_kept(tmp_path: Path) -> None:
    recipe = replace(RECIPE, epochs=5, lr=1e-5, result="best")
    run(tmp_path, build(), Worsens(val_sizes=(4,)), recipe)
    assert steps_kept(tmp_path) == [6, 12, 15]
    storage = open_storage(tmp_path)
    assert result_name(storage, recipe) == "step-000000006"
    assert result_name(storage, RECIPE) == "step-000000015"


def test_the_best_may_be_the_highest_of_any_metric(tmp_path: Path) -> None:
    recipe = replace(RECIPE, epochs=5, lr=1e-5, best_by="val_loss", best_is="highest")
    config = RunConfig(keep_last=1, keep_best=2)
    run(tmp_path, build(), Worsens(val_sizes=(4,)), recipe, config)
    assert steps_kept(tmp_path) == [12, 15]


def test_an_unknown_metric_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"best_by: no metric .* 'val_los'; .*train_loss"):
        run(tmp_path, build(), recipe=replace(RECIPE, best_by="val_los"))


def test_checkpoints_by_step_leave_the_best_epoch_alone(tmp_path: Path) -> None:
    config = RunConfig(checkpoint_steps=1, keep_last=1)
    recipe = replace(RECIPE, epochs=5, lr=1e-5)
    run(tmp_path, build(), Worsens(val_sizes=(4,)), recipe, config)
    assert steps_kept(tmp_path) == [6, 15]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep_last": 0}, "keep_last must be at least 1, found 0"),
        ({"checkpoint_steps": 0}, "checkpoint_steps must be at least 1"),
        ({"keep_best": 0}, "keep_best must be at least 1"),
    ],
)
def test_a_wrong_run_section_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunConfig(**settings)


# --- Checkpoints that cannot be used ----------------------------------------------------------


def flip(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-9] ^= 4
    path.write_bytes(content)


def truncate(folder: Path) -> None:
    path = folder / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-9])


def take_away(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("damage", [flip, truncate, take_away])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    whole, resumed = build(NoisyDepth), build(NoisyDepth)
    run(tmp_path / "whole", whole)
    run(tmp_path / "cut", build(NoisyDepth), recipe=RECIPE)
    damaged = newest(tmp_path / "cut")
    damage(damaged)
    said: list[Progress] = []
    run(tmp_path / "cut", resumed, show=said.append)
    assert f"checkpoint passed over: {damaged}" in said[0].note
    assert said[1].note == "going on after step 6"
    assert_equal(resumed, whole)
    # What was damaged has been written anew.
    read_state(damaged)


def test_when_no_checkpoint_can_be_used_nothing_is_trained(tmp_path: Path) -> None:
    run(tmp_path, build())
    for name in checkpoint_names(open_storage(tmp_path)):
        flip(tmp_path / name)
    with pytest.raises(InputError, match=r"none of its 2 checkpoints .* Delete the folder"):
        run(tmp_path, build())


class Wider(SmallDepth):
    """Another network."""

    def __init__(self) -> None:
        super().__init__()
        self.layers[0] = nn.Conv2d(3, 8, 5, padding=2)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    run(tmp_path, build(), recipe=replace(RECIPE, epochs=1))
    with pytest.raises(InputError, match="another network"):
        run(tmp_path, build(Wider))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data_sha256": "other"}, "another data_sha256: expected 'other', found 'def'"),
        ({"variant": {"name": "small", "lr": 2}}, "another variant: lr: expected 2, found None"),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    run(tmp_path, build(), recipe=replace(RECIPE, epochs=1))
    context = LocalContext(tmp_path)
    with pytest.raises(InputError, match=message):
        train(build(), InMemory(), RECIPE, context, PROVENANCE | changed, show=quiet)


def test_a_configuration_that_holds_tuples_is_known_again(tmp_path: Path) -> None:
    sized = PROVENANCE | {"variant": {"name": "small", "size": (64, 96)}}
    for _ in range(2):
        train(build(), InMemory(), RECIPE, LocalContext(tmp_path), sized, show=quiet)


def test_another_protocol_is_no_other_training(tmp_path: Path) -> None:
    run(tmp_path, build(), recipe=replace(RECIPE, epochs=1))
    judged = PROVENANCE | {"variant": {"name": "small", "protocol": "nyu"}}
    train(build(), InMemory(), RECIPE, LocalContext(tmp_path), judged, show=quiet)


# --- Written beside the training --------------------------------------------------------------


class Slow(FolderStorage):
    """A storage that takes a folder when it is told to."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.ready = threading.Event()

    def put_folder(self, name: str, write: Callable[[Path], None]) -> None:
        assert self.ready.wait(60)
        super().put_folder(name, write)


def test_what_is_saved_is_the_moment_of_the_call(tmp_path: Path) -> None:
    storage, objective = Slow(tmp_path), build()
    state = {"step": 1, "history": []}
    before = {k: v.clone() for k, v in objective.state_dict().items()}
    with Checkpoints(storage, RunConfig(), RECIPE, {}) as checkpoints:
        checkpoints.save(objective, {}, state)
        assert checkpoints.busy
        nn.init.constant_(objective.model.layers[0].weight, 9.0)
        state["history"].append({"step": 1})
        storage.ready.set()
    saved = load_file(newest(tmp_path) / "model.safetensors")
    assert all(torch.equal(saved[name], before[name]) for name in before)
    assert read_state(newest(tmp_path))["history"] == []


def test_a_busy_storage_costs_checkpoints_of_steps_and_never_those_of_epochs(
    tmp_path: Path,
) -> None:
    context, said = LocalContext(tmp_path), []
    context.storage = storage = Slow(tmp_path)

    def show(progress: Progress) -> None:
        said.append(progress)
        if progress.epoch_done:
            storage.ready.set()

    config = RunConfig(checkpoint_steps=1, keep_last=9)
    train(build(), InMemory(), RECIPE, context, PROVENANCE, config, show)
    first = next(progress for progress in said if progress.epoch_done)
    assert first.note == "1 checkpoints left out, the storage was busy"
    assert {1, 3, 6, 9} <= set(steps_kept(tmp_path))
    assert 2 not in steps_kept(tmp_path)


def test_a_checkpoint_that_cannot_be_written_ends_the_training(tmp_path: Path) -> None:
    class Full(FolderStorage):
        def put_folder(self, name: str, write: Callable[[Path], None]) -> None:
            raise InputError(f"{name}: no space left")

    context = LocalContext(tmp_path)
    context.storage = Full(tmp_path)
    with pytest.raises(InputError, match="step-000000003: no space left"):
        train(build(), InMemory(), RECIPE, context, PROVENANCE, show=quiet)


# --- Not finite -------------------------------------------------------------------------------


class Rooted(SmallDepth):
    """Its prediction is finite, the slope of it at 0 is not."""

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        (out,) = super().forward(image)
        return [out + (0 * out).sqrt()]


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_weights(tmp_path: Path) -> None:
    objective = build(Rooted)
    with pytest.raises(FloatingPointError, match="step 0: the gradient is not finite"):
        run(tmp_path, objective)
    assert all(torch.isfinite(p).all() for p in objective.parameters())
    assert checkpoint_names(open_storage(tmp_path)) == []


def test_float16_may_skip_some_steps_and_not_all(tmp_path: Path) -> None:
    recipe = Recipe(epochs=9, batch_size=4, precision="fp16")
    with pytest.raises(FloatingPointError, match="step 20: the gradient is not finite"):
        run(tmp_path, build(Rooted), recipe=recipe)
