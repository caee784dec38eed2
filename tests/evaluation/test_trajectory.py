"""Trajectories: their errors against evo, plain loops and paper and pencil; their files."""

from pathlib import Path

import numpy as np
import pytest
from evo.core import metrics as evo_metrics
from evo.core.trajectory import PosePath3D
from evo.tools import file_interface
from scipy.optimize import minimize_scalar
from scipy.spatial.transform import Rotation

from mde.errors import InputError
from mde.trajectory import (
    ALIGNMENTS,
    accumulate,
    align,
    ate,
    ate_snippets,
    ate_snippets_monodepth2,
    from_first,
    path_length,
    read_kitti,
    read_tum,
    relative_motions,
    write_kitti,
    write_tum,
)


def walk(seed: int, count: int = 40) -> np.ndarray:
    """A winding path (N,4,4) that starts at the identity, a step of about 1 m ahead a frame."""
    rng = np.random.default_rng(seed)
    motions = np.tile(np.eye(4), (count - 1, 1, 1))
    motions[:, :3, :3] = Rotation.from_rotvec(rng.normal(0, 0.1, (count - 1, 3))).as_matrix()
    motions[:, :3, 3] = rng.normal([0, 0, -1], 0.2, (count - 1, 3))
    return accumulate(motions)


def moved(poses: np.ndarray, scale: float) -> np.ndarray:
    """The path in another world: turned, scaled and shifted."""
    world = np.eye(4)
    world[:3, :3] = Rotation.from_rotvec([0.3, -1.2, 2.0]).as_matrix()
    world[:3, 3] = [5, -7, 100]
    poses = poses.copy()
    poses[:, :3, 3] *= scale
    return world @ poses


def at(*positions: tuple[float, float, float]) -> np.ndarray:
    """Poses (N,4,4) at these positions, without rotation."""
    poses = np.tile(np.eye(4), (len(positions), 1, 1))
    poses[:, :3, 3] = positions
    return poses


PRED, TRUTH = walk(0), walk(1)


# --- The whole path ----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ALIGNMENTS)
def test_a_path_has_no_error_against_itself(how):
    assert ate(TRUTH, TRUTH, how) == pytest.approx(0, abs=1e-12)


def test_each_alignment_takes_away_what_it_is_for_and_no_more():
    other_world, other_scale = moved(TRUTH, 1), moved(TRUTH, 0.3)
    assert ate(other_scale, TRUTH, "sim3") == pytest.approx(0, abs=1e-9)
    assert ate(other_world, TRUTH, "se3") == pytest.approx(0, abs=1e-9)
    assert align(other_scale, TRUTH, "sim3").scale == pytest.approx(1 / 0.3)
    assert ate(other_scale, TRUTH, "se3") > 1
    assert ate(other_world, TRUTH, "scale") > 1
    assert ate(from_first(other_scale), TRUTH, "scale") == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("how", "correct_scale"), [("none", None), ("se3", False), ("sim3", True)])
def test_the_error_is_that_of_evo(how, correct_scale):
    pred, truth = (PosePath3D(poses_se3=list(poses)) for poses in (PRED, TRUTH))
    if correct_scale is not None:
        pred.align(truth, correct_scale=correct_scale)
    metric = evo_metrics.APE(evo_metrics.PoseRelation.translation_part)
    metric.process_data((truth, pred))
    theirs = metric.get_statistic(evo_metrics.StatisticsType.rmse)
    assert ate(PRED, TRUTH, how) == pytest.approx(theirs, rel=1e-9)


def test_the_rotation_of_the_alignment_is_that_of_scipy():
    source, target = (poses[:, :3, 3] - poses[:, :3, 3].mean(0) for poses in (PRED, TRUTH))
    rotation, distance = Rotation.align_vectors(target, source)
    np.testing.assert_allclose(align(PRED, TRUTH, "se3").R, rotation.as_matrix(), atol=1e-9)
    assert ate(PRED, TRUTH, "se3") == pytest.approx(distance / np.sqrt(len(PRED)))


def test_a_mirrored_path_is_not_turned_into_the_true_one():
    mirrored = TRUTH.copy()
    mirrored[:, 0, 3] *= -1
    found = align(mirrored, TRUTH, "sim3")
    assert np.linalg.det(found.R) == pytest.approx(1)
    assert ate(mirrored, TRUTH, "sim3") > 0.1


def test_no_other_scale_has_a_smaller_error():
    def error(scale: float) -> float:
        scaled = PRED.copy()
        scaled[:, :3, 3] *= scale
        return ate(scaled, TRUTH, "none")

    best = minimize_scalar(error, bounds=(-10, 10), method="bounded", options={"xatol": 1e-10})
    assert align(PRED, TRUTH, "scale").scale == pytest.approx(best.x, abs=1e-6)
    assert ate(PRED, TRUTH, "scale") == pytest.approx(best.fun, rel=1e-9)


