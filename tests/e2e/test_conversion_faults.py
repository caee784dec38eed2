"""A conversion that is killed, and one whose disk is full: nothing half-written, nothing lost."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mde.data.convert import convert, run_one_by_one
from mde.data.shards import read_manifest, verify_shards
from mde.data.sources import load_source_config
from mde.files import file_sha256
from mde.train.checkpoint import read_state
from tests.conftest import PARAMS, REPOSITORY

pytestmark = pytest.mark.e2e

CONVERT = """
import sys
from pathlib import Path
from mde.data.convert import convert, run_one_by_one
from mde.data.sources import load_source_config, nyu_labeled
from mde.errors import explained
root, out = map(Path, sys.argv[1:])
config = load_source_config(root / "params.yaml", "nyu_labeled")
with explained(False):
    convert(config, root, out, run_one_by_one)
"""
KILLS = 20


@pytest.fixture
def root(tiny_root: Path) -> Path:
    """The tiny sample with one row in each shard: twelve tasks."""
    (tiny_root / "params.yaml").write_text(PARAMS.replace("rows_per_shard: 4", "rows_per_shard: 1"))
    return tiny_root


def converted(root: Path, out: Path) -> dict[str, bytes]:
    config = load_source_config(root / "params.yaml", "nyu_labeled")
    convert(config, root, out, run_one_by_one)
    return {path.name: path.read_bytes() for path in out.iterdir()}


def finished_shards(draft: Path) -> list[str]:
    """Those that have a record; asserts that every file that looks whole is whole."""
    names = []
    for record in (draft / "work").glob("*.json"):
        shard = json.loads(record.read_text())["shard"]
        assert file_sha256(draft / "shards" / shard["file"]) == shard["sha256"]
        names.append(shard["file"])
    return names


def test_killed_at_random_points_a_conversion_goes_on_and_ends_in_the_same_bytes(
    root: Path, tmp_path: Path
) -> None:
    whole = converted(root, tmp_path / "whole")
    start = time.monotonic()
    converted(root, tmp_path / "again")
    duration, points = time.monotonic() - start, random.Random(0)
    fork = multiprocessing.get_context("fork")
    survivors = []
    for number in range(KILLS):
        out = tmp_path / f"killed-{number}"
        # Forked, so that no time goes into imports.
        process = fork.Process(target=converted, args=(root, out))
        process.start()
        time.sleep(points.uniform(0, duration))
        process.kill()
        process.join()
        if out.exists():
            verify_shards(out, read_manifest(out))
        else:
            survivors.append(len(finished_shards(tmp_path / f".killed-{number}.partial")))
        assert converted(root, out) == whole
        assert not (tmp_path / f".killed-{number}.partial").exists()
    # Else the moments were badly chosen, and this has tested nothing.
    assert len(set(survivors)) >= 3


def test_with_ray_killed_a_conversion_goes_on_from_its_finished_shards(
    root: Path, tmp_path: Path
) -> None:
    whole = converted(root, tmp_path / "whole")
    command = [sys.executable, "-m", "pipelines.convert", "--dataset", "nyu_labeled"]
    command += ["--params", str(root / "params.yaml"), "--root", str(root)]
    process = subprocess.Popen(command, cwd=REPOSITORY, start_new_session=True)
    draft = root / "data/shards/.nyu_labeled.partial"
    deadline = time.monotonic() + 300
    while not list(draft.glob("work/*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    # Ray's processes notice that the driver is gone.
    time.sleep(2)
    finished = finished_shards(draft)
    assert 1 <= len(finished) < len(whole) - 1
    times = {name: (draft / "shards" / name).stat().st_mtime_ns for name in finished}
    subprocess.run(command, cwd=REPOSITORY, check=True, timeout=600)
    out = root / "data/shards/nyu_labeled"
    assert {path.name: path.read_bytes() for path in out.iterdir()} == whole
    assert {name: (out / name).stat().st_mtime_ns for name in finished} == times


ON_A_SMALL_DISK = """
disk=$1 seen=$2 size=$3; shift 3
mount -t tmpfs -o size="$size" tmpfs "$disk" || exit 77
"$@"
status=$?
cp -a "$disk" "$seen"
exit $status
"""


def run_on_small_disk(
    tmp_path: Path, size: str, code: str, *arguments: object
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Run Python with a disk of `size` at tmp_path/disk; returns what it said and left there."""
    disk, seen = tmp_path / "disk", tmp_path / "seen"
    disk.mkdir()
    command = ["sh", "-c", ON_A_SMALL_DISK, "sh", str(disk), str(seen), size]
    command += [sys.executable, "-c", code, *map(str, arguments)]
    # A mount of one's own needs no rights where user namespaces are allowed.
    for unshare in (["unshare", "-m"], ["unshare", "-Urm"]):
        result = subprocess.run(
            [*unshare, *command], cwd=REPOSITORY, capture_output=True, text=True, timeout=120
        )
        if seen.exists():
            return result, seen
    pytest.skip(f"no small disk can be mounted here: {result.stderr}")


CONVERT_THERE = f"""
import shutil, sys
root, former, out = sys.argv[1:]
shutil.copytree(former, out)
sys.argv[1:] = [root, out]
{CONVERT}
"""


def test_a_full_disk_is_named_and_leaves_the_former_dataset(root: Path, tmp_path: Path) -> None:
    before = converted(root, tmp_path / "former")
    params = PARAMS.replace("height: 64", "height: native").replace("width: 96", "width: native")
    (root / "params.yaml").write_text(params)
    result, seen = run_on_small_disk(
        tmp_path, "4m", CONVERT_THERE, root, tmp_path / "former", tmp_path / "disk" / "nyu"
    )
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert "No space left on device" in result.stderr
    assert "finished shards stay there: make room and start again" in result.stderr
    assert {path.name: path.read_bytes() for path in (seen / "nyu").iterdir()} == before
    draft = seen / ".nyu.partial"
    assert not list(draft.rglob("*.tmp"))
    assert not list(draft.rglob("*.partial"))
    assert len(finished_shards(draft)) == len(list(draft.glob("shards/*")))


SAVE_TWO_CHECKPOINTS = """
import sys
from pathlib import Path
import torch
from mde.errors import explained
from mde.train.checkpoint import save_checkpoint
for epoch, width in enumerate((300, int(sys.argv[2]))):
    network = torch.nn.Linear(width, width)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(1, width)).sum().backward()
    optimizer.step()
    folder = Path(sys.argv[1]) / str(epoch)
    folder.mkdir()
    with explained(False):
        state = {"adam": optimizer.state_dict()}
        save_checkpoint(folder, network.state_dict(), state, {"epoch": epoch})
"""


# The second one does not fit with its weights, or only without its optimizer.
@pytest.mark.parametrize("width", [2000, 1000])
def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, width: int) -> None:
    result, seen = run_on_small_disk(tmp_path, "8m", SAVE_TWO_CHECKPOINTS, tmp_path / "disk", width)
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert "No space left on device: the checkpoint could not be written" in result.stderr
    assert list((seen / "1").iterdir()) == []
    assert read_state(seen / "0")["epoch"] == 0
