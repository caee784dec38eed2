"""Row groups → tables on Ray Data, by a pool of actors that each hold a model."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
import ray.data
import torch
from ray.data import ActorPoolStrategy

from mde.cluster.session import ClusterConfig, connect
from mde.errors import InputError
from mde.inference import RowGroup, Work

# There is no other way yet to say how often a row group may be tried.
warnings.filterwarnings("ignore", message="`ray_remote_args_fn` is deprecated")

FAULT = "__fault__"
RETRIES = 4
"""Of a row group whose actor died; one that kills every actor must come to an end."""


@dataclass(frozen=True)
class ActorPool:
    """Spread a work over the nodes of the cluster; an `mde.inference.Runner`.

    The files that the work reads lie on storage that all nodes see. An actor that dies is started
    again and gets its row groups again: every group still counts once.
    """

    cluster: ClusterConfig

    def __call__(self, work: Work, groups: list[RowGroup]) -> Iterator[pa.Table]:
        """The groups' tables, in order. Raises InputError for what a person can mend."""
        connect()
        check_pool(self.cluster)
        items = [{"group": number} for number in range(len(groups))]
        dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            ModelActor,
            batch_size=1,
            fn_constructor_args=(work, groups, self.cluster),
            compute=ActorPoolStrategy(size=min(self.cluster.evaluators, len(groups))),
            num_cpus=self.cluster.cpus_per_evaluator,
            num_gpus=1 if self.cluster.use_gpu else 0,
            ray_remote_args_fn=lambda: {"max_task_retries": RETRIES},
        )
        tables: Any = dataset.iter_batches(batch_size=None, batch_format="pyarrow")
        try:
            for table in tables:
                if table.column_names == [FAULT]:
                    raise InputError(table[FAULT][0].as_py())
                yield table
        except ray.exceptions.RayActorError as error:
            raise InputError(
                f"cluster: evaluators: an actor died {RETRIES + 1} times over the same row group, "
                f"for want of memory or by a fault in a library: {error}"
            ) from error


class ModelActor:
    """What runs in each actor of the pool; the work keeps its model from one call to the next."""

    def __init__(self, work: Work, groups: list[RowGroup], cluster: ClusterConfig) -> None:
        self.work, self.groups = work, groups
        self.device = torch.device("cuda" if cluster.use_gpu else "cpu")
        # Else each of the actors on a node would use all its cores.
        torch.set_num_threads(max(1, int(cluster.cpus_per_evaluator)))

    def __call__(self, item: dict[str, Any]) -> pa.Table:
        """Work on one row group.

        An InputError comes back as a table: raised here, Ray Data would hide it in pages of its own
        traceback.
        """
        try:
            return self.work(self.groups[int(item["group"][0])], self.device)
        except InputError as error:
            return pa.table({FAULT: [str(error)]})


def check_pool(config: ClusterConfig) -> None:
    """Raises InputError when a cluster of fixed size cannot hold all actors at once."""
    if config.autoscaling:
        return
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = sum(int(node.get("CPU", 0) / config.cpus_per_evaluator) for node in nodes)
    if config.evaluators > room:
        raise InputError(
            f"cluster: evaluators: {config.evaluators} actors of {config.cpus_per_evaluator:g} "
            f"CPUs each, Ray's {len(nodes)} nodes have room for {room}; lower cluster.evaluators "
            "or cluster.cpus_per_evaluator (fractions are allowed)"
        )
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if config.use_gpu and config.evaluators > gpus:
        raise InputError(
            f"cluster: use_gpu: {config.evaluators} evaluators need a GPU each, Ray has {gpus}; "
            "lower cluster.evaluators or set cluster.use_gpu to false"
        )