def test_three_poses_by_hand():
    truth = at((0, 0, 0), (0, 0, 2), (0, 0, 4))
    pred = at((0, 0, 0), (1, 0, 1), (0, 0, 2))
    # As they are: errors 0, sqrt(2), 2. Scale: Σ truth·pred = 2 + 8, Σ pred² = 2 + 4, so 5/3;
    # then (0,0,0), (5/3,0,-1/3), (0,0,-2/3): squares 0, 26/9, 4/9.
    assert ate(pred, truth, "none") == pytest.approx(np.sqrt(6 / 3))
    assert align(pred, truth, "scale").scale == pytest.approx(5 / 3)
    assert ate(pred, truth, "scale") == pytest.approx(np.sqrt(30 / 9 / 3))
    # The snippet of three divides by the number of frames outside the root.
    assert ate_snippets(pred, truth, length=3) == pytest.approx((np.sqrt(30 / 9) / 3, 0))
    # The mean is taken away: (-1/3,0,-1), (2/3,0,0), (-1/3,0,1) against (0,0,-2), (0,0,0), (0,0,2);
    # no turn helps, scale = Σ 4 / Σ pred² = 4 / (2/3 + 2) = 3/2.
    assert align(pred, truth, "sim3").scale == pytest.approx(3 / 2)
    assert ate(pred, truth, "sim3") == pytest.approx(np.sqrt((9 / 4 * 2 / 3 + 2 * 1 / 4) / 3))


def test_a_camera_that_stands_still_has_an_error_and_no_division_by_zero():
    still, truth = at(*[(0, 0, 0)] * 5), at(*[(0, 0, z) for z in range(5)])
    assert ate(still, truth, "scale") == pytest.approx(np.sqrt(30 / 5))
    assert ate(still, truth, "sim3") == pytest.approx(np.sqrt(2))
    assert ate_snippets(still, truth) == pytest.approx((np.sqrt(30) / 5, 0))


def test_a_straight_path_can_be_aligned():
    truth = at(*[(0, 0, z) for z in range(5)])
    assert ate(moved(truth, 2), truth, "sim3") == pytest.approx(0, abs=1e-9)


# --- Snippets ----------------------------------------------------------------------------------


def slow_snippets(pred: np.ndarray, truth: np.ndarray, length: int) -> list[float]:
    """The formula with loops over frames, positions by hand from one camera to the next."""
    errors = []
    for start in range(len(pred) - length + 1):
        paths = []
        for poses in (pred, truth):
            R0, t0 = poses[start, :3, :3], poses[start, :3, 3]
            paths.append([R0.T @ (poses[start + i, :3, 3] - t0) for i in range(length)])
        numerator = sum(float(g @ p) for p, g in zip(*paths, strict=True))
        scale = numerator / sum(float(p @ p) for p in paths[0])
        squares = sum(float(((scale * p - g) ** 2).sum()) for p, g in zip(*paths, strict=True))
        errors.append(squares**0.5 / length)
    return errors


@pytest.mark.parametrize("length", [2, 5, 40])
def test_snippets_are_the_published_formula(length):
    errors = slow_snippets(PRED, TRUTH, length)
    assert len(errors) == 40 - length + 1
    expected = (np.mean(errors), np.std(errors))
    assert ate_snippets(PRED, TRUTH, length) == pytest.approx(expected)


def test_monodepth2s_variant_chains_the_motions_in_the_order_of_time_and_keeps_short_snippets():
    motions = [
        [np.linalg.inv(poses[i + 1]) @ poses[i] for i in range(39)] for poses in (PRED, TRUTH)
    ]
    errors = []
    for start in range(39):
        paths = []
        for steps in motions:
            chained, positions = np.eye(4), [np.zeros(3)]
            for step in steps[start : start + 4]:
                chained = chained @ step
                positions.append(chained[:3, 3])
            paths.append(np.array(positions))
        scale = (paths[0] * paths[1]).sum() / (paths[0] ** 2).sum()
        errors.append(np.linalg.norm(scale * paths[0] - paths[1]) / len(paths[0]))
    expected = (np.mean(errors), np.std(errors))
    assert ate_snippets_monodepth2(PRED, TRUTH) == pytest.approx(expected)


@pytest.mark.parametrize("measure", [ate_snippets, ate_snippets_monodepth2])
def test_snippets_know_neither_the_scale_nor_the_world(measure):
    assert measure(moved(TRUTH, 0.2), TRUTH) == pytest.approx((0, 0), abs=1e-9)
    expected = measure(PRED, TRUTH)
    assert measure(moved(PRED, 0.2), moved(TRUTH, 1)) == pytest.approx(expected)


@pytest.mark.parametrize("measure", [ate, ate_snippets, ate_snippets_monodepth2])
def test_paths_of_different_lengths_are_refused(measure):
    with pytest.raises(ValueError, match="39 predicted poses and 40 true ones"):
        measure(PRED[:-1], TRUTH)


