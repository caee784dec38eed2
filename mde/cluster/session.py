"""Connect to a Ray cluster, and check that it can do the work before the work starts."""

import logging
import os
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import ray
import ray.data

from mde.bucket import check_place
from mde.cluster.security import (
    check_cluster,
    find_address,
    note_secrets_of_job,
    prepare_local,
)
from mde.errors import InputError


@dataclass(frozen=True)
class ClusterConfig:
    """How many workers, and of what; the one thing that differs between a laptop and a cluster.

    cpus_per_worker may be a fraction: a training worker on CPU uses its cores whatever it
    reserves. min_workers: when nodes are lost, training goes on with as few; None: it waits for
    all of them. placement: PACK puts workers on few nodes, SPREAD on many, STRICT_SPREAD each on
    one of its own. decode_tasks: at a time for each worker, of cpus_per_decode each.
    max_failures: restarts from the last checkpoint before training gives up. evaluators: actors
    that each hold a model, for evaluation and prediction, of cpus_per_evaluator (whole threads)
    and, with use_gpu, one GPU each. Their number changes no result. data: where the nodes read the
    converted datasets when that is not data/shards: a path or URI that all nodes see, such as
    s3://bucket/shards; see `mde.data.publish`. autoscaling: Ray adds nodes that are asked for, so
    what it has not yet is waited for, and not refused.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    num_workers: int = 1
    min_workers: int | None = None
    placement: Literal["PACK", "SPREAD", "STRICT_SPREAD"] = "PACK"
    use_gpu: bool = False
    cpus_per_worker: float = 0.5
    decode_tasks: int = 1
    cpus_per_decode: float = 0.5
    max_failures: int = 1
    evaluators: int = 1
    cpus_per_evaluator: float = 1
    data: str | None = None
    autoscaling: bool = False

    def __post_init__(self) -> None:
        check_place(self.data or "")
        positive = ("num_workers", "cpus_per_worker", "decode_tasks", "cpus_per_decode")
        for name in (*positive, "evaluators", "cpus_per_evaluator"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, found {getattr(self, name)}")
        if self.min_workers is not None and not 1 <= self.min_workers <= self.num_workers:
            raise ValueError(
                f"min_workers must be within 1 and num_workers ({self.num_workers}), found "
                f"{self.min_workers}"
            )


def connect() -> None:
    """Join the cluster of RAY_ADDRESS (which a Ray job has set), or start one on this machine.

    Raises InputError when nobody answers there, or when strangers could use it: see security.
    """
    if ray.is_initialized():
        return
    # Every 2 s by default: so long a run's end, or a worker's, would go unnoticed.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1")
    # A cold disk needs more than the default minute to import torch in every worker.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")
    # Else every line that a worker prints comes twice.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    # A decode task that fails is reported by the one that waits for it.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    address = os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {}
    if address == "local":
        prepare_local()
        # Nobody takes this machine away; the watcher costs a process and an error line.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        # After 1 s by default, so that every epoch would wait for a new decode process to start.
        os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "120000")
        # Nobody collects them from a Ray that ends with the run.
        os.environ.setdefault("RAY_enable_metrics_collection", "0")
        os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
        # Nobody is told its address; `ray start --head` gives one that outlives the run.
        options = {"include_dashboard": False}
    else:
        address = find_address(address)
        check_cluster(address)
        note_secrets_of_job()
    # It warns at every start that a local cluster has a token, as it should.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    _start(address, options)
    quiet()


def _start(address: str, options: dict[str, Any]) -> None:
    # Ray gives its first process 30 s, which a machine that is busy for a while exceeds.
    for last in (False, False, True):
        try:
            ray.init(address=address, logging_level=logging.WARNING, **options)
            return
        except Exception as error:
            ray.shutdown()
            if last or "timed out during startup" not in str(error):
                raise


def quiet() -> None:
    """Keep Ray's libraries to what matters, in this process: progress is ours to show."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # Ray Train's workers log each report, with all its metrics, through the root logger.
    logging.getLogger().setLevel(logging.WARNING)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True


def check_resources(config: ClusterConfig) -> None:
    """Raises InputError when a cluster of fixed size cannot run the workers and their decoding.

    Without the check, workers that take every CPU leave none for decoding, and training waits for
    ever with no more than a warning.
    """
    if config.autoscaling:
        return
    have = ray.cluster_resources()
    workers = config.min_workers or config.num_workers
    cpus = workers * (config.cpus_per_worker + config.decode_tasks * config.cpus_per_decode)
    if cpus > have.get("CPU", 0):
        raise InputError(
            f"cluster: {workers} workers with their decode tasks need {cpus:g} CPUs, "
            f"Ray has {have.get('CPU', 0):g}; lower cluster.num_workers, cluster.cpus_per_worker "
            "or cluster.cpus_per_decode (fractions are allowed)"
        )
    if config.use_gpu and workers > have.get("GPU", 0):
        raise InputError(
            f"cluster: use_gpu needs {workers} GPUs, Ray has {have.get('GPU', 0):g}; "
            "lower cluster.num_workers or set cluster.use_gpu to false"
        )


def find_input_error(error: BaseException) -> InputError | None:
    """The InputError inside an exception that came back from a Ray task or worker, if any."""
    seen: set[int] = set()
    pending: list[object] = [error]
    while pending:
        found = pending.pop()
        if isinstance(found, InputError):
            return InputError(str(found.args[0]) if found.args else str(found))
        if not isinstance(found, BaseException) or id(found) in seen:
            continue
        seen.add(id(found))
        pending += [found.__cause__, found.__context__, getattr(found, "cause", None)]
        pending += list(getattr(found, "worker_failures", {}).values())
    return None
