"""Train a variant with Ray Train: DDP workers, each with its feed, checkpoints in the storage."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import (
    Checkpoint,
    CheckpointConfig,
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
    UserCallback,
)
from ray.train.torch import TorchTrainer, get_device
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mde.cluster.feed import Feed
from mde.cluster.read_ahead import ReadAhead
from mde.cluster.session import ClusterConfig, check_resources, connect, find_input_error, quiet
from mde.train.context import SaveTo
from mde.train.loop import train
from mde.train.objectives import SupervisedConfig
from mde.variants import Variant, build_networks

OnEpoch = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class FitJob:
    """Everything a worker needs, on whichever node it runs.

    data: the dataset's folder, on storage that all nodes see. provenance: kept in checkpoints.
    """

    variant: Variant
    data: Path
    cluster: ClusterConfig
    provenance: dict[str, Any]


def fit(job: FitJob, storage: Path, name: str, on_epoch: OnEpoch) -> Path:
    """Train to the end, from the last checkpoint of run `name` in `storage` if there is one.

    on_epoch gets an epoch's metrics, once, in the controller's process: not on the step's path.
    Returns the folder of the last checkpoint. Raises InputError for what a person can mend.
    """
    connect()
    check_resources(job.cluster)
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job, "folder": storage.resolve() / name},
        scaling_config=ScalingConfig(
            num_workers=job.cluster.num_workers,
            use_gpu=job.cluster.use_gpu,
            resources_per_worker={
                "CPU": job.cluster.cpus_per_worker,
                **({"GPU": 1} if job.cluster.use_gpu else {}),
            },
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(storage.resolve()),
            failure_config=FailureConfig(max_failures=job.cluster.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            callbacks=[EpochCallback(on_epoch)],  # type: ignore[list-item]
            logging_config=LoggingConfig(log_level="ERROR"),  # type: ignore[call-arg]
        ),
    )
    try:
        result = trainer.fit()
    except Exception as error:
        raise find_input_error(error) or error from None
    if result.checkpoint is None:
        raise RuntimeError(f"training of {name} ended without a checkpoint")
    return Path(result.checkpoint.path)


def train_worker(config: dict[str, Any]) -> None:
    """What runs in each training worker."""
    quiet()
    job: FitJob = config["job"]
    variant, context = job.variant, RayContext(config["folder"])
    # Equal on all ranks, and from run to run.
    torch.manual_seed(variant.recipe.seed)
    objective = build_networks(variant)
    feed = Feed(
        folder=job.data,
        images=variant.objective.images,
        with_depth=isinstance(variant.objective, SupervisedConfig),
        batch_size=variant.recipe.batch_size,
        seed=variant.recipe.seed,
        augment=variant.augment,
        rank=context.rank,
        world_size=context.world_size,
        decode_tasks=job.cluster.decode_tasks,
        cpus_per_decode=job.cluster.cpus_per_decode,
    )
    batches = ReadAhead(feed, variant.recipe.epochs)
    train(objective, batches, variant.recipe, context, job.provenance)


class RayContext:
    """`mde.train.context.TrainContext` on a Ray Train worker."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        worker = ray.train.get_context()
        self.rank: int = worker.get_world_rank()
        self.world_size: int = worker.get_world_size()
        self.device: torch.device = get_device()

    def wrap(self, module: nn.Module) -> nn.Module:
        """DDP; Ray Train has set up the process group (NCCL or gloo)."""
        module = module.to(self.device)
        if self.world_size == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices)

    def report(self, metrics: dict[str, float], save_to: SaveTo | None) -> None:
        """Hand metrics and rank 0's checkpoint to the controller; all workers meet here."""
        if save_to is None:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            save_to(Path(folder))
            ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))

    def latest_checkpoint(self) -> Path | None:
        """The newest checkpoint that the controller knows, copied here if it lies elsewhere."""
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return None
        self._restored = Path(tempfile.mkdtemp())
        return Path(checkpoint.to_directory(str(self._restored)))


class EpochCallback(UserCallback):
    """Runs in the controller, so it outlives workers and needs no rank."""

    def __init__(self, on_epoch: OnEpoch) -> None:
        self.on_epoch = on_epoch

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None
    ) -> None:
        """Called once for each report that all workers have made."""
        self.on_epoch(metrics[0])

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Say which workers failed, and why; Ray Train then restarts all or gives up."""
        for rank, error in worker_exceptions.items():
            print(f"worker {rank} failed: {find_input_error(error) or error}", flush=True)
