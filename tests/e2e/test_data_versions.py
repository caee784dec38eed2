"""Raw data under DVC: added, pushed, pulled, imported; and a new dataset re-runs its own stages."""

import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from mde.data.shards import read_manifest
from tests.conftest import PARAMS, REPOSITORY
from tests.e2e.test_repro import run

pytestmark = pytest.mark.e2e

TOOLS = Path(sys.executable).parent

MINE = """
  mine:
    source: folder
    raw: data/raw/mine
    height: 48
    width: 64
    ratios: [0.5, 0.25, 0.25]
"""
VARIANT = """
  mine-resfpn:
    dataset: mine
    model: {family: resfpn, encoder: resnet18, weights: scratch, min_depth: 0.1}
    objective: {kind: supervised, loss: mse}
    recipe: {epochs: 1, batch_size: 4}
    augment: {}
    protocol: nyu_labeled
"""
CAMERA = "fx: 60.0\nfy: 60.0\ncx: 39.5\ncy: 29.5\nwidth: 80\nheight: 60\n"


def write_images(folder: Path, seed: int = 0) -> None:
    """Four scenes of two images with depth, in the layout of the `folder` source."""
    noise = np.random.default_rng(seed)
    for scene in range(4):
        for image in range(2):
            for kind in ("images", "depth"):
                (folder / kind / f"room_{scene}").mkdir(parents=True, exist_ok=True)
            name = f"room_{scene}/{image}.png"
            pixels = noise.integers(0, 256, (60, 80, 3)).astype(np.uint8)
            cv2.imwrite(str(folder / "images" / name), pixels)
            depth = noise.integers(500, 8000, (60, 80)).astype(np.uint16)
            cv2.imwrite(str(folder / "depth" / name), depth)
    (folder / "camera.yaml").write_text(CAMERA)


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Runs a command in a git checkout with DVC, and asserts that it went well."""
    folder = tmp_path_factory.mktemp("versions") / "project"
    folder.mkdir()
    for name in ("mde", "pipelines"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, folder / name, ignore=ignore)
    for name in ("dvc.yaml", ".dvcignore", ".gitignore", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, folder / name)
    (folder / "params.yaml").write_text(PARAMS)

    def command(*words: str) -> str:
        result = run(folder, TOOLS, shlex.join(words))
        assert result.returncode == 0, f"{words}\n{result.stdout}\n{result.stderr}"
        return result.stdout

    command.folder = folder  # type: ignore[attr-defined]
    command("git", "init", "-q")
    command("dvc", "init", "-q")
    return command


def test_raw_data_go_to_a_remote_and_come_back(checked: Callable[..., str]) -> None:
    folder: Path = checked.folder  # type: ignore[attr-defined]
    write_images(folder / "data/raw/mine")
    checked("dvc", "add", "data/raw/mine")
    # What a colleague needs is what git knows.
    checked("git", "add", "-A")
    assert "data/raw/mine.dvc" in checked("git", "status", "--short")
    assert "mine/images" not in checked("git", "status", "--short")
    checked("dvc", "remote", "add", "--default", "store", str(folder.parent / "store"))
    checked("dvc", "push")
    before = (folder / "data/raw/mine/images/room_0/0.png").read_bytes()
    shutil.rmtree(folder / "data/raw/mine")
    shutil.rmtree(folder / ".dvc/cache")
    checked("dvc", "pull", "data/raw/mine")
    assert (folder / "data/raw/mine/images/room_0/0.png").read_bytes() == before


def test_raw_data_that_lie_elsewhere_are_imported_and_updated(checked: Callable[..., str]) -> None:
    folder: Path = checked.folder  # type: ignore[attr-defined]
    elsewhere = folder.parent / "elsewhere"
    write_images(elsewhere, seed=1)
    (folder / "data/raw").mkdir(parents=True, exist_ok=True)
    checked("dvc", "import-url", str(elsewhere), "data/raw/imported")
    (elsewhere / "camera.yaml").write_text(CAMERA.replace("60.0", "61.0"))
    assert "61.0" not in (folder / "data/raw/imported/camera.yaml").read_text()
    checked("dvc", "update", "data/raw/imported.dvc")
    assert "61.0" in (folder / "data/raw/imported/camera.yaml").read_text()


def test_a_new_dataset_runs_its_own_stage_alone(checked: Callable[..., str]) -> None:
    """And training by hand refuses shards of former raw files or settings."""
    folder: Path = checked.folder  # type: ignore[attr-defined]
    shutil.rmtree(folder / "data/raw/mine", ignore_errors=True)
    write_images(folder / "data/raw/mine")
    params = PARAMS.replace("\nvariants:", f"{MINE}variants:{VARIANT.rstrip()}")
    (folder / "params.yaml").write_text(params)
    output = checked("dvc", "repro", "convert@mine")
    assert output.count("Running stage") == 1
    assert "Running stage 'convert@mine'" in output
    manifest = read_manifest(folder / "data/shards/mine")
    assert manifest.counts == {"train": 4, "val": 2, "test": 2}
    assert "Running stage" not in checked("dvc", "repro", "convert@mine")

    def refusal() -> str:
        assert "convert@mine" in checked("dvc", "status", "convert@mine")
        train = [sys.executable, "-m", "pipelines.train", "--variant", "mine-resfpn"]
        result = run(folder, TOOLS, shlex.join(train))
        assert result.returncode == 1, result.stderr
        assert "Traceback" not in result.stderr
        assert "data/shards/mine: converted before this was changed:" in result.stderr
        assert "Convert again: dvc repro convert@mine" in result.stderr
        assert not (folder / "models").exists()
        assert not (folder / "mlflow.db").exists()
        return result.stderr

    # The size stays as it is: this is what a look at names and sizes alone would not see.
    camera = folder / "data/raw/mine/camera.yaml"
    camera.write_text(CAMERA.replace("60.0", "61.0"))
    assert "the latest change is in camera.yaml" in refusal()
    camera.write_text(CAMERA)
    (folder / "params.yaml").write_text(params.replace("height: 48", "height: 32"))
    assert "height: 48 then, 32 in the params file now" in refusal()
