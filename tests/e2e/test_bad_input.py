"""Bad input ends in one message that names it, exit code 1, and nothing half-written."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PARAMS, REPOSITORY, Stage

pytestmark = pytest.mark.e2e


def own_copy(root: Path, dataset: str) -> Path:
    """Replace the shared sample by a copy that a test may damage; returns the dataset's folder."""
    shared = (root / "data/sample").resolve()
    (root / "data/sample").unlink()
    shutil.copytree(shared / dataset, root / "data/sample" / dataset)
    return root / "data/sample" / dataset


def expect_error(result: object, root: Path, *words: str) -> None:
    error = result.stderr  # type: ignore[attr-defined]
    assert result.returncode == 1, error  # type: ignore[attr-defined]
    assert "Traceback" not in error
    message = error[error.index("error: ") :]
    for word in words:
        assert word in message, message
    left = [path for path in (root / "data").glob("shards/**/*") if not is_draft(path)]
    assert left == [], left


def is_draft(path: Path) -> bool:
    """Finished shards, for the next start, and the list of rejected frames are not in the way."""
    return any(part.startswith(".") and part.endswith(".partial") for part in path.parts)


def test_unknown_key(stage: Stage, tiny_root: Path) -> None:
    params = PARAMS.replace("rows_per_shard: 4\n    val", "rows_per_shrd: 4\n    val")
    (tiny_root / "params.yaml").write_text(params)
    result = stage("convert", "--dataset", "nyu_labeled")
    expect_error(result, tiny_root, "datasets.nyu_labeled.rows_per_shrd", "'rows_per_shard'")


def test_debug_shows_the_traceback(stage: Stage, tiny_root: Path) -> None:
    result = stage("convert", "--dataset", "nyu_labled", "--debug")
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "did you mean 'nyu_labeled'" in result.stderr


def test_missing_raw_folder(stage: Stage, tiny_root: Path) -> None:
    params = PARAMS.replace("raw: data/sample/kitti", "raw: data/nowhere")
    (tiny_root / "params.yaml").write_text(params)
    expect_error(
        stage("convert", "--dataset", "kitti"), tiny_root, "data/nowhere", "set datasets.kitti.raw"
    )


def test_truncated_mat(stage: Stage, tiny_root: Path) -> None:
    mat = own_copy(tiny_root, "nyu_labeled") / "nyu_depth_v2_labeled.mat"
    size = mat.stat().st_size // 2
    with mat.open("r+b") as file:
        file.truncate(size)
    result = stage("convert", "--dataset", "nyu_labeled")
    expect_error(result, tiny_root, mat.name, f"{size} bytes")


def test_drive_without_calibration(stage: Stage, tiny_root: Path) -> None:
    calibration = own_copy(tiny_root, "kitti") / "2011_09_26/calib_cam_to_cam.txt"
    calibration.unlink()
    result = stage("convert", "--dataset", "kitti")
    expect_error(result, tiny_root, "calib_cam_to_cam.txt", "no such file")


def test_too_many_unusable_frames(stage: Stage, tiny_root: Path) -> None:
    folder = own_copy(tiny_root, "kitti")
    for image in (folder / "2011_09_26").glob("*/image_03/data/0000000003.png"):
        image.write_bytes(image.read_bytes()[:1000])
    result = stage("convert", "--dataset", "kitti")
    expect_error(result, tiny_root, "0000000003.png", "truncated", "max_rejected")


def test_training_without_shards(stage: Stage, tiny_root: Path) -> None:
    result = stage("train", "--variant", "resfpn-resnet18")
    expect_error(result, tiny_root, "data/shards/nyu_labeled", "manifest.json", "convert")


BEFORE_ALL = """
import sys
from pathlib import Path
import ray
from mde.errors import InputError
from pipelines import train
for params in sys.argv[2:]:
    try:
        train.main("resfpn-resnet18", Path(params), Path(sys.argv[1]))
    except InputError as error:
        print(error)
    print(ray.is_initialized())
"""


def test_a_mistake_is_found_before_anything_starts(tmp_path: Path) -> None:
    mistakes = {
        "variants.resfpn-resnet18.recipe.lr": ("lr: 5e-4", "lr: fast"),
        "cluster.num_workers": ("num_workers: 1", "num_workers: many"),
        "run.keep_last": ("cluster:", "run: {keep_last: all}\ncluster:"),
    }
    for key, (right, wrong) in mistakes.items():
        assert right in PARAMS
        (tmp_path / f"{key}.yaml").write_text(PARAMS.replace(right, wrong))
    (tmp_path / "root").mkdir()
    files = [tmp_path / f"{key}.yaml" for key in mistakes]
    result = subprocess.run(
        [sys.executable, "-c", BEFORE_ALL, str(tmp_path / "root"), *map(str, files)],
        cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    lines = result.stdout.splitlines()
    for file, message, started in zip(files, lines[::2], lines[1::2], strict=True):
        assert message.startswith(f"{file}: {file.stem}: ")
        assert started == "False"
    assert list((tmp_path / "root").iterdir()) == []