def test_a_path_shorter_than_a_snippet_is_refused():
    with pytest.raises(ValueError, match="snippets of 5 frames, in a path of 4"):
        ate_snippets(PRED[:4], TRUTH[:4])


# --- Motions and files -------------------------------------------------------------------------


def test_motions_and_path_are_inverse_to_each_other():
    np.testing.assert_allclose(accumulate(relative_motions(TRUTH)), TRUTH, atol=1e-9)
    np.testing.assert_allclose(accumulate(relative_motions(moved(TRUTH, 1))), TRUTH, atol=1e-9)


def test_a_camera_that_drives_ahead_and_turns_right():
    # What is ahead comes nearer: points move by -1 in z; then they turn to the left.
    ahead, right = np.eye(4), np.eye(4)
    ahead[2, 3] = -1
    right[:3, :3] = Rotation.from_euler("y", -90, degrees=True).as_matrix()
    path = accumulate(np.stack([ahead, right, ahead]))
    expected = [[0, 0, 0], [0, 0, 1], [0, 0, 1], [1, 0, 1]]
    np.testing.assert_allclose(path[:, :3, 3], expected, atol=1e-12)
    assert path_length(path) == pytest.approx(2)


def test_files_give_the_same_path_again(tmp_path: Path):
    times = np.arange(40) / 10
    write_kitti(tmp_path / "kitti.txt", PRED)
    write_tum(tmp_path / "tum.txt", times, PRED)
    np.testing.assert_array_equal(read_kitti(tmp_path / "kitti.txt"), PRED)
    found_times, poses = read_tum(tmp_path / "tum.txt")
    np.testing.assert_array_equal(found_times, times)
    np.testing.assert_allclose(poses, PRED, atol=1e-12)


def test_evo_reads_both_files(tmp_path: Path):
    write_kitti(tmp_path / "kitti.txt", PRED)
    write_tum(tmp_path / "tum.txt", np.arange(40) / 10, PRED)
    kitti = file_interface.read_kitti_poses_file(str(tmp_path / "kitti.txt"))
    tum = file_interface.read_tum_trajectory_file(str(tmp_path / "tum.txt"))
    for path in (kitti, tum):
        assert path.check()[0]
        np.testing.assert_allclose(np.array(path.poses_se3), PRED, atol=1e-9)
    np.testing.assert_allclose(tum.timestamps, np.arange(40) / 10)


def test_a_line_of_each_format_by_hand(tmp_path: Path):
    (tmp_path / "kitti.txt").write_text("0 0 1 5  0 1 0 6  -1 0 0 7\n")
    # A comment, an empty line; 90 degrees about y.
    (tmp_path / "tum.txt").write_text("# t x y z q\n\n2.5 5 6 7 0 0.70710678 0 0.70710678\n")
    expected = [[0, 0, 1, 5], [0, 1, 0, 6], [-1, 0, 0, 7], [0, 0, 0, 1]]
    np.testing.assert_array_equal(read_kitti(tmp_path / "kitti.txt"), [expected])
    times, poses = read_tum(tmp_path / "tum.txt")
    assert times.tolist() == [2.5]
    np.testing.assert_allclose(poses, [expected], atol=1e-9)


IDENTITY = "1 0 0 0 0 1 0 0 0 0 1 0\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no pose in it; a line must be the 12 numbers"),
        (IDENTITY + "1 0 0 0\n", "line 2: expected the 12 numbers .*found '1 0 0 0'"),
        (IDENTITY.replace("1 0\n", "1 x\n"), "line 1: expected the 12 numbers"),
        (IDENTITY + "\n" + IDENTITY.replace("1", "nan"), "line 3: expected the 12 numbers"),
        ("2" + IDENTITY[1:], r"line 1: columns 1-3, 5-7 and 9-11 must be a rotation"),
        ("-1" + IDENTITY[1:], "must be a rotation"),
    ],
)
def test_bad_kitti_files_are_refused_with_the_line(tmp_path: Path, text: str, message: str):
    (tmp_path / "poses.txt").write_text(text)
    with pytest.raises(InputError, match=f"poses.txt.*{message}"):
        read_kitti(tmp_path / "poses.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (IDENTITY, "line 1: expected time tx ty tz"),
        ("0 0 0 0 0 0 0 2\n", "line 1: qx qy qz qw must have length 1"),
        ("1 0 0 0 0 0 0 1\n1 0 0 0 0 0 0 1\n", "line 2: times must grow, found 1.0 after 1.0"),
    ],
)
def test_bad_tum_files_are_refused_with_the_line(tmp_path: Path, text: str, message: str):
    (tmp_path / "poses.txt").write_text(text)
    with pytest.raises(InputError, match=f"poses.txt.*{message}"):
        read_tum(tmp_path / "poses.txt")


def test_a_missing_file_is_said_so(tmp_path: Path):
    with pytest.raises(InputError, match=r"none.txt: cannot be read: No such file"):
        read_kitti(tmp_path / "none.txt")
