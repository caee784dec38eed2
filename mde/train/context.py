"""What a training loop may ask of its launcher: the seam between the loop and Ray or torchrun."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

SaveTo = Callable[[Path], None]


class TrainContext(Protocol):
    """One worker's view of the run."""

    rank: int
    world_size: int
    device: torch.device
    folder: Path
    """Of the run: what is kept for a person to inspect goes there."""

    def wrap(self, module: nn.Module) -> nn.Module:
        """Move a module to the device and, with several workers, average its gradients."""
        ...

    def report(self, metrics: dict[str, float], save_to: SaveTo | None) -> None:
        """Publish an epoch's metrics; `save_to`, given on rank 0, writes its checkpoint folder."""
        ...

    def latest_checkpoint(self) -> Path | None:
        """Folder of the newest whole checkpoint of this run, if there is one."""
        ...


class LocalContext:
    """One process, or one of torchrun's: checkpoints go to a folder, metrics to `history`."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.world_size = int(os.environ.get("WORLD_SIZE", "1"))
        local = os.environ.get("LOCAL_RANK", "0")
        self.device = torch.device(f"cuda:{local}" if device == "cuda" else device)
        self.folder = folder
        self.history: list[dict[str, float]] = []
        if self.world_size > 1 and not torch.distributed.is_initialized():
            torch.distributed.init_process_group("nccl" if device == "cuda" else "gloo")

    def wrap(self, module: nn.Module) -> nn.Module:
        """DDP when there is more than one process."""
        module = module.to(self.device)
        return DistributedDataParallel(module) if self.world_size > 1 else module

    def report(self, metrics: dict[str, float], save_to: SaveTo | None) -> None:
        """Keep the metrics; replace the checkpoint. At any moment one of the two is whole."""
        self.history.append(metrics)
        if save_to is None:
            return
        fresh = self.folder / "checkpoint.tmp"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        save_to(fresh)
        present, former = self.folder / "checkpoint", self.folder / "checkpoint.old"
        shutil.rmtree(former, ignore_errors=True)
        if present.exists():
            present.rename(former)
        fresh.rename(present)
        shutil.rmtree(former, ignore_errors=True)

    def latest_checkpoint(self) -> Path | None:
        """The folder's checkpoint, or the one before if a kill left only that."""
        folders = (self.folder / name for name in ("checkpoint", "checkpoint.old"))
        return next((folder for folder in folders if (folder / "state.json").is_file()), None)


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum a tensor over all workers; itself when there is one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(values)
    return values
