"""Camera geometry in torch: K, back-project, project, warp, poses, disparity ↔ depth.

`T_a_b` is (B,4,4) and maps points of frame b to frame a. Pixel centres are integers.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def pixel_grid(height: int, width: int, like: Tensor) -> Tensor:
    """Homogeneous pixel coordinates (3,H*W): u, v, 1."""
    v, u = torch.meshgrid(
        torch.arange(height, dtype=like.dtype, device=like.device),
        torch.arange(width, dtype=like.dtype, device=like.device),
        indexing="ij",
    )
    return torch.stack([u, v, torch.ones_like(u)]).reshape(3, -1)


def resize_K(K: Tensor, size: tuple[int, ...], new_size: tuple[int, ...]) -> Tensor:
    """K (B,3,3) of images of `size` (H, W), after they are resized to `new_size` (H, W)."""
    (scale_y, scale_x), last = (new / old for new, old in zip(new_size, size, strict=True)), K[:, 2]
    # The half pixel keeps edges on edges, as every resize here does.
    first = scale_x * K[:, 0] + (scale_x - 1) / 2 * last
    second = scale_y * K[:, 1] + (scale_y - 1) / 2 * last
    return torch.stack([first, second, last], 1)


def backproject(depth: Tensor, K: Tensor) -> Tensor:
    """Depth (B,1,H,W) and K (B,3,3) → points (B,3,H*W) in the camera's frame."""
    height, width = depth.shape[-2:]
    # Without the check for a singular matrix, which makes a GPU wait.
    inverse_K = torch.linalg.inv_ex(K).inverse
    rays = inverse_K @ pixel_grid(height, width, like=depth)
    return rays * depth.flatten(2)


def project(points: Tensor, K: Tensor, T: Tensor) -> tuple[Tensor, Tensor]:
    """Points (B,3,N) moved by T (B,4,4), then seen with K (B,3,3) → pixels (B,2,N), z (B,1,N)."""
    moved = T[:, :3, :3] @ points + T[:, :3, 3:]
    image = K @ moved
    z = image[:, 2:]
    # Points on or behind the camera's plane must not flip sign or divide by zero.
    return image[:, :2] / z.clamp(min=1e-6), z


def warp(source: Tensor, depth: Tensor, K: Tensor, T_source_target: Tensor) -> Tensor:
    """Synthesize the target view from a source image (monodepth2, arXiv:1806.01260, eq. 2).

    source: (B,S,3,H,W), S source images of each target. depth: (B,1,H,W) of the target.
    K: (B,3,3), shared by all views. T_source_target: (B,S,4,4).
    Returns (B,S,3,H,W); what falls outside takes the border's colour.
    """
    batch, num_sources, channels, height, width = source.shape
    points = backproject(depth, K).repeat_interleave(num_sources, 0)
    pixels, _ = project(points, K.repeat_interleave(num_sources, 0), T_source_target.flatten(0, 1))
    u, v = pixels.view(-1, 2, height, width).unbind(1)
    # Pixel centres are integers, so the outer centres are at -1 and 1: align_corners=True.
    grid = torch.stack([u * (2 / (width - 1)) - 1, v * (2 / (height - 1)) - 1], -1)
    warped = F.grid_sample(
        source.flatten(0, 1), grid, mode="bilinear", padding_mode="border", align_corners=True
    )
    return warped.view(batch, num_sources, channels, height, width)


def axis_angle_to_R(axis_angle: Tensor) -> Tensor:
    """Rodrigues: (B,3) rotation vectors in rad → (B,3,3); gradients are finite at zero."""
    # The epsilon keeps the square root differentiable; sin(t/2) avoids 1 - cos(t), which cancels.
    angle = torch.sqrt((axis_angle**2).sum(-1) + 1e-12).view(-1, 1, 1)
    zero = torch.zeros_like(axis_angle[:, 0])
    x, y, z = axis_angle.unbind(-1)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).view(-1, 3, 3)
    first, second = torch.sin(angle) / angle, 2 * (torch.sin(angle / 2) / angle) ** 2
    return torch.eye(3, dtype=skew.dtype, device=skew.device) + first * skew + second * skew @ skew


def pose_to_T(axis_angle: Tensor, translation: Tensor) -> Tensor:
    """Rotation vector (B,3) in rad and translation (B,3) → T (B,4,4) = translate after rotate."""
    T = torch.eye(4, dtype=axis_angle.dtype, device=axis_angle.device).repeat(len(axis_angle), 1, 1)
    T[:, :3, :3] = axis_angle_to_R(axis_angle)
    T[:, :3, 3] = translation
    return T


def invert_T(T: Tensor) -> Tensor:
    """Inverse of rigid transforms (B,4,4)."""
    R_inverse = T[:, :3, :3].transpose(1, 2)
    inverse = torch.zeros_like(T)
    inverse[:, :3, :3] = R_inverse
    inverse[:, :3, 3:] = -R_inverse @ T[:, :3, 3:]
    inverse[:, 3, 3] = 1
    return inverse


def stereo_T(baseline: Tensor) -> Tensor:
    """T_stereo_target (B,4,4) of a rectified pair; baseline (B,): x of the stereo camera."""
    T = torch.eye(4, dtype=baseline.dtype, device=baseline.device).repeat(len(baseline), 1, 1)
    T[:, 0, 3] = -baseline
    return T


def sigmoid_to_depth(sigmoid: Tensor, min_depth: float, max_depth: float) -> Tensor:
    """Network output in [0,1] → depth in [min_depth, max_depth], linear in disparity."""
    disparity = 1 / max_depth + (1 / min_depth - 1 / max_depth) * sigmoid
    return 1 / disparity
