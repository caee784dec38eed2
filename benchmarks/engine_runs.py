"""Starts a timed training as a user would, and watches its processes."""

import contextlib
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from benchmarks.engine_timed import read_notes, summarise, window
from benchmarks.engine_worker import Work
from benchmarks.processes import Monitor
from benchmarks.setup import Setup, repeated
from benchmarks.timing import Run, alone
from mde.cluster.session import ClusterConfig
from mde.config import load_params, load_section
from mde.data.convert import convert, run_one_by_one
from mde.data.sample import SampleConfig, write_kitti, write_nyu_labeled
from mde.data.shards import read_manifest
from mde.data.sources import load_source_config
from mde.errors import InputError
from mde.files import fresh_folder, read_json
from mde.train.recipe import Recipe
from mde.variants import Variant, load_variant

REPOSITORY = Path(__file__).parents[1]
EPOCHS = 3
"""The second counts: the first one starts everything, for the last one nothing is read ahead."""
GIVE_UP_S = 3600
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}


@dataclass(frozen=True)
class EngineSetup(Setup):
    """params: the params file whose variants are trained. rows: of an epoch of the feed.

    steps: optimizer steps of an epoch of the training beside torchrun. wait_steps: of an epoch of
    each variant. variant: what is trained beside torchrun. gpu_rate: samples/s of one GPU for the
    estimate; None: measured, or as published.
    """

    params: Path = Path("params.yaml")
    steps: int = 80
    wait_steps: int = 24
    rows: int = 4000
    variant: str = "fastdepth-mobilenet"
    gpu_rate: float | None = None

    def variants(self) -> list[str]:
        """Names in the params file."""
        return list(load_params(self.params)["variants"])


def sample_dataset(setup: EngineSetup, name: str, rows: int) -> Path:
    """A dataset of the params file from the built-in sample, converted: training rows alone.

    An epoch has at least so many: it reads its shards as often as that needs. Raises InputError
    for a dataset that the sample is not there for.
    """
    config = load_source_config(setup.params, name)
    root = setup.work / "sample"
    writers = {"nyu_labeled": write_nyu_labeled, "kitti": write_kitti}
    if config.source not in writers:
        raise InputError(
            f"{setup.params}: datasets.{name}: the sample is of {', '.join(writers)}, found "
            f"{config.source}; give the params file of the sample with --params"
        )
    raw = root / config.raw
    if not raw.is_dir():
        with fresh_folder(raw) as draft:
            writers[config.source](draft, load_section(setup.params, "sample", SampleConfig))
    shards = root / "shards" / name
    if not shards.is_dir():
        alone(convert, config, root, shards, run_one_by_one)
    return repeated(shards, -(-rows // read_manifest(shards).counts["train"]), ("train",))


def stage_variants(variant: Variant) -> dict[str, Variant]:
    """A variant for each stage of its recipe, which is trained alone for a few epochs."""
    stages = variant.recipe.all_stages
    found = {}
    for number, stage in enumerate(stages):
        name = variant.name if len(stages) == 1 else f"{variant.name}, stage {number + 1}"
        only = (replace(stage, epochs=EPOCHS, patience=None),)
        recipe: Recipe = replace(variant.recipe, epochs=EPOCHS, stages=only, patience=None)
        found[name] = replace(variant, recipe=recipe)
    return found


def work_of(
    setup: EngineSetup, name: str, steps: int, workers: int | None = None
) -> dict[str, Work]:
    """What is trained of a variant, by stage, in epochs of at least so many steps.

    On the params file's cluster, or with so many workers.
    """
    variant = load_variant(setup.params, name)
    data = sample_dataset(setup, variant.dataset, steps * variant.recipe.batch_size)
    cluster: dict[str, Any] = vars(load_section(setup.params, "cluster", ClusterConfig)).copy()
    cluster |= {"num_workers": workers or cluster["num_workers"], "max_failures": 0}
    return {name: Work(stage, data, cluster) for name, stage in stage_variants(variant).items()}


def run_training(setup: Setup, side: str, work: Work, memory: bool = False) -> Run:
    """Train in a program of its own; what `summarise` says, and CPU time in the steady epochs.

    side: `fit` or `torchrun`. memory: keep peaks too, as `rss_mib_<kind>` and the like; then
    `store_bytes` is what went through the object store in the whole run.
    Raises RuntimeError with the end of its log when it fails.
    """
    folder = setup.work / "run"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "work.pickle").write_bytes(pickle.dumps(work))
    load, started = os.getloadavg()[0], time.time()
    with (folder / "log.txt").open("w") as log:
        program = subprocess.Popen(
            command(side, work.workers, folder), cwd=REPOSITORY, env={**os.environ, **ENVIRONMENT},
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        with _ended(program), Monitor(program.pid, memory) as monitor:
            status = program.wait(GIVE_UP_S)
            ended = time.time()
    if status:
        raise RuntimeError(f"{side} failed:\n{(folder / 'log.txt').read_text()[-4000:]}")
    notes = read_notes(folder)
    run = {**summarise(notes, started, ended), "load": load}
    spent = monitor.cpu_between(*window(notes))
    run |= {f"cpu_ms_{kind}": 1e3 * cpu / run["samples"] for kind, cpu in spent.items()}
    run["cpu_ms_per_sample"] = 1e3 * sum(spent.values()) / run["samples"]
    for kind, sizes in monitor.peaks.items():
        run |= {f"{name}_{kind}": size for name, size in sizes.items()}
    if memory:
        counted = sum(step[2] for rank in notes for epoch in rank for step in epoch["steps"])
        run |= {"store_bytes_per_sample": read_json(folder / "store.json")["bytes"] / counted}
    return run


def command(side: str, workers: int, folder: Path) -> list[str]:
    """The command line of a timed training."""
    program = ["-m", "benchmarks.engine_worker", side, str(folder)]
    if side == "fit":
        return [sys.executable, *program]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}"]
    return [sys.executable, *launcher, *program]


@contextlib.contextmanager
def _ended(program: subprocess.Popen[bytes]) -> Iterator[None]:
    """Leave no process behind when the block is left early."""
    try:
        yield
    finally:
        if program.poll() is None:
            root = psutil.Process(program.pid)
            for process in [root, *root.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            program.wait()
