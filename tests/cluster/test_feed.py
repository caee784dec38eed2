"""The feed on a real Ray: every row once, in the plan's order, with checksums verified."""

import json
from pathlib import Path

import numpy as np
import pytest
import ray

from mde.cluster.convert import run_on_ray
from mde.cluster.decode import pack_tasks
from mde.cluster.feed import Feed, regroup
from mde.cluster.read_ahead import ReadAhead
from mde.cluster.session import ClusterConfig, check_resources, find_input_error
from mde.data.augment import Augment
from mde.data.convert import convert, run_one_by_one
from mde.data.plan import WorkerStep
from mde.data.shards import read_manifest
from mde.data.sources import get_source
from mde.errors import InputError
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
    assert batch["image"].shape == batch["image_stereo"].shape == (4, 3, 32, 96)
    assert str(batch["image"].dtype) == "torch.uint8"
    assert batch["K"].shape == (4, 3, 3)
    assert batch["baseline_m"].abs().tolist() == pytest.approx([0.5327] * 4, abs=1e-3)


def test_a_flipped_bit_in_a_shard_stops_the_epoch(shards: Path, tmp_path: Path) -> None:
    shard = read_manifest(shards).of_split("train")[1]
    for file in shards.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    flip_a_bit(tmp_path / shard.file)
    with pytest.raises(Exception, match="damaged") as caught:
        list(feed(tmp_path).train(0))
    found = find_input_error(caught.value)
    assert found is not None
    assert shard.file in str(found)


def test_ray_and_one_process_write_the_same_bytes(
    shards: Path, tiny_sample: Path, tmp_path: Path
) -> None:
    convert(CONFIG, tiny_sample, tmp_path / "alone", run_one_by_one)
    alone = {p.name: p.read_bytes() for p in (tmp_path / "alone").iterdir()}
    assert alone == {p.name: p.read_bytes() for p in shards.iterdir()}


def test_reading_ahead_gives_the_same_epochs_from_any_first_one(shards: Path) -> None:
    def names(batches) -> list[list[str]]:
        return [batch["sample_id"] for batch, _ in batches]

    expected = [names(feed(shards).train(epoch)) for epoch in range(3)]
    held_out = names(feed(shards).val())
    assert held_out
    for first in (0, 1):
        ahead = ReadAhead(feed(shards), epochs=3, depth=1)
        for epoch in range(first, 3):
            assert names(ahead.train(epoch)) == expected[epoch]
            assert names(ahead.val()) == held_out


def test_tasks_grow_and_hold_every_step_once() -> None:
    steps = [WorkerStep(i, np.full((4, 3), i), 1.0) for i in range(60)]
    tasks = [json.loads(task["steps"]) for task in pack_tasks(steps, 64)]
    assert [step for task in tasks for step, _ in task] == list(range(60))
    assert [4 * len(task) for task in tasks] == [16, 32, 64, 64, 64]


def test_regroup_cuts_blocks_at_steps() -> None:
    blocks = [{"step": np.array([0, 0, 1])}, {"step": np.array([1, 1])}, {"step": np.array([2])}]
    assert [len(rows["step"]) for rows in regroup(blocks)] == [2, 3, 1]


def test_workers_that_leave_no_cpu_for_decoding_are_refused() -> None:
    cpus = ray.cluster_resources()["CPU"]
    with pytest.raises(InputError, match="cpus_per_worker"):
        check_resources(ClusterConfig(num_workers=int(cpus), cpus_per_worker=1))
    with pytest.raises(InputError, match="GPU"):
        check_resources(ClusterConfig(num_workers=100, use_gpu=True, cpus_per_worker=0.001,
                                      cpus_per_decode=0.001))  # fmt: skip
