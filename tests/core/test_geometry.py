"""Camera geometry: derivatives, round trips, closed forms and sign conventions."""

import math

import kornia.geometry as kornia
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from mde import geometry
from mde.intrinsics import crop_K, flip_K, resize_K

HEIGHT, WIDTH = 5, 6


def make_K(dtype: torch.dtype = torch.float64, batch: int = 2) -> Tensor:
    K = torch.tensor([[7.0, 0, 2.6], [0, 6.5, 2.1], [0, 0, 1]], dtype=dtype)
    return K.expand(batch, 3, 3).contiguous()


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def small_T(seed: int = 0) -> Tensor:
    return geometry.pose_to_T(0.1 * random(2, 3, seed=seed), 0.1 * random(2, 3, seed=seed + 1))


# --- Derivatives ------------------------------------------------------------------------------


def test_backproject_has_right_gradients():
    depth = (1 + random(2, 1, HEIGHT, WIDTH)).requires_grad_()
    assert gradcheck(geometry.backproject, (depth, make_K().requires_grad_()))


def test_project_has_right_gradients():
    points = (random(2, 3, 9) + torch.tensor([0.0, 0, 2]).view(1, 3, 1)).requires_grad_()
    assert gradcheck(geometry.project, (points, make_K(), small_T().requires_grad_()))


def test_warp_has_right_gradients_for_depth_and_pose():
    source = random(2, 1, 3, HEIGHT, WIDTH).requires_grad_()
    depth = (2 + random(2, 1, HEIGHT, WIDTH, seed=1)).requires_grad_()
    T = small_T(3).unsqueeze(1).requires_grad_()
    assert gradcheck(lambda s, d, t: geometry.warp(s, d, make_K(), t), (source, depth, T))


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_axis_angle_to_R_has_right_gradients(scale: float):
    axis_angle = (scale * (random(3, 3) - 0.5)).requires_grad_()
    assert gradcheck(geometry.axis_angle_to_R, (axis_angle,))


def test_pose_to_T_has_right_gradients():
    inputs = tuple((random(2, 3, seed=s) - 0.5).requires_grad_() for s in (0, 1))
    assert gradcheck(geometry.pose_to_T, inputs)


def test_invert_T_has_right_gradients():
    assert gradcheck(geometry.invert_T, (small_T().requires_grad_(),))


def test_stereo_T_has_right_gradients():
    assert gradcheck(geometry.stereo_T, (random(3).requires_grad_(),))


def test_sigmoid_to_depth_has_right_gradients():
    sigmoid = random(2, 1, 3, 4).requires_grad_()
    assert gradcheck(lambda x: geometry.sigmoid_to_depth(x, 0.1, 100.0), (sigmoid,))


def test_resize_K_has_right_gradients():
    assert gradcheck(lambda K: geometry.resize_K(K, (5, 6), (3, 2)), (make_K().requires_grad_(),))


def test_axis_angle_gradient_is_finite_and_not_zero_at_no_rotation():
    axis_angle = torch.zeros(1, 3, requires_grad=True)
    geometry.axis_angle_to_R(axis_angle)[0, 0, 1].backward()
    assert axis_angle.grad is not None
    # d R01 / d z = -1: the skew matrix.
    torch.testing.assert_close(axis_angle.grad, torch.tensor([[0.0, 0, -1]]))


# --- Round trips and closed forms -------------------------------------------------------------


def test_project_undoes_backproject():
    depth = 1 + random(2, 1, HEIGHT, WIDTH)
    points = geometry.backproject(depth, make_K())
    pixels, z = geometry.project(points, make_K(), torch.eye(4).double().expand(2, 4, 4))
    grid = geometry.pixel_grid(HEIGHT, WIDTH, like=depth)[:2].expand(2, -1, -1)
    torch.testing.assert_close(pixels, grid)
    torch.testing.assert_close(z, depth.flatten(2))


def test_pixel_grid_counts_columns_first_from_zero():
    grid = geometry.pixel_grid(2, 3, like=torch.zeros(1))
    assert grid.tolist() == [[0, 1, 2, 0, 1, 2], [0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1]]


