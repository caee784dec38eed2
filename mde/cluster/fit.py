"""Train a variant with Ray Train: DDP workers, each with its feed, checkpoints in the storage."""

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from pyarrow.fs import FSSpecHandler, PyFileSystem
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device
from torch import nn

from mde.bucket import open_bucket, parse_bucket
from mde.cluster.board import start_board, watching
from mde.cluster.feed import Feed
from mde.cluster.read_ahead import ReadAhead
from mde.cluster.say_why import SayWhy
from mde.cluster.session import ClusterConfig, check_resources, connect, find_input_error, quiet
from mde.data.curated import PicturesConfig
from mde.storage import open_storage
from mde.train import checkpoints
from mde.train.context import data_parallel
from mde.train.guard import NotFiniteError
from mde.train.loop import train
from mde.train.objectives import SupervisedConfig
from mde.variants import Variant, build_networks


@dataclass(frozen=True)
class FitJob:
    """Everything a worker needs, on whichever node it runs.

    data: the dataset, and storage: of this run; paths or URIs that all nodes see. provenance: kept
    in checkpoints. pictures: what is drawn after an epoch.
    """

    variant: Variant
    data: Path | str
    storage: str
    cluster: ClusterConfig
    provenance: dict[str, Any]
    run: checkpoints.RunConfig = field(default_factory=checkpoints.RunConfig)
    pictures: PicturesConfig = field(default_factory=PicturesConfig)


def fit(job: FitJob) -> Path:
    """Train to the end, from the newest checkpoint in the run's storage if there is one.

    Workers that die, and nodes, are replaced `max_failures` times. Returns a local folder with the
    checkpoint that is the result: a copy that lives as long as this process when the storage is
    remote. Raises InputError for what a person can mend, and NotFiniteError when the loss is not
    finite.
    """
    connect()
    check_resources(job.cluster)
    board = start_board()
    trainer = _Trainer(
        train_worker,
        train_loop_config={"job": job, "board": board},
        scaling_config=_scaling(job.cluster),
        run_config=RunConfig(
            name="ray",
            failure_config=FailureConfig(max_failures=job.cluster.max_failures),
            callbacks=[SayWhy()],  # type: ignore[list-item]
            logging_config=LoggingConfig(log_level="ERROR"),  # type: ignore[call-arg]
            **_ray_storage(job.storage),
        ),
    )
    try:
        with watching(board, job.variant.name):
            trainer.fit()
    except Exception as error:
        raise find_input_error(error) or error from None
    if fatal := ray.get(board.fatal.remote()):
        raise fatal
    return result_of(job)


class _Trainer(TorchTrainer):
    """Without two actors that a tenth of the start's CPU time is spent on.

    One serves Ray Data's shards, which our feed is not. The other removes what a dead controller
    leaves, which Ray does when the driver is gone; it asks the dashboard every second.
    """

    def _create_default_callbacks(self) -> list[Any]:
        # By name: where Ray renames them, they come back, and nothing breaks.
        unused = ("DatasetsCallback", "PlacementGroupCleanerCallback")
        made: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]
        return [one for one in made if type(one).__name__ not in unused]


def result_of(job: FitJob) -> Path:
    """A local folder with the result of a run. Raises InputError when there is none."""
    storage = open_storage(job.storage)
    folder = storage.fetch_folder(checkpoints.result_name(storage, job.variant.recipe))
    # Its copies go with it.
    _opened.append(storage)
    return folder


_opened: list[Any] = []


def _scaling(cluster: ClusterConfig) -> ScalingConfig:
    gpus = {"GPU": 1} if cluster.use_gpu else {}
    fewest = cluster.min_workers or cluster.num_workers
    elastic = fewest < cluster.num_workers
    return ScalingConfig(
        # The type is that of an older class, which knows no range.
        num_workers=(fewest, cluster.num_workers) if elastic else cluster.num_workers,  # type: ignore[arg-type]
        use_gpu=cluster.use_gpu,
        resources_per_worker={"CPU": cluster.cpus_per_worker, **gpus},
        placement_strategy=cluster.placement,
    )


def _ray_storage(uri: str) -> dict[str, Any]:
    # Ray Train checks with it that every worker sees the storage; checkpoints are ours.
    if "://" not in uri:
        return {"storage_path": str(Path(uri).resolve())}
    place = parse_bucket(uri)
    # Not Arrow's own client: it makes folders, which not every server takes for nothing.
    system = PyFileSystem(FSSpecHandler(open_bucket(place)))
    return {"storage_path": place.path, "storage_filesystem": system}


def train_worker(config: dict[str, Any]) -> None:
    """What runs in each training worker."""
    quiet()
    job, board = config["job"], config["board"]
    if ray.get(board.fatal.remote()) is not None:
        # Ray Train starts all workers again after any failure; this one would only come back.
        return
    try:
        _train(job, board)
    except NotFiniteError as error:
        # All workers have it at once.
        ray.get(board.fail.remote(error))
    except Exception as error:
        fatal = find_input_error(error)
        if fatal is None:
            raise
        ray.get(board.fail.remote(fatal))
        # The others, waiting for this worker, have to be ended; a lone one is simply done.
        if ray.train.get_context().get_world_size() > 1:
            raise


def _train(job: FitJob, board: Any) -> None:
    variant, context = job.variant, RayContext(job.storage)
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
    paint = None
    if context.rank == 0 and job.pictures.every_epochs:
        # Only the worker that draws loads what it takes.
        from mde.cluster.painter import Painter

        paint = Painter(feed, job.pictures, context.storage, variant.name)
    with contextlib.closing(ReadAhead(feed, variant.recipe.epochs)) as batches:
        train(
            objective, batches, variant.recipe, context, job.provenance, job.run,
            show=board.show.remote, paint=paint,
        )  # fmt: skip


class RayContext:
    """`mde.train.context.TrainContext` on a Ray Train worker."""

    def __init__(self, storage: str) -> None:
        self.storage = open_storage(storage)
        worker = ray.train.get_context()
        self.rank: int = worker.get_world_rank()
        self.world_size: int = worker.get_world_size()
        self.device: torch.device = get_device()

    def wrap(self, module: nn.Module) -> nn.Module:
        """DDP; Ray Train has set up the process group (NCCL or gloo)."""
        return data_parallel(module, self.device, self.world_size)
