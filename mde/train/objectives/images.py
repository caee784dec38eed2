"""uint8 batches → what networks and losses take."""

import torch
from torch import Tensor


def to_float(image: Tensor) -> Tensor:
    """uint8 (B,3,H,W) → float32 in [0,1]."""
    # Batches come channels last; the losses are faster on planes.
    return image.to(torch.float32, memory_format=torch.contiguous_format) / 255


def jitter(image: Tensor, color_matrix: Tensor) -> Tensor:
    """Apply a (B,3,4) colour matrix to images (B,3,H,W) in [0,1]."""
    mixed = torch.einsum("bij,bjhw->bihw", color_matrix[:, :, :3], image)
    return (mixed + color_matrix[:, :, 3, None, None]).clamp(0, 1)
