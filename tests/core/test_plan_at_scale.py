"""What has to hold when there are too many rows to write down: plan, resume, manifest, check."""

import hashlib
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mde.cluster import feed as feeding
from mde.cluster.feed import Feed, Part
from mde.data import sizes
from mde.data.epoch import Epoch
from mde.data.plan import num_steps, whole_steps, worker_steps
from mde.data.shards import (
    Manifest,
    Shard,
    read_manifest,
    verify_shards,
    write_manifest,
    write_shard,
)
from mde.errors import InputError

GROUP, BATCH = 16, 96
GOLDEN = "47c676cb6a02854f1f3d79321d72bcdbd08938d8f39a82f3d1709b5ff3e79869"


def made_shards(count: int, seed: int = 0) -> list[Shard]:
    """Of up to 1024 rows, so that most end in a row group that is not full."""
    rows = np.random.default_rng(seed).integers(1, 1025, count).tolist()
    return [
        Shard(f"train-{i:05d}.parquet", "train", n, -(-n // GROUP), 330_000 * n, f"{i:064x}")
        for i, n in enumerate(rows)
    ]


SHARDS = made_shards(640)
"""About 21,000 row groups, 330,000 rows."""


@pytest.fixture(scope="module")
def epoch() -> Epoch:
    return Epoch(SHARDS, GROUP, 7, 3)


@pytest.fixture(scope="module")
def order(epoch: Epoch) -> np.ndarray:
    return epoch[:]


def test_every_row_of_every_row_group_comes_exactly_once(order: np.ndarray) -> None:
    keys = (order[:, 0] * 64 + order[:, 1]) * GROUP + order[:, 2]
    rows = np.array([shard.rows for shard in SHARDS])
    # A row's key: of shard 2 they start at 2 x 64 x 16.
    expected = np.concatenate([1024 * i + np.arange(n) for i, n in enumerate(rows)])
    assert np.array_equal(np.sort(keys), expected)


def test_any_stretch_is_that_of_the_whole_order(epoch: Epoch, order: np.ndarray) -> None:
    cuts = np.sort(np.random.default_rng(1).integers(0, len(order), 30)).tolist()
    pieces = [epoch[a:b] for a, b in itertools.pairwise([0, *cuts, len(order)])]
    assert np.array_equal(np.concatenate(pieces), order)


def test_the_order_is_still_that_of_checkpoints_of_earlier_versions() -> None:
    order = Epoch(made_shards(40, seed=5), GROUP, 1, 2)[:]
    assert hashlib.sha256(order.tobytes()).hexdigest() == GOLDEN


@pytest.mark.parametrize("world_size", [1, 3, 8])
def test_a_run_that_goes_on_gets_the_tail_of_an_uninterrupted_one(
    epoch: Epoch, order: np.ndarray, world_size: int
) -> None:
    steps = num_steps(len(epoch), BATCH, world_size)
    for rank in {0, world_size - 1}:
        whole = worker_steps(order, BATCH, rank, world_size)
        for start in (0, steps // 2, steps - 1):
            tail = whole[start:]
            resumed = worker_steps(epoch, BATCH, rank, world_size, start)
            assert [(s.step, s.weight) for s in resumed] == [(s.step, s.weight) for s in tail]
            assert all(np.array_equal(a.rows, b.rows) for a, b in zip(resumed, tail, strict=True))


def test_the_workers_shares_are_disjoint_and_even(epoch: Epoch) -> None:
    plans = [worker_steps(epoch, BATCH, rank, 8) for rank in range(8)]
    shares = [np.concatenate([step.rows for step in plan]) for plan in plans]
    keys = [(share[:, 0] * 64 + share[:, 1]) * GROUP + share[:, 2] for share in shares]
    assert len(np.unique(np.concatenate(keys))) == sum(map(len, keys)) == len(epoch)
    assert max(map(len, shares)) - min(map(len, shares)) <= len(plans[0])
    # A step is shared evenly, the last two aside, which have what is left.
    assert all(len(step.rows) == BATCH // 8 for plan in plans for step in plan[:-2])


@pytest.mark.parametrize("world_size", [1, 3])
def test_whole_batches_can_be_had_from_the_middle_on(world_size: int) -> None:
    stored = Epoch(SHARDS[:9], GROUP, None, 0)
    dealt = whole_steps(stored[:], 8, 0, world_size)
    some = whole_steps(stored, 8, 0, world_size, 5, 9)
    assert [step.step for step in some] == [5, 6, 7, 8]
    assert all(np.array_equal(a.rows, b.rows) for a, b in zip(some, dealt[5:9], strict=True))


@pytest.mark.parametrize("start", [0, 17])
def test_tasks_that_are_planned_bit_by_bit_hold_every_step_once_and_name_their_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: int
) -> None:
    shards = SHARDS[:20]
    write_manifest(tmp_path, Manifest("made", {}, shards, [], {}))
    monkeypatch.setattr(feeding, "ROWS_AT_ONCE", 10 * BATCH)
    feed = Feed(tmp_path, ("image",), True, BATCH, 0, None, 1, 2)
    tasks = list(feed._tasks(Part("train", 4, start)))
    planned = worker_steps(Epoch(shards, GROUP, 0, 4)[:], BATCH, 1, 2)[start:]
    got = [step for steps, _ in tasks for step in steps]
    assert [step.step for step in got] == [step.step for step in planned]
    assert all(np.array_equal(a.rows, b.rows) for a, b in zip(got, planned, strict=True))
    for steps, names in tasks:
        used = {shard for step in steps for shard in step.rows[:, 0].tolist()}
        assert names == {shard: shards[shard].file for shard in used}


def test_a_manifest_of_many_shards_comes_back_as_it_was(tmp_path: Path) -> None:
    manifest = Manifest("made", {"height": 320}, made_shards(5000), [], {})
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest


# --- A dataset that is too large to be read through -------------------------------------------


@pytest.fixture
def huge(tmp_path: Path, make_row, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four shards, and a limit that they are above."""
    shards = [write_shard(tmp_path, "train", i, [make_row(i)]) for i in range(4)]
    write_manifest(tmp_path, Manifest("made", {}, shards, [], {}))
    monkeypatch.setattr("mde.data.shards.WHOLE_UP_TO", 1)
    return tmp_path


def test_a_huge_dataset_is_compared_by_size_and_that_is_said(
    huge: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sizes, "SAMPLED", 2)
    verify_shards(huge, read_manifest(huge))
    assert "sizes of all 4 shards compared, SHA-256 of 2" in capsys.readouterr().err


def test_a_shard_of_a_huge_dataset_that_is_missing_is_named(huge: Path) -> None:
    (huge / "train-00002.parquet").unlink()
    with pytest.raises(InputError, match=r"train-00002\.parquet: in the manifest, but not there"):
        verify_shards(huge, read_manifest(huge))


def test_a_shard_of_a_huge_dataset_that_has_another_size_is_named(huge: Path) -> None:
    manifest = read_manifest(huge)
    shards = [*manifest.shards[:3], replace(manifest.shards[3], bytes=7)]
    with pytest.raises(InputError, match=r"train-00003\.parquet: \d+ bytes, the manifest says 7"):
        verify_shards(huge, replace(manifest, shards=shards))


def test_a_shard_of_another_conversion_is_found_when_it_is_one_of_those_that_are_read(
    huge: Path,
) -> None:
    path = huge / "train-00001.parquet"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"train-00001\.parquet: SHA-256 differs"):
        verify_shards(huge, read_manifest(huge))
