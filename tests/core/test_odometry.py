"""`mde odometry`: a pose network of a known motion, frames of KITTI's layouts and of one's own."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import typer
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner, Result

from mde.cli.odometry import odometry
from mde.geometry import pose_to_T
from mde.models import ModelConfig, build_pose
from mde.odometry.frames import find_frames
from mde.odometry.motions import load_pose_model
from mde.odometry.truth import mercator_poses, read_truth
from mde.train.checkpoint import save_checkpoint
from mde.trajectory import (
    accumulate,
    read_kitti,
    read_tum,
    relative_motions,
    write_kitti,
    write_tum,
)

ROTATION, TRANSLATION = [0.0, 0.02, 0.0], [0.01, 0.0, -0.2]
"""What the network of `checkpoint` sees between any two frames: rad, model units of 5 m."""
MODEL = {"family": "monodepth2", "encoder": "resnet18", "metres_per_unit": 5.0, "metric": True}
SEEN = pose_to_T(torch.tensor([ROTATION]).double(), 5 * torch.tensor([TRANSLATION]).double())
STEPS = np.tile(SEEN.numpy(), (6, 1, 1))
VARIANT = {
    "name": "videos",
    "dataset": "kitti",
    "model": MODEL,
    "objective": {"kind": "self_supervised", "mode": "ms"},
    "augment": {"height": 32, "width": 64},
}

app = typer.Typer()
app.command()(odometry)


def save(folder: Path, variant: dict, network: torch.nn.Module | None) -> Path:
    folder.mkdir()
    tensors = {"model.weight": torch.zeros(1)}
    if network is not None:
        tensors |= {f"pose.{name}": tensor for name, tensor in network.state_dict().items()}
    save_checkpoint(folder, tensors, {}, {"variant": variant})
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pose network that sees the same motion everywhere."""
    network = build_pose(ModelConfig("monodepth2", "resnet18", weights="scratch"))
    last = network.decoder[-1]
    torch.nn.init.zeros_(last.weight)
    with torch.no_grad():
        last.bias[:6] = 100 * torch.tensor([*ROTATION, *TRANSLATION])
    return save(tmp_path_factory.mktemp("odometry") / "checkpoint", VARIANT, network)


@pytest.fixture(scope="module")
def other_checkpoint(checkpoint: Path) -> Callable[..., Path]:
    """Factory: the same network with other parts of the variant."""

    def write(folder: Path, **parts: dict) -> Path:
        shutil.copytree(checkpoint, folder)
        state = json.loads((folder / "state.json").read_text())
        state["variant"] |= parts
        (folder / "state.json").write_text(json.dumps(state))
        return folder

    return write


def write_frames(folder: Path, names: list[str], size: tuple[int, int] = (40, 80)) -> Path:
    folder.mkdir(parents=True)
    for i, name in enumerate(names):
        cv2.imwrite(str(folder / name), np.full((*size, 3), 20 * i, np.uint8))
    return folder


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Seven frames of one's own; in the order of letters, 10 comes before 9."""
    return write_frames(tmp_path / "video", [f"frame{i}.png" for i in range(5, 12)])