def test_a_quarter_turn_about_z_turns_x_into_y():
    R = geometry.axis_angle_to_R(torch.tensor([[0, 0, math.pi / 2]]))[0]
    torch.testing.assert_close(R @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]))


def test_rotations_are_orthonormal_with_determinant_one():
    R = geometry.axis_angle_to_R(6 * (random(20, 3) - 0.5))
    eye = torch.eye(3, dtype=R.dtype).expand(20, 3, 3)
    torch.testing.assert_close(R @ R.mT, eye)
    torch.testing.assert_close(torch.linalg.det(R), torch.ones(20, dtype=R.dtype))


def test_axis_angle_is_the_exponential_of_the_skew_matrix():
    x, y, z = 0.3, -1.2, 0.8
    skew = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    R = geometry.axis_angle_to_R(torch.tensor([[x, y, z]], dtype=torch.float64))[0]
    torch.testing.assert_close(R, torch.linalg.matrix_exp(skew))


def test_pose_to_T_rotates_first_and_translates_then():
    T = geometry.pose_to_T(torch.tensor([[0, 0, math.pi / 2]]), torch.tensor([[5.0, 0, 0]]))[0]
    moved = T @ torch.tensor([1.0, 0, 0, 1])
    torch.testing.assert_close(moved, torch.tensor([5.0, 1, 0, 1]))


def test_invert_T_is_the_matrix_inverse():
    T = small_T()
    torch.testing.assert_close(geometry.invert_T(T), torch.linalg.inv(T))


def test_moving_the_camera_sideways_shifts_a_plane_by_focal_times_baseline_over_depth():
    focal_px, depth_m, baseline_m = 7.0, 3.5, 0.5
    depth = torch.full((1, 1, HEIGHT, WIDTH), depth_m, dtype=torch.float64)
    points = geometry.backproject(depth, make_K(batch=1))
    T = geometry.stereo_T(torch.tensor([baseline_m], dtype=torch.float64))
    pixels, z = geometry.project(points, make_K(batch=1), T)
    shift = pixels - geometry.pixel_grid(HEIGHT, WIDTH, like=depth)[:2]
    expected = torch.tensor([-focal_px * baseline_m / depth_m, 0.0]).double().view(1, 2, 1)
    torch.testing.assert_close(shift, expected.expand_as(shift))
    assert z.unique().tolist() == [depth_m]


def test_a_stereo_camera_on_the_right_sees_the_point_further_left():
    point = torch.tensor([0.0, 0, 2]).view(1, 3, 1)
    K = make_K(torch.float32, batch=1)
    in_target = geometry.project(point, K, torch.eye(4)[None])[0][0, 0, 0]
    in_stereo = geometry.project(point, K, geometry.stereo_T(torch.tensor([0.54])))[0][0, 0, 0]
    assert in_stereo < in_target


@pytest.mark.parametrize("step_m", [0.5, -0.3])
def test_driving_into_a_plane_scales_it_about_the_principal_point(step_m: float):
    depth = torch.full((1, 1, HEIGHT, WIDTH), 3.5, dtype=torch.float64)
    forward = torch.tensor([[0, 0, -step_m]], dtype=torch.float64)
    T = geometry.pose_to_T(torch.zeros_like(forward), forward)
    pixels, _ = geometry.project(geometry.backproject(depth, make_K(batch=1)), make_K(batch=1), T)
    centre = make_K(batch=1)[:, :2, 2:]
    grid = geometry.pixel_grid(HEIGHT, WIDTH, like=depth)[:2]
    torch.testing.assert_close(pixels, centre + (grid - centre) * 3.5 / (3.5 - step_m))


def test_stereo_disparity_is_focal_times_baseline_over_depth_at_every_pixel():
    focal_px, baseline_m = 7.0, torch.tensor([0.5, -0.2], dtype=torch.float64)
    depth = 1 + 3 * random(2, 1, HEIGHT, WIDTH)
    points = geometry.backproject(depth, make_K())
    pixels, _ = geometry.project(points, make_K(), geometry.stereo_T(baseline_m))
    u, v = geometry.pixel_grid(HEIGHT, WIDTH, like=depth)[:2]
    disparity = focal_px * baseline_m[:, None] / depth.flatten(1)
    torch.testing.assert_close(pixels[:, 0], u - disparity)
    torch.testing.assert_close(pixels[:, 1], v.expand(2, -1))


