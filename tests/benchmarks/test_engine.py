"""What the benchmarks of the engine reckon with: the same batches, whole epochs, every process."""

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from benchmarks.engine_estimate import Node, Sample, needs
from benchmarks.engine_feed import NYU_EPOCH, nyu_epoch_rate
from benchmarks.engine_timed import Timed, read_notes, summarise, window
from benchmarks.processes import Monitor, memory_by_kind, processes_of
from benchmarks.timing import Figure
from benchmarks.torch_loader import Epochs, TorchFeed
from mde.data.augment import Augment
from mde.data.plan import epoch_order, worker_steps
from mde.data.shards import ROWS_PER_GROUP, Manifest, write_manifest, write_shard
from mde.schema import Batch

ROWS = 23


@pytest.fixture
def feed(tmp_path: Path, make_row) -> TorchFeed:
    """All of the samples, as one worker gets them."""
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [make_row(i) for i in range(ROWS)]
    shards = [write_shard(folder, "train", i, rows[i * 12 : i * 12 + 12]) for i in range(2)]
    write_manifest(folder, Manifest("x", {}, shards, [], {}))
    augment = Augment(height=16, width=16)
    return TorchFeed(folder, ("image",), True, 4, 0, augment, 0, 1, workers=0)


def ids(feed: TorchFeed, epoch: int) -> list[list[str]]:
    return [batch["sample_id"] for batch, _ in feed.train(epoch)]


def test_torchs_loader_gives_the_plans_samples_in_the_plans_order(feed: TorchFeed) -> None:
    shards = feed.manifest.of_split("train")
    order = epoch_order(shards, ROWS_PER_GROUP, feed.seed, 1)
    names = sorted(name for batch in ids(feed, 0) for name in batch)
    planned = worker_steps(order, feed.batch_size, 0, 1)
    # Shards hold 12 samples each, in the order of their names.
    expected = [[names[12 * s + ROWS_PER_GROUP * g + r] for s, g, r in p.rows] for p in planned]
    assert ids(feed, 1) == expected
    assert ids(feed, 0) != ids(feed, 1)


def test_two_ranks_of_torchs_loader_share_an_epoch(feed: TorchFeed) -> None:
    ranks = [replace(feed, rank=rank, world_size=2) for rank in (0, 1)]
    shares = [[name for batch in ids(rank, 0) for name in batch] for rank in ranks]
    assert sorted(shares[0] + shares[1]) == sorted(name for batch in ids(feed, 0) for name in batch)
    assert len(shares[0]) + len(shares[1]) == ROWS
    assert ranks[0].steps_per_epoch == ranks[1].steps_per_epoch == len(ids(ranks[0], 0))


def test_worker_processes_of_torchs_loader_give_what_this_process_gives(feed: TorchFeed) -> None:
    here, elsewhere = Epochs(feed), Epochs(replace(feed, workers=1))
    for _ in range(2):
        for ours, theirs in zip(here, elsewhere, strict=True):
            assert ours["sample_id"] == theirs["sample_id"]
            assert torch.equal(ours["image"], theirs["image"])
            assert torch.equal(ours["depth"], theirs["depth"])


class Three:
    """Epochs of two batches of three samples."""

    steps_per_epoch = 2

    def train(self, epoch: int, start: int = 0) -> Iterator[tuple[Batch, float]]:
        for _ in range(start, 2):
            yield {"sample_id": ["a", "b", "c"]}, 1.0

    def val(self) -> Iterator[tuple[Batch, float]]:
        return iter(())


def test_a_timed_training_gets_the_same_batches_and_leaves_notes(tmp_path: Path) -> None:
    timed = Timed(Three(), tmp_path / "rank0.json")
    for epoch in range(3):
        assert list(timed.train(epoch)) == list(Three().train(epoch))
    (notes,) = read_notes(tmp_path)
    assert [[step[2] for step in epoch["steps"]] for epoch in notes] == [[3, 3]] * 3
    for epoch in notes:
        times = [time for step in epoch["steps"] for time in step[:2]] + [epoch["end"]]
        assert times == sorted(times)


