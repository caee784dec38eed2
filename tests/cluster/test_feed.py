"""The feed on a real Ray: every row once, in the plan's order, with checksums verified."""

import contextlib
import dataclasses
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray

from mde.cluster.convert import run_on_ray
from mde.cluster.feed import Feed
from mde.cluster.read_ahead import ReadAhead
from mde.cluster.session import ClusterConfig, check_resources, find_input_error
from mde.data.augment import Augment
from mde.data.convert import convert, run_one_by_one
from mde.data.shards import read_manifest, read_row_group, write_manifest
from mde.data.sources import get_source
from mde.errors import InputError
from mde.schema import Batch
from tests.conftest import flip_a_bit

pytestmark = pytest.mark.cluster


CONFIG = get_source("kitti").Config(
    source="kitti",
    raw="data/sample/kitti",
    train="splits/train_files.txt",  # type: ignore[call-arg]
    val="splits/val_files.txt",
    test="splits/test_files.txt",
    height=32,
    width=96,
    rows_per_shard=3,
)


@pytest.fixture(scope="module")
def shards(tiny_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "kitti"
    convert(CONFIG, tiny_sample, out, run_on_ray)
    return out


def feed(folder: Path, rank: int = 0, world_size: int = 1, augment: Augment | None = None) -> Feed:
    images = ("image", "image_prev", "image_next", "image_stereo")
    return Feed(folder, images, False, 4, 0, augment, rank, world_size)


@pytest.fixture(scope="module")
def long(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same samples many times over, so that an epoch takes seconds."""
    folder = tmp_path_factory.mktemp("long")
    manifest = read_manifest(shards)
    for shard in manifest.shards:
        (folder / shard.file).symlink_to(shards / shard.file)
    write_manifest(folder, dataclasses.replace(manifest, shards=manifest.shards * 150))
    return folder


def names(batches: Iterable[tuple[Batch, float]]) -> list[list[str]]:
    return [batch["sample_id"] for batch, _ in batches]


def decoders() -> list[psutil.Process]:
    """Processes of this session's Ray that run a decode task now."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "ray::run_task" in " ".join(process.cmdline()):
                found.append(process)
    return found


def wait_until(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def looks(times: int) -> Iterator[bool]:
    """Whether a decode task runs, looked at again and again."""
    for _ in range(times):
        yield bool(decoders())
        time.sleep(0.02)


def test_all_workers_together_see_every_sample_once(shards: Path) -> None:
    whole = [name for batch, _ in feed(shards).train(0) for name in batch["sample_id"]]
    assert len(whole) == len(set(whole)) == read_manifest(shards).counts["train"]
    halves = [
        [batch["sample_id"] for batch, _ in feed(shards, rank, 2).train(0)] for rank in range(2)
    ]
    assert len(halves[0]) == len(halves[1]) == feed(shards, 0, 2).steps_per_epoch
    together = [name for step in zip(*halves, strict=True) for part in step for name in part]
    assert sorted(together) == sorted(whole)


def test_an_epoch_is_repeatable_and_the_next_one_differs(shards: Path) -> None:
    runs = [list(feed(shards, augment=Augment()).train(epoch)) for epoch in (0, 0, 1)]
    ids = [[name for batch, _ in run for name in batch["sample_id"]] for run in runs]
    assert ids[0] == ids[1] != ids[2]
    for (first, _), (second, _) in zip(runs[0], runs[1], strict=True):
        assert np.array_equal(first["image"], second["image"])
        assert np.array_equal(first["color_matrix"], second["color_matrix"])


def test_batches_are_uint8_images_with_their_cameras(shards: Path) -> None:
    batch, weight = next(feed(shards).train(0))
    assert weight == 1
    assert batch["image"].shape == batch["image_stereo"].shape == (3, 3, 32, 96)
    assert str(batch["image"].dtype) == "torch.uint8"
    assert batch["K"].shape == (3, 3, 3)
    assert batch["baseline_m"].abs().tolist() == pytest.approx([0.5327] * 3, abs=1e-3)


def test_a_flipped_bit_stops_the_epoch_before_its_rows_reach_a_step(
    shards: Path, tmp_path: Path
) -> None:
    shard = read_manifest(shards).of_split("train")[1]
    for file in shards.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    hit = {row["sample_id"] for row in read_row_group(shards / shard.file, 0).to_pylist()}
    seen: set[str] = set()

    def consume() -> None:
        for batch, _ in feed(tmp_path).train(0):
            seen.update(batch["sample_id"])

    flip_a_bit(tmp_path / shard.file)
    with pytest.raises(Exception, match="damaged") as caught:
        consume()
    found = find_input_error(caught.value)
    assert found is not None
    assert f"{shard.file}: row group 0 is damaged" in str(found)
    assert hit
    assert not hit & seen


def test_an_epoch_that_starts_in_its_middle_equals_the_tail_of_the_whole(shards: Path) -> None:
    whole = list(feed(shards, augment=Augment()).train(1))
    for start in range(len(whole) + 1):
        tail = list(feed(shards, augment=Augment()).train(1, start))
        assert len(tail) == len(whole) - start
        for (batch, weight), (expected, its_weight) in zip(tail, whole[start:], strict=True):
            assert weight == its_weight
            assert batch["sample_id"] == expected["sample_id"]
            for name in batch.keys() - {"sample_id"}:
                assert np.array_equal(batch[name], expected[name])  # type: ignore[literal-required]


def test_two_workers_go_on_where_one_has_stopped(shards: Path) -> None:
    whole = list(feed(shards, augment=Augment()).train(0))
    start = len(whole) // 2
    halves = [list(feed(shards, rank, 2, Augment()).train(0, start)) for rank in range(2)]
    for (batch, _), *shares in zip(whole[start:], *halves, strict=True):
        order = [
            batch["sample_id"].index(name) for share, _ in shares for name in share["sample_id"]
        ]
        assert sorted(order) == list(range(len(batch["sample_id"])))
        images = np.concatenate([share["image"] for share, _ in shares])
        assert np.array_equal(images, batch["image"][order])


def test_only_the_row_groups_of_the_remaining_steps_are_read(shards: Path, tmp_path: Path) -> None:
    for file in shards.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    last = names(feed(shards).train(0))[-1]
    for shard in read_manifest(shards).of_split("train"):
        rows = read_row_group(shards / shard.file, 0).to_pylist()
        if not {row["sample_id"] for row in rows} & set(last):
            (tmp_path / shard.file).unlink()
    assert names(feed(tmp_path).train(0, feed(shards).steps_per_epoch - 1)) == [last]


def test_killed_decode_workers_cost_no_sample_and_change_no_order(long: Path) -> None:
    quiet = list(feed(long, augment=Augment()).train(0))
    ids = [name for batch, _ in quiet for name in batch["sample_id"]]
    assert len(ids) == read_manifest(long).counts["train"]
    disturbed = []
    for step, (batch, _) in enumerate(feed(long, augment=Augment()).train(0)):
        disturbed.append(batch)
        if step in (1, len(quiet) // 2):
            wait_until(decoders)
            for process in decoders():
                os.kill(process.pid, signal.SIGKILL)
    assert [batch["sample_id"] for batch in disturbed] == names(quiet)
    for batch, (expected, _) in zip(disturbed, quiet, strict=True):
        assert np.array_equal(batch["image"], expected["image"])


def test_ray_and_one_process_write_the_same_bytes(
    shards: Path, tiny_sample: Path, tmp_path: Path
) -> None:
    convert(CONFIG, tiny_sample, tmp_path / "alone", run_one_by_one)
    alone = {p.name: p.read_bytes() for p in (tmp_path / "alone").iterdir()}
    assert alone == {p.name: p.read_bytes() for p in shards.iterdir()}


def test_reading_ahead_gives_the_same_epochs_from_any_first_one(shards: Path) -> None:
    expected = [names(feed(shards).train(epoch)) for epoch in range(3)]
    held_out = names(feed(shards).val())
    assert held_out
    for first, start in ((0, 0), (1, 1)):
        with ReadAhead(feed(shards), epochs=3) as ahead:
            assert names(ahead.train(first, start)) == expected[first][start:]
            assert names(ahead.val()) == held_out
            for epoch in range(first + 1, 3):
                assert names(ahead.train(epoch)) == expected[epoch]
                assert names(ahead.val()) == held_out


def test_reading_ahead_serves_whatever_is_asked_for_next(shards: Path) -> None:
    expected = [names(feed(shards).train(epoch)) for epoch in range(2)]
    with ReadAhead(feed(shards), epochs=2) as ahead:
        assert names(itertools.islice(ahead.train(0), 1)) == expected[0][:1]
        assert names(ahead.train(0)) == expected[0]
        with pytest.raises(ZeroDivisionError):
            list(map(lambda _: 1 / 0, ahead.train(1)))
        assert names(ahead.train(1, 1)) == expected[1][1:]
        first, again = ahead.train(0), ahead.train(0)
        assert names(itertools.islice(first, 1)) == names(itertools.islice(again, 1))


def test_closing_leaves_no_thread_and_no_task_behind(long: Path) -> None:
    threads = set(threading.enumerate())
    ahead = ReadAhead(feed(long), epochs=2)
    next(ahead.train(0))
    wait_until(decoders)
    ahead.close()
    # Those that wait for their turn may still start: none of 50 looks in a row finds one.
    wait_until(lambda: not any(looks(50)))
    assert set(threading.enumerate()) <= threads
    assert next(ahead.train(0))[1] == 1
    ahead.close()


def test_workers_that_leave_no_cpu_for_decoding_are_refused() -> None:
    cpus = ray.cluster_resources()["CPU"]
    with pytest.raises(InputError, match="cpus_per_worker"):
        check_resources(ClusterConfig(num_workers=int(cpus), cpus_per_worker=1))
    with pytest.raises(InputError, match="GPU"):
        check_resources(ClusterConfig(num_workers=100, use_gpu=True, cpus_per_worker=0.001,
                                      cpus_per_decode=0.001))  # fmt: skip
    check_resources(ClusterConfig(num_workers=100, use_gpu=True, autoscaling=True))
