"""The plan of an epoch: its order, the global batches, and what each worker gets of them."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from mde.cluster.decode import pack_tasks
from mde.data.epoch import LANES
from mde.data.plan import WorkerStep, epoch_order, step_bounds, whole_steps, worker_steps
from mde.data.shards import ROWS_PER_GROUP, Shard, read_row_group, write_shard
from mde.errors import InputError


def shards(*rows: int) -> list[Shard]:
    return [Shard(f"train-{i}", "train", n, -(-n // 4), 0, "") for i, n in enumerate(rows)]


SHARDS = shards(10, 4, 7, 1)
ALL_ROWS = [
    (0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 0, 3), (0, 1, 0), (0, 1, 1), (0, 1, 2), (0, 1, 3),
    (0, 2, 0), (0, 2, 1), (1, 0, 0), (1, 0, 1), (1, 0, 2), (1, 0, 3), (2, 0, 0), (2, 0, 1),
    (2, 0, 2), (2, 0, 3), (2, 1, 0), (2, 1, 1), (2, 1, 2), (3, 0, 0),
]  # fmt: skip


def places(rows: np.ndarray) -> list[tuple[int, ...]]:
    return [tuple(row) for row in rows.tolist()]


def of_all_workers(order: np.ndarray, batch_size: int, world_size: int) -> list[list[WorkerStep]]:
    """For each step, the shares of the workers."""
    plans = [worker_steps(order, batch_size, rank, world_size) for rank in range(world_size)]
    return [list(step) for step in zip(*plans, strict=True)]


def test_without_a_seed_rows_come_in_stored_order():
    assert places(epoch_order(SHARDS, 4, None, 0)) == ALL_ROWS


@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_every_row_comes_exactly_once_in_an_epoch(epoch: int):
    assert sorted(places(epoch_order(SHARDS, 4, 0, epoch))) == ALL_ROWS


def test_seed_and_epoch_alone_decide_the_order():
    order = places(epoch_order(SHARDS, 4, 5, 2))
    assert order == places(epoch_order(SHARDS, 4, 5, 2))
    assert order != places(epoch_order(SHARDS, 4, 5, 3))
    assert order != places(epoch_order(SHARDS, 4, 6, 2))
    assert order != ALL_ROWS


def test_few_groups_are_open_at_once_and_every_batch_mixes_them_all():
    order = epoch_order(shards(4 * 200), 4, 0, 0)
    for start in range(0, len(order), 2 * LANES):
        assert len(set(order[start : start + 2 * LANES, 1])) == LANES
    places_of_group = [np.flatnonzero(order[:, 1] == group) for group in range(200)]
    assert all(np.ptp(found) == 3 * LANES for found in places_of_group)


def test_the_place_of_a_row_tells_nothing_of_its_place_in_the_next_epoch_or_on_disk():
    def place_of(epoch: int) -> np.ndarray:
        order = epoch_order(shards(*[4 * 16] * 20), 4, 0, epoch)
        return np.lexsort(order.T[::-1])

    stored = np.arange(20 * 64)
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert abs(np.corrcoef(place_of(one), place_of(other))[0, 1]) < 0.15
        assert abs(np.corrcoef(place_of(one), stored)[0, 1]) < 0.15


def test_the_rows_of_a_group_are_permuted_anew_in_each_epoch():
    group = [Shard("train-0", "train", 16, 1, 0, "")]
    inside = [epoch_order(group, 16, 0, epoch)[:, 2].tolist() for epoch in range(5)]
    assert len({tuple(rows) for rows in inside}) == 5
    assert all(sorted(rows) == list(range(16)) for rows in inside)


def groups_read(dataset: list[Shard], batch_size: int, world_size: int, rows: int) -> int:
    """Row groups that are read in an epoch, by all tasks of all workers."""
    order = epoch_order(dataset, 16, 0, 0)
    plans = [worker_steps(order, batch_size, rank, world_size) for rank in range(world_size)]
    tasks = [task for plan in plans for task in pack_tasks(plan, rows)]
    return sum(len({(s, g) for step in task for s, g, _ in places(step.rows)}) for task in tasks)


FULL = [Shard(f"train-{i}", "train", 256, 16, 0, "") for i in range(12)]
"""Only full row groups."""
RAGGED = [Shard(f"train-{i}", "train", 100, 7, 0, "") for i in range(40)]
"""The last row group of every shard has a quarter of the rows."""


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
@pytest.mark.parametrize("batch_size", [8, 12, 32])
def test_workers_together_read_each_row_group_once(batch_size: int, world_size: int):
    assert groups_read(FULL, batch_size, world_size, 256) == 12 * 16
    alone = groups_read(RAGGED, batch_size, 1, 400)
    assert groups_read(RAGGED, batch_size, world_size, 400) <= 1.1 * alone <= 1.25 * 40 * 7


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 8, 13])
def test_global_batches_hold_every_row_once_for_any_number_of_workers(batch_size: int):
    for rows, world_size in itertools.product(range(1, 60), range(1, batch_size + 1)):
        if rows < world_size:
            continue
        order = np.column_stack([np.arange(rows)] * 3)
        alone = [set(step.rows[:, 0]) for step in worker_steps(order, batch_size, 0, 1)]
        shares = of_all_workers(order, batch_size, world_size)
        steps = [sorted(i for share in step for i in share.rows[:, 0]) for step in shares]
        assert list(itertools.chain(*steps)) == list(range(rows))
        counts = [[len(share.rows) for share in step] for step in shares]
        assert all(max(step) - min(step) <= 1 and min(step) >= 1 for step in counts)
        if batch_size >= 2 * world_size:
            assert [set(step) for step in steps] == alone


def test_what_is_left_after_the_last_full_batch_shares_its_rows_evenly():
    assert np.diff(step_bounds(21, 8, 2)).tolist() == [8, 7, 6]
    assert np.diff(step_bounds(24, 8, 2)).tolist() == [8, 8, 8]
    assert np.diff(step_bounds(9, 8, 4)).tolist() == [5, 4]
    assert np.diff(step_bounds(5, 8, 2)).tolist() == [5]


def test_a_step_that_would_leave_a_worker_without_rows_joins_the_one_before():
    assert np.diff(step_bounds(9, 4, 2)).tolist() == [4, 3, 2]
    assert np.diff(step_bounds(9, 4, 3)).tolist() == [4, 5]


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [3, 4, 5, 7, 22, 50])
def test_workers_share_every_row_exactly_once(batch_size: int, world_size: int):
    order = epoch_order(SHARDS, 4, 0, 0)
    steps = of_all_workers(order, batch_size, world_size)
    dealt = [place for step in steps for share in step for place in places(share.rows)]
    assert sorted(dealt) == ALL_ROWS
    assert all(len(share.rows) >= 1 for step in steps for share in step)
    assert [share.step for step in steps for share in step[:1]] == list(range(len(steps)))


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_the_global_batches_do_not_depend_on_the_number_of_workers(world_size: int):
    order = epoch_order(SHARDS, 4, 0, 3)
    alone = [sorted(places(step.rows)) for step in worker_steps(order, 8, 0, 1)]
    shared = [
        sorted(place for share in step for place in places(share.rows))
        for step in of_all_workers(order, 8, world_size)
    ]
    assert shared == alone


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [4, 5, 6])
def test_weights_make_the_mean_over_workers_a_mean_over_samples(batch_size: int, world_size: int):
    order = epoch_order(SHARDS, 4, 0, 0)
    value = {place: i for i, place in enumerate(ALL_ROWS)}
    for step in of_all_workers(order, batch_size, world_size):
        assert np.mean([share.weight for share in step]) == pytest.approx(1)
        values = [[value[place] for place in places(share.rows)] for share in step]
        weighted = [s.weight * np.mean(v) for s, v in zip(step, values, strict=True)]
        assert np.mean(weighted) == pytest.approx(np.mean(np.concatenate(values)))


@pytest.mark.parametrize(("rows", "batch_size"), [(2, 8), (22, 2), (0, 8)])
def test_too_few_rows_or_too_small_a_batch_for_the_workers_is_an_error(rows: int, batch_size: int):
    order = np.zeros((rows, 3), np.int64)
    with pytest.raises(InputError, match=rf"3 workers .* batches of {batch_size} from {rows} rows"):
        worker_steps(order, batch_size, 0, 3)


@pytest.mark.parametrize("seed", [None, 0])
def test_an_empty_split_has_an_empty_order(seed: int | None):
    assert epoch_order([], 4, seed, 0).shape == (0, 3)


def test_the_plan_points_at_the_rows_that_are_in_the_shards(tmp_path: Path, make_row):
    written = [
        write_shard(tmp_path, "train", 0, [make_row(i) for i in range(19)]),
        write_shard(tmp_path, "train", 1, [make_row(i) for i in range(19, 22)]),
    ]
    found = set()
    for shard, group, row in epoch_order(written, ROWS_PER_GROUP, 0, 0).tolist():
        table = read_row_group(tmp_path / written[shard].file, group, ["sample_id"])
        found.add(table["sample_id"][row].as_py())
    assert found == {f"sample_{i:04d}" for i in range(22)}


@pytest.mark.parametrize("rows_per_task", [1, 16, 30, 10_000])
def test_tasks_hold_every_step_once_and_are_about_as_long_as_asked_for(rows_per_task: int):
    steps = worker_steps(epoch_order(FULL, 16, 0, 0), 8, 0, 2)
    tasks = pack_tasks(steps, rows_per_task)
    assert [step.step for task in tasks for step in task] == list(range(len(steps)))
    sizes = [sum(len(step.rows) for step in task) for task in tasks]
    assert all(size <= max(4, 1.5 * rows_per_task) for size in sizes)
    assert all(size >= min(0.5 * rows_per_task, 1000) for size in sizes[:-1])


@pytest.mark.parametrize("world_size", [1, 2, 3, 9])
def test_whole_batches_are_the_same_for_any_number_of_workers(world_size: int) -> None:
    order = np.arange(50 * 3).reshape(50, 3)
    dealt = [whole_steps(order, 8, rank, world_size) for rank in range(world_size)]
    batches = sorted(step.rows[:, 0].tolist() for steps in dealt for step in steps)
    assert batches == sorted(step.rows[:, 0].tolist() for step in whole_steps(order, 8, 0, 1))
    assert list(itertools.chain(*batches)) == order[:, 0].tolist()
    assert [len(steps) for steps in dealt] == [-(-(7 - i) // world_size) for i in range(world_size)]