def test_a_rotation_moves_pixels_alike_at_any_depth():
    axis_angle = 0.1 * random(2, 3)
    T = geometry.pose_to_T(axis_angle, torch.zeros_like(axis_angle))
    seen = [
        geometry.project(geometry.backproject(depth, make_K()), make_K(), T)[0]
        for depth in (1 + random(2, 1, HEIGHT, WIDTH), 50 + random(2, 1, HEIGHT, WIDTH, seed=1))
    ]
    torch.testing.assert_close(seen[0], seen[1])
    grid = geometry.pixel_grid(HEIGHT, WIDTH, like=axis_angle)
    # The homography of a rotation: K R inv(K).
    u, v, w = (make_K() @ T[:, :3, :3] @ torch.linalg.inv(make_K()) @ grid).unbind(1)
    torch.testing.assert_close(seen[0], torch.stack([u / w, v / w], 1))


def test_a_slanted_plane_moves_by_its_homography():
    normal, distance_m = torch.tensor([0.2, -0.3, 1.0], dtype=torch.float64), 4.0
    normal = normal / normal.norm()
    K, T = make_K(), small_T()
    grid = geometry.pixel_grid(HEIGHT, WIDTH, like=K)
    # Points x with normal·x = distance.
    depth = distance_m / (normal @ torch.linalg.inv(K[0]) @ grid)
    depth = depth.view(1, 1, HEIGHT, WIDTH).expand(2, -1, -1, -1)
    pixels, _ = geometry.project(geometry.backproject(depth, K), K, T)
    plane = T[:, :3, :3] + T[:, :3, 3:] * normal / distance_m
    u, v, w = (K @ plane @ torch.linalg.inv(K) @ grid).unbind(1)
    torch.testing.assert_close(pixels, torch.stack([u / w, v / w], 1))


def test_warp_with_identity_returns_every_source():
    source = random(2, 3, 3, HEIGHT, WIDTH)
    T = torch.eye(4).double().expand(2, 3, 4, 4)
    warped = geometry.warp(source, 1 + random(2, 1, HEIGHT, WIDTH), make_K(), T)
    torch.testing.assert_close(warped, source)


def test_warp_by_a_whole_pixel_reads_the_neighbour_and_repeats_the_border():
    source = torch.arange(WIDTH).double().expand(1, 1, 3, HEIGHT, WIDTH)
    depth = torch.full((1, 1, HEIGHT, WIDTH), 7.0, dtype=torch.float64)  # focal / depth = 1 px/m
    T = geometry.stereo_T(torch.tensor([-1.0], dtype=torch.float64)).unsqueeze(1)
    warped = geometry.warp(source, depth, make_K(batch=1), T)
    expected = torch.tensor([1.0, 2, 3, 4, 5, 5], dtype=torch.float64)
    torch.testing.assert_close(warped, expected.expand_as(warped))


def test_points_at_or_behind_the_camera_stay_finite():
    points = torch.tensor([[0.0, 1, -1], [0, 1, 1], [0, 0, -2]]).unsqueeze(0)
    pixels, _ = geometry.project(points, make_K(torch.float32, 1), torch.eye(4)[None])
    assert torch.isfinite(pixels).all()


def test_sigmoid_to_depth_is_linear_in_disparity_between_its_end_points():
    depth = geometry.sigmoid_to_depth(torch.tensor([0.0, 0.5, 1.0]).double(), 0.1, 100.0)
    expected = torch.tensor([100.0, 2 / (1 / 0.1 + 1 / 100), 0.1], dtype=torch.float64)
    torch.testing.assert_close(depth, expected)


# --- Against kornia ---------------------------------------------------------------------------


def test_backproject_is_that_of_kornia():
    depth = 1 + random(2, 1, HEIGHT, WIDTH)
    expected = kornia.depth.depth_to_3d(depth, make_K()).flatten(2)
    torch.testing.assert_close(geometry.backproject(depth, make_K()), expected)


