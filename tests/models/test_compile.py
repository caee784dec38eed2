"""`compile: true`: the same losses, and no compilation for every batch."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mde.train.objectives import SupervisedConfig, build_objective
from mde.train.recipe import Recipe
from tests.core.test_train import InMemory, SmallDepth, run
from tests.core.test_train_options import losses


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_step_keeps_the_losses_and_compiles_once_for_all_batches(tmp_path: Path):
    torch._dynamo.reset()
    plain = losses(tmp_path / "plain", epochs=2)
    with torch._dynamo.config.patch(recompile_limit=3, fail_on_recompile_limit_hit=True):
        assert losses(tmp_path / "compiled", epochs=2, compile=True) == pytest.approx(
            plain, rel=1e-4
        )


def test_the_compiled_step_is_a_compiled_one(tmp_path: Path):
    seen: list[bool] = []

    class Watched(SmallDepth):
        def forward(self, image: Tensor) -> list[Tensor]:
            seen.append(torch.compiler.is_compiling())
            return super().forward(image)

    torch._dynamo.reset()
    objective = build_objective(SupervisedConfig("supervised", "mse"), Watched())
    batches = InMemory(sizes=(4,))
    run(tmp_path, objective, batches, Recipe(epochs=1, batch_size=4, compile=True))
    assert all(seen)
