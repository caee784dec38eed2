"""What a training loop may ask of its launcher: the seam between the loop and Ray or torchrun."""

import os
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mde.storage import Storage, open_storage


class TrainContext(Protocol):
    """One worker's view of the run."""

    rank: int
    world_size: int
    device: torch.device
    storage: Storage
    """Of the run: checkpoints, the journal, and what is kept for a person to inspect."""

    def wrap(self, module: nn.Module) -> nn.Module:
        """Move a module to the device and, with several workers, average its gradients."""
        ...


class LocalContext:
    """One process, or one of torchrun's, that keeps its run in a folder or at a URI."""

    def __init__(self, folder: Path | str, device: str = "cpu") -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.world_size = int(os.environ.get("WORLD_SIZE", "1"))
        local = os.environ.get("LOCAL_RANK", "0")
        self.device = torch.device(f"cuda:{local}" if device == "cuda" else device)
        self.storage = open_storage(folder)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        if self.world_size > 1 and not torch.distributed.is_initialized():
            torch.distributed.init_process_group("nccl" if device == "cuda" else "gloo")

    def wrap(self, module: nn.Module) -> nn.Module:
        """DDP when there is more than one process."""
        return data_parallel(module, self.device, self.world_size)


def data_parallel(module: nn.Module, device: torch.device, world_size: int) -> nn.Module:
    """A module on its device, in DDP when there are several workers."""
    module = module.to(device)
    if world_size == 1:
        return module
    return DistributedDataParallel(module, [device] if device.type == "cuda" else None)


def gather(value: Any) -> list[Any]:
    """A plain value of each worker, by rank; all workers must call it."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    values = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def from_first(value: Any) -> Any:
    """The first worker's plain value, on all workers; all must call it."""
    return gather(value)[0]