def test_project_is_that_of_kornia():
    points, T = random(2, 3, 9) + torch.tensor([0.0, 0, 2]).view(1, 3, 1), small_T()
    moved = kornia.transform_points(T, points.mT)
    expected = kornia.project_points(moved, make_K()[:, None])
    torch.testing.assert_close(geometry.project(points, make_K(), T)[0].mT, expected)


def test_axis_angle_to_R_is_that_of_kornia():
    axis_angle = 4 * (random(9, 3) - 0.5)
    expected = kornia.axis_angle_to_rotation_matrix(axis_angle)
    torch.testing.assert_close(geometry.axis_angle_to_R(axis_angle), expected)


def test_warp_is_that_of_kornia_inside_of_the_source():
    source, depth, T = random(2, 3, 9, 11), 3 + random(2, 1, 9, 11, seed=1), small_T()
    # Kornia's border is black; ours takes the colour of the edge.
    inside = kornia.depth.warp_frame_depth(torch.ones_like(source), depth, T, make_K()) == 1
    assert 0.3 < inside.double().mean() < 1
    expected = kornia.depth.warp_frame_depth(source, depth, T, make_K())
    warped = geometry.warp(source[:, None], depth, make_K(), T[:, None])[:, 0]
    torch.testing.assert_close(warped[inside], expected[inside])


# --- Intrinsics -------------------------------------------------------------------------------

K = np.array([[518.9, 0, 325.6], [0, 519.5, 253.7], [0, 0, 1]])
SIZE = (480, 640)
POINT = np.array([0.3, -0.2, 2.5])


def pixel(K: np.ndarray) -> np.ndarray:
    return (K @ POINT / POINT[2])[:2]


def test_a_projected_point_keeps_its_place_relative_to_the_edges_when_resized():
    u, v = pixel(resize_K(K, SIZE, (192, 320)))
    # Edges are half a pixel outside the outer centres.
    assert (u + 0.5) / 320 == pytest.approx((pixel(K)[0] + 0.5) / 640, rel=1e-12)
    assert (v + 0.5) / 192 == pytest.approx((pixel(K)[1] + 0.5) / 480, rel=1e-12)


def test_resizing_twice_is_resizing_once_and_back_is_nothing():
    twice = resize_K(resize_K(K, SIZE, (333, 201)), (333, 201), (96, 128))
    np.testing.assert_allclose(twice, resize_K(K, SIZE, (96, 128)), rtol=1e-12)
    np.testing.assert_allclose(resize_K(resize_K(K, SIZE, (7, 9)), (7, 9), SIZE), K, rtol=1e-12)


@pytest.mark.parametrize("new_size", [(192, 320), (120, 160), (7, 9)])
def test_batches_of_intrinsics_are_resized_like_single_ones(new_size: tuple[int, int]):
    other = crop_K(K, 3, 5)
    resized = geometry.resize_K(torch.from_numpy(np.stack([K, other])), SIZE, new_size)
    expected = np.stack([resize_K(k, SIZE, new_size) for k in (K, other)])
    np.testing.assert_allclose(resized, expected, rtol=1e-12)


def test_a_crop_moves_a_projected_point_by_what_was_cut_off():
    np.testing.assert_allclose(pixel(crop_K(K, top=45, left=41)), pixel(K) - [41, 45])


def test_a_flip_mirrors_a_projected_point_of_the_mirrored_world():
    mirrored = flip_K(K, 640) @ (POINT * [-1, 1, 1]) / POINT[2]
    np.testing.assert_allclose(mirrored[:2], [639 - pixel(K)[0], pixel(K)[1]])


def test_flipping_twice_is_nothing():
    np.testing.assert_allclose(flip_K(flip_K(K, 640), 640), K, rtol=1e-12)


def test_intrinsics_leave_their_argument_alone():
    before = K.copy()
    resize_K(K, SIZE, (10, 10)), crop_K(K, 1, 2), flip_K(K, 640)
    np.testing.assert_array_equal(K, before)
