"""Several processes: more or fewer of them after an interruption, and norms over all of them."""

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mde.train.averages import Averages, means
from mde.train.checkpoints import RunConfig
from mde.train.context import LocalContext
from mde.train.loop import train
from mde.train.recipe import Recipe
from mde.train.sync_norm import synchronize_batch_norm
from tests.core.test_train import PROVENANCE, InMemory, SmallDepth, Stops, build, quiet, run

SIZES = (6, 4, 5, 4)
RECIPE = Recipe(epochs=3, batch_size=6, lr=1e-3, optimizer="adamw", schedule="cosine")


class NormedDepth(SmallDepth):
    """With batch norm, which sees more than one sample at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.layers.insert(1, nn.BatchNorm2d(8))


def in_processes(work: Callable[..., None], world_size: int, *arguments: Any) -> None:
    """Run `work(rank, *arguments)` as torchrun would; it sees RANK and the like."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    # Forked, so that the workers need not import everything again.
    torch.multiprocessing.start_processes(
        _enter, (world_size, port, work, arguments), nprocs=world_size, start_method="fork"
    )


def _enter(rank: int, world_size: int, port: str, work: Any, arguments: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    torch.set_num_threads(1)
    work(rank, *arguments)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


class Deals(Stops):
    """What is stopped is every worker, at the same step."""

    at = -1


def train_as_worker(rank: int, folder: str, world_size: int, stop_at: int) -> None:
    batches = Deals(SIZES, rank, world_size, val_sizes=(5, 4))
    batches.at = stop_at
    context, config = LocalContext(folder), RunConfig(checkpoint_steps=1)
    try:
        train(build(), batches, RECIPE, context, PROVENANCE, config, quiet)
    except KeyboardInterrupt:
        assert stop_at > 0


@pytest.mark.parametrize("worlds", [(2, 1, 4), (1, 2, 3)])
def test_a_run_goes_on_with_more_or_fewer_workers(tmp_path: Path, worlds: tuple[int, ...]) -> None:
    whole, resumed = build(), build()
    expected = run(tmp_path / "whole", whole, InMemory(SIZES, val_sizes=(5, 4)), RECIPE)
    for world_size, stop_at in zip(worlds, (2, 7, -1), strict=True):
        in_processes(train_as_worker, world_size, str(tmp_path / "parts"), world_size, stop_at)
    history = run(tmp_path / "parts", resumed, InMemory(SIZES, val_sizes=(5, 4)), RECIPE)
    for name in ("train_loss", "val_loss", "lr", "step"):
        wanted = [metrics[name] for metrics in expected]
        assert [metrics[name] for metrics in history] == pytest.approx(wanted, rel=1e-4)
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=1e-5)


# Adam would blow up the rounding errors of a bias before a norm, whose gradient is zero.
NORMED = replace(RECIPE, optimizer="sgd", lr=0.05)


def train_normed(rank: int, folder: str, synchronized: bool) -> None:
    recipe = replace(NORMED, sync_batch_norm=synchronized)
    objective = build(NormedDepth)
    batches = InMemory((6, 5), rank, 2)
    train(objective, batches, recipe, LocalContext(folder), PROVENANCE, show=quiet)
    torch.save(objective.state_dict(), Path(folder) / f"weights_{rank}.pt")


def test_synchronized_batch_norm_computes_what_one_worker_does(tmp_path: Path) -> None:
    whole = build(NormedDepth)
    run(tmp_path / "whole", whole, InMemory((6, 5)), NORMED)
    found = {}
    for synchronized in (True, False):
        folder = tmp_path / str(synchronized)
        in_processes(train_normed, 2, str(folder), synchronized)
        found[synchronized] = torch.load(folder / "weights_0.pt", weights_only=True)
    differences = {
        synchronized: max(
            float((weights[name].double() - value.double()).abs().max())
            for name, value in whole.state_dict().items()
        )
        for synchronized, weights in found.items()
    }
    assert differences[True] < 1e-5 < 1e-3 < differences[False]


def test_synchronized_batch_norm_is_the_plain_one_for_a_lone_worker() -> None:
    torch.manual_seed(0)
    plain, synchronized = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    synchronize_batch_norm(nn.Sequential(synchronized))
    image = torch.randn(2, 3, 4, 4)
    assert type(synchronized) is not nn.BatchNorm2d
    assert torch.equal(plain(image), synchronized(image))
    assert synchronized.state_dict().keys() == plain.state_dict().keys()


def average_as_worker(rank: int, folder: str) -> None:
    LocalContext(folder)
    averages = Averages()
    terms = [{"loss": torch.tensor(1.0)}, {"loss": torch.tensor(3.0), "extra": torch.tensor(8.0)}]
    if rank < 2:
        averages.add(terms[rank], count=rank + 1)
    torch.save(means(averages.reduced()), Path(folder) / f"means_{rank}.pt")


def test_means_count_images_and_take_workers_that_had_none(tmp_path: Path) -> None:
    in_processes(average_as_worker, 3, str(tmp_path))
    for rank in range(3):
        found = torch.load(tmp_path / f"means_{rank}.pt", weights_only=True)
        assert found == {"loss": pytest.approx(7 / 3), "extra": pytest.approx(16 / 3)}


def test_half_precision_keeps_its_type_through_a_synchronized_norm() -> None:
    norm = nn.Sequential(nn.BatchNorm2d(3))
    synchronize_batch_norm(norm)
    out: Tensor = norm(torch.randn(2, 3, 4, 4, dtype=torch.bfloat16))
    assert out.dtype == torch.bfloat16
