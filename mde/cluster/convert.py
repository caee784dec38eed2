"""Raw files → shards as a Ray Data job: one task reads the frames of one shard and writes it."""

import json
from collections.abc import Iterator
from typing import Any

import ray

from mde.cluster.session import connect, find_input_error
from mde.data.tasks import Job, Task, run_task
from mde.errors import InputError


def run_on_ray(job: Job, tasks: list[Task]) -> Iterator[dict[str, Any]]:
    """Run conversion tasks on every CPU of the cluster; fits `mde.data.convert.convert`.

    job: with folders that all nodes see, as absolute paths.
    """
    connect()

    def run(item: dict[str, Any]) -> dict[str, str]:
        return {"record": json.dumps(run_task(job, item["task"]))}

    # Two to a core: one works while Ray hands out the other's next task, or its files are awaited.
    cpus = 0.5
    # Each with its own frames: to get those of all would take longer than its work, of a million.
    items = [{"task": task} for task in tasks]
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map(run, num_cpus=cpus)
    try:
        for row in dataset.iter_rows():
            yield json.loads(row["record"])
    except Exception as error:
        found = find_input_error(error)
        if found or not _died(error):
            raise (found or error) from None
        raise InputError(
            f"{job.raw}: a process that read it died, for want of memory or on a file that its "
            f"library cannot bear; the shards without a record in {job.work} hold it: {error}"
        ) from error


def _died(error: BaseException) -> bool:
    return isinstance(error, ray.exceptions.WorkerCrashedError | ray.exceptions.OutOfMemoryError)