def test_rates_and_waiting_are_of_the_steady_epochs_of_all_ranks() -> None:
    def epoch(start: float, wait: float, lasts: float) -> dict:
        steps = [[start, start + wait, 4], [start + lasts / 2, start + lasts / 2 + wait, 4]]
        return {"steps": steps, "end": start + lasts}

    # The first and the last epoch are slow, and must not count.
    ranks = [
        [epoch(100, 5, 50), epoch(160, 0.5, 10), epoch(200, 5, 50)],
        [epoch(100, 5, 50), epoch(160, 1.0, 10), epoch(200, 5, 50)],
    ]
    found = summarise(ranks, started=90, ended=260)
    assert found["samples"] == 16
    assert found["samples_per_s"] == pytest.approx(1.6)
    assert found["wait"] == pytest.approx((1 + 2) / 2 / 10)
    assert found["wait_most"] == pytest.approx(0.2)
    assert found["between_s"] == pytest.approx(30)
    assert found["first_batch_s"] == pytest.approx(1.0)
    assert found["first_step_s"] == pytest.approx(100 + 25 - 90)
    assert found["end_s"] == pytest.approx(170)
    assert window(ranks) == (160, 170)
    with pytest.raises(ValueError, match="3 epochs"):
        summarise([rank[:2] for rank in ranks], 0, 0)


SPIN = "import time\nwhile True: time.process_time()"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SPIN!r}])"


@pytest.fixture
def program() -> Iterator[psutil.Process]:
    """A program whose child's child is busy."""
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {PARENT!r}])"
    started = subprocess.Popen([sys.executable, "-c", code])
    root = psutil.Process(started.pid)
    while len(root.children(recursive=True)) < 2:
        time.sleep(0.05)
    yield root
    for process in [*root.children(recursive=True), root]:
        process.kill()
    started.wait()


def test_the_cpu_time_of_a_process_that_ends_is_kept(program: psutil.Process) -> None:
    monitor = Monitor(program.pid)
    while monitor.cpu_between(0, 1e12).get("loader", 0) <= 0:
        monitor.look()
    spent = monitor.samples[-1][1]["loader"]
    program.children(recursive=True)[-1].kill()
    while len(program.children(recursive=True)) > 1:
        time.sleep(0.05)
    monitor.look()
    assert monitor.samples[-1][1]["loader"] >= spent


def test_every_process_of_a_program_is_watched(program: psutil.Process) -> None:
    assert sorted(kind for kind, _ in processes_of(program)) == ["driver", "loader", "worker"]
    assert min(size["pss_mib"] for size in memory_by_kind(program).values()) > 1
    with Monitor(program.pid, memory=True) as monitor:
        while len(monitor.samples) < 2:
            time.sleep(0.2)
    assert monitor.cpu_between(0, 1e12).keys() >= {"driver", "worker", "loader"}
    assert monitor.peaks["worker"]["processes"] == 1


def test_a_figure_is_met_within_its_bound() -> None:
    assert Figure("x", 0.02, "s", 0.02).met is True
    assert Figure("x", 0.03, "s", 0.02).met is False
    assert Figure("x", 0.9, "x", 1.0, at_least=True).met is False
    assert Figure("x", 5.0, "s").met is None


def test_the_start_of_a_short_epoch_is_reckoned_once_for_a_long_one() -> None:
    # 1 s of start, then 100 samples/s.
    short = {"samples_per_s": 100.0, "samples": 400, "wall_s": 5.0}
    assert nyu_epoch_rate(short) == pytest.approx(NYU_EPOCH / (NYU_EPOCH / 100 + 1))
    assert nyu_epoch_rate({**short, "wall_s": 3.9}) == pytest.approx(100)


def test_the_scarcest_resource_comes_first() -> None:
    node = Node("x", cores=20, busy_cores=4, network_gbit_per_s=80, disks_gb_per_s=1)
    sample = Sample(decode_ms=10, take_ms=1, read_bytes=1e5, store_bytes=1e6)
    found = {need.resource: need for need in needs(sample, rate=100, node=node, gpus=8)}
    # 8 x 100 samples/s x 10 ms are 8 cores of 16.
    cores = found["cores that decode"]
    assert (cores.need, cores.have, cores.feeds_gpus) == pytest.approx((8, 16, 16))
    assert found["one process per GPU that takes batches"].need == pytest.approx(0.1)
    assert found["reading shards from disks"].need == pytest.approx(0.08)
    assert found["reading shards over the network"].need == pytest.approx(0.64)
    assert found["batches over the network, if other nodes decode"].need == pytest.approx(6.4)
    assert [n.feeds_gpus for n in found.values()] == sorted(n.feeds_gpus for n in found.values())
