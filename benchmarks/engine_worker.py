"""A timed training as a program of its own: `python -m benchmarks.engine_worker SIDE FOLDER`.

`fit` is training as a user runs it: Ray Train and Ray Data. `torchrun` is one of torchrun's
processes: the same loop, a torch DataLoader over the same plan. No Ray is imported there.
"""

import pickle
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.engine_timed import timed_loop
from mde.files import write_json
from mde.variants import Variant


@dataclass(frozen=True)
class Work:
    """What both sides train. cluster: keys of ClusterConfig; a DataLoader has its decode_tasks."""

    variant: Variant
    data: Path
    cluster: dict[str, Any]

    @property
    def workers(self) -> int:
        """Training processes."""
        return self.cluster["num_workers"]

    @property
    def with_depth(self) -> bool:
        """Whether batches need depth: all objectives do but those that learn from video."""
        return self.variant.objective.kind == "supervised"


def train_with_ray(work: Work, folder: Path) -> None:
    """Run `mde.cluster.fit.fit`, with notes; then write what went through the object store."""
    import mde.cluster.fit as engine
    from mde.cluster.session import ClusterConfig

    plain = engine.train_worker

    def worker(config: dict[str, Any]) -> None:
        import mde.cluster.fit as engine

        engine.train = timed_loop(engine.train, folder)
        plain(config)

    # Workers are handed what stands under this name when `fit` is called.
    engine.train_worker = worker
    cluster = ClusterConfig(**work.cluster)
    engine.fit(engine.FitJob(work.variant, work.data, str(folder / "run"), cluster, {}))
    from benchmarks.object_store import stored

    write_json(folder / "store.json", stored())


def train_with_torch(work: Work, folder: Path) -> None:
    """Run the loop in this process of torchrun's, with notes."""
    import torch

    from benchmarks.torch_loader import TorchFeed
    from mde.train.context import LocalContext
    from mde.train.loop import train
    from mde.variants import build_networks

    variant, context = work.variant, LocalContext(folder / "run")
    torch.manual_seed(variant.recipe.seed)
    feed = TorchFeed(
        work.data, variant.objective.images, work.with_depth, variant.recipe.batch_size,
        variant.recipe.seed, variant.augment, context.rank, context.world_size,
        workers=work.cluster["decode_tasks"],
    )  # fmt: skip
    timed_loop(train, folder)(build_networks(variant), feed, variant.recipe, context, {})
    if context.world_size > 1:
        torch.distributed.destroy_process_group()


SIDES = {"fit": train_with_ray, "torchrun": train_with_torch}

if __name__ == "__main__":
    side, place = sys.argv[1], Path(sys.argv[2])
    SIDES[side](pickle.loads((place / "work.pickle").read_bytes()), place)