def run(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def assert_refused(message: str, *args: object) -> None:
    done = run(*args)
    assert done.exit_code == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_path_of_a_network_of_known_motion_is_written_and_has_no_error(
    checkpoint: Path, frames: Path, tmp_path: Path
):
    out, truth = tmp_path / "out", tmp_path / "truth.txt"
    expected = accumulate(STEPS)
    write_kitti(truth, expected)
    done = run(checkpoint, frames, "--out", out, "--truth", truth)
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in out.iterdir()) == [
        *("odometry.json", "trajectory.png", "trajectory_kitti.txt", "trajectory_tum.txt"),
        *("truth_kitti.txt", "truth_tum.txt"),
    ]
    np.testing.assert_allclose(read_kitti(out / "trajectory_kitti.txt"), expected, atol=1e-5)
    # Ahead and to the left: what is seen turns to the right.
    assert expected[-1, 2, 3] > 5.9
    assert expected[-1, 0, 3] < -0.3
    times, poses = read_tum(out / "trajectory_tum.txt")
    assert times.tolist() == [0, 1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(poses, expected, atol=1e-5)
    scores = json.loads((out / "odometry.json").read_text())
    assert scores["frames"] == 7
    assert scores["is_metric"] is True
    assert scores["ate_snippets"]["mean"] < 1e-5
    assert max(scores["ate"].values()) < 1e-5
    assert scores["scale"]["sim3"] == pytest.approx(1, abs=1e-4)
    assert (out / "trajectory.png").read_bytes().startswith(b"\x89PNG")


def test_pairs_come_in_the_order_of_time_and_batches_change_nothing(checkpoint, frames):
    from mde.odometry.motions import predict_motions

    model = load_pose_model(checkpoint)
    # Its own head again, which looks at the images.
    torch.manual_seed(0)
    torch.nn.init.normal_(model.network.decoder[-1].weight, std=10)
    images = find_frames(frames).images
    assert [path.stem for path in images] == [f"frame{i}" for i in range(5, 12)]
    by_two = predict_motions(model, images, batch_size=2)
    assert np.abs(by_two - by_two[0]).max() > 1e-4
    np.testing.assert_allclose(by_two, predict_motions(model, images, batch_size=50), atol=1e-5)
    backwards = predict_motions(model, images[::-1])
    assert np.abs(backwards[::-1] - by_two).max() > 1e-4


def test_a_model_up_to_scale_is_judged_by_its_shape(
    checkpoint: Path, other_checkpoint: Callable[..., Path], frames: Path, tmp_path: Path
):
    videos = other_checkpoint(tmp_path / "m", model=MODEL | {"metres_per_unit": 1, "metric": False})
    write_tum(tmp_path / "truth.txt", np.arange(7.0), accumulate(STEPS))
    done = run(videos, frames, "--out", tmp_path / "out", "--truth", tmp_path / "truth.txt")
    assert done.exit_code == 0, done.output
    assert "units of the model, not metric" in done.stdout
    scores = json.loads((tmp_path / "out/odometry.json").read_text())
    assert scores["ate"]["scale"] < 1e-5 < scores["ate"]["se3"]
    assert scores["scale"]["scale"] == pytest.approx(5, rel=1e-4)


def test_a_kitti_sequence_brings_its_poses_and_times(checkpoint: Path, tmp_path: Path):
    # Frames 2 to 8 of ten, of which frame 6 is missing.
    kept = [2, 3, 4, 5, 7, 8]
    sequence = tmp_path / "sequences/09"
    write_frames(sequence / "image_2", [f"{i:06d}.png" for i in kept])
    (sequence / "times.txt").write_text("".join(f"{i / 10:e}\n" for i in range(10)))
    (tmp_path / "poses").mkdir()
    rng = np.random.default_rng(0)
    poses = accumulate(np.tile(STEPS[:1], (9, 1, 1)))
    poses[:, :3, 3] += rng.normal(0, 0.1, (10, 3))
    write_kitti(tmp_path / "poses/09.txt", poses)
    done = run(checkpoint, sequence, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "1 gaps in the frame numbers" in done.stdout
    times, truth = read_tum(tmp_path / "out/truth_tum.txt")
    np.testing.assert_allclose(times, np.array(kept) / 10)
    np.testing.assert_allclose(relative_motions(truth), relative_motions(poses[kept]), atol=1e-9)


# --- The GPS/IMU of a raw drive ----------------------------------------------------------------


def write_oxts(drive: Path, states: list[tuple[float, ...]]) -> None:
    """States: lat, lon (degrees), alt (m), roll, pitch, yaw (rad)."""
    folder = drive / "oxts/data"
    folder.mkdir(parents=True)
    for i, state in enumerate(states):
        text = " ".join(f"{value:.16g}" for value in (*state, *[0] * 24))
        (folder / f"{i:010d}.txt").write_text(text + "\n")


METRE = float(np.degrees(1 / 6378137.0))
"""Degrees of longitude, at the equator."""


def test_a_drive_to_the_east_and_then_to_the_north_is_ahead_and_then_to_the_left(
    write_kitti_drive: Callable[..., None], tmp_path: Path
):
    write_kitti_drive(tmp_path, 1, frames=5)
    drive = tmp_path / "2011_09_26/2011_09_26_drive_0001_sync"
    left = np.pi / 2
    places = [(0, 0), (10, 0), (20, 0)]
    states = [(north * METRE, east * METRE, 100, 0, 0, 0) for east, north in places]
    states += [(0, 20 * METRE, 100, 0, 0, left), (10 * METRE, 20 * METRE, 100, 0, 0, left)]
    write_oxts(drive, states)
    found = read_truth(find_frames(drive), None)
    assert found is not None
    poses, source = found
    assert source == drive
    np.testing.assert_array_equal(poses[0].round(9), np.eye(4))
    # The axes of the sensors differ by some degrees at most.
    steps = np.diff(poses[:, :3, 3], axis=0)
    np.testing.assert_allclose(steps[[0, 1, 3]], [[0, 0, 10], [0, 0, 10], [-10, 0, 0]], atol=0.25)
    np.testing.assert_allclose(np.linalg.norm(steps[[0, 1, 3]], axis=1), 10, rtol=1e-6)
    # The camera is 1.1 m ahead of the IMU, so a turn on the spot takes it ahead and to the left.
    x, _, z = steps[2]
    assert np.hypot(x, z) == pytest.approx(np.hypot(1.08, 0.32) * np.sqrt(2), rel=0.05)
    turn = Rotation.from_matrix(poses[3, :3, :3]).as_rotvec(degrees=True)
    assert np.linalg.norm(turn) == pytest.approx(90)
    assert turn[1] == pytest.approx(-90, abs=2)


def test_the_cameras_of_a_drive_stand_beside_each_other(
    write_kitti_drive: Callable[..., None], tmp_path: Path
):
    write_kitti_drive(tmp_path, 1, frames=2)
    drive = tmp_path / "2011_09_26/2011_09_26_drive_0001_sync"
    # A turn by 180 degrees about the vertical axis of the IMU.
    write_oxts(drive, [(0, 0, 0, 0, 0, 0), (0, 0, 0, 0, 0, np.pi)])
    (left, _), (right, _) = (
        read_truth(find_frames(drive / f"image_0{camera}/data"), drive) for camera in (2, 3)
    )  # type: ignore[misc]
    # Each goes half around a circle: twice their distance apart, and the baseline is 0.53 m.
    apart = np.linalg.norm(left[1, :3, 3] - right[1, :3, 3])
    assert apart == pytest.approx(2 * 0.5327, abs=0.02)


def test_mercator_keeps_metres_at_the_first_latitude_and_rolls_about_the_way_ahead():
    # One second of arc to the north is the same length everywhere, to the east cos(latitude) of it.
    second = 1 / 3600
    values = [(49, 8, 0, 0, 0, 0), (49 + second, 8, 1, 0, 0, 0), (49, 8 + second, 0, 0.1, 0, 1)]
    poses = mercator_poses(np.array(values))
    length = 6378137 * np.radians(second)
    steps = poses[1:, :3, 3] - poses[0, :3, 3]
    expected = [[0, length, 1], [length * np.cos(np.radians(49)), 0, 0]]
    np.testing.assert_allclose(steps, expected, rtol=1e-5, atol=1e-6)
    # The way ahead stays level; the left side goes up.
    np.testing.assert_allclose(poses[2, :3, 0], [np.cos(1), np.sin(1), 0], atol=1e-12)
    assert poses[2, 2, 1] == pytest.approx(np.sin(0.1))


# --- What is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ({"kind": "supervised"}, "its objective was 'supervised'"),
        ({"kind": "self_supervised", "mode": "s"}, "trained self-supervised in mode 's'"),
        (None, "it holds imported weights"),
    ],
)
def test_a_model_without_a_pose_network_is_refused(
    frames: Path, tmp_path: Path, objective: dict | None, message: str
):
    checkpoint = save(tmp_path / "none", VARIANT | {"objective": objective}, None)
    assert_refused(message, checkpoint, frames, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_that_does_not_say_its_size_asks_for_it(
    other_checkpoint: Callable[..., Path], frames: Path, tmp_path: Path
):
    sizeless, out = other_checkpoint(tmp_path / "sizeless", augment={}), tmp_path / "out"
    assert_refused("give --size HEIGHTxWIDTH", sizeless, frames, "--out", out)
    assert_refused("--size 32,64: expected", sizeless, frames, "--out", out, "--size", "32,64")
    assert_refused("at least 32 px", sizeless, frames, "--out", out, "--size", "16x64")
    assert run(sizeless, frames, "--out", out, "--size", "32x64").exit_code == 0
    assert not (out / "truth_kitti.txt").exists()


def test_bad_frames_and_truths_are_refused(checkpoint: Path, frames: Path, tmp_path: Path):
    out, truth = ("--out", tmp_path / "out"), tmp_path / "truth.txt"
    assert_refused("no such folder", checkpoint, tmp_path / "nowhere", *out)
    assert_refused("is there already", checkpoint, frames, "--out", frames)
    assert_refused("no such file or folder", checkpoint, frames, *out, "--truth", truth)
    write_kitti(truth, accumulate(STEPS)[:6])
    assert_refused("6 poses, but 7 images", checkpoint, frames, *out, "--truth", truth)
    assert_refused("are found by number", checkpoint, frames, *out, "--truth", tmp_path)
    single = write_frames(tmp_path / "single", ["0.png"])
    assert_refused("1 images, a motion needs two", checkpoint, single, *out)
    twice = write_frames(tmp_path / "twice", ["1.png", "01.png"])
    assert_refused("are both frame 1", checkpoint, twice, *out)
    write_frames(tmp_path / "other", ["0.png"], size=(50, 80))
    shutil.copy(tmp_path / "other/0.png", frames / "frame7.png")
    assert_refused("frame7.png: 50x80 px", checkpoint, frames, *out)
    (frames / "frame7.png").write_bytes(b"no image")
    assert_refused("frame7.png: not a readable image", checkpoint, frames, *out)
