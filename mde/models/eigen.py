"""Eigen & Fergus 2015, VGG-16 variant: three scales, depth only.

Scale 1 sees the whole image through fully connected layers, scales 2 and 3 sharpen its answer.
Source: arXiv:1411.4734, sec. 3 and its layer table; what the table leaves open (the 9x9 stems'
padding, the 7x7 upsampling, the input statistics) is as in ports of the released network.
Not built, because they are not in the table: the released network's learned bias per pixel of the
scale-2 map (55x74 numbers) and its fixed factors 0.01 after the last pooling and 0.45723134 (the
spread of log depth in NYU) on the output. Surface normals and labels are left out too.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mde.models.depth_model import DepthModel, resize_image
from mde.models.encoders import IMAGENET_NORM, Encoder, Weights
from mde.models.encoders.vgg import STAGES

HIDDEN = 4096
COARSE = 64
STEM = 96
LOCAL = 64
# Mean and standard deviation of NYU's pixels, 0..255, for the stems of scales 2 and 3.
PIXEL_MEAN, PIXEL_STD = 109.314, 76.183
PUBLISHED_SIZE = (228, 304)
PUBLISHED_SIZE = (228, 304)
SMALLEST_SIDE = 36
# exp(20) is 5e8 m: far outside any depth range, far inside what float32 and its squares hold.
LOG_LIMIT = 20.0


@dataclass(frozen=True)
class StageSizes:
    """(H, W) of the maps: VGG's last pooling, the fully connected layers' grid, both outputs."""

    vgg: tuple[int, int]
    coarse: tuple[int, int]
    scale2: tuple[int, int]
    scale3: tuple[int, int]


def stage_sizes(input_size: tuple[int, int]) -> StageSizes:
    """Sizes of all stages for images of H, W = `input_size`.

    Raises ValueError when a side is too short for the five poolings of VGG.
    """
    if min(input_size) < SMALLEST_SIDE:
        raise ValueError(
            f"input_size must be at least {SMALLEST_SIDE}x{SMALLEST_SIDE}, "
            f"found {input_size[0]}x{input_size[1]}"
        )
    rows, columns = (_side_lengths(side) for side in input_size)
    return StageSizes(*zip(rows, columns, strict=True))


def _side_lengths(side: int) -> tuple[int, int, int, int]:
    # Two unpadded 3x3 convolutions take 4 pixels, then five poolings halve.
    vgg = (side - 4) // 32
    # 9x9, stride 2, padding 1; then 3x3 pooling with stride 2 (scale 2) or 1 (scale 3).
    stem = (side + 2 - 9) // 2 + 1
    return vgg, side // 16, (stem - 3) // 2 + 1, stem - 2


class Eigen(DepthModel):
    """Native maps: [scale 3, scale 2], log depth (natural logarithm of m).

    (B,1,109,147) and (B,1,55,74) for images of 228x304. Parameters of the published width and
    size: 217 355 458, 93 % of them in the two fully connected layers, which fix the input size.

    Training goes in stages by parameter prefix: `scale1` and `scale2` on native map 1, then
    `scale3` on native map 0. Freeze the others with `requires_grad`: while scale 3 is frozen and
    the model is in training mode, scale 3 is not computed and map 0 is the scale-2 map, upsampled;
    while scale 1 is frozen its dropout is off, so that scale 3 learns from what it will get.
    """

    only_encoder = "vgg16"
    # Any size can be given to `predict_depth`; `forward` takes one size.
    stride = 1

    def __init__(
        self,
        weights: Weights,
        width: float,
        input_size: tuple[int, int] | None,
        min_depth: float,
        max_depth: float,
    ) -> None:
        """Build the network for images of H, W = `input_size`, the published ones when None.

        width: multiplies all channels and the fully connected layers; 1 = published.
        weights: `imagenet` is for VGG's convolutions; the rest starts from scratch, as published.
        Raises ValueError for a size that is too small, a width that is not positive or, with
        `imagenet`, not 1; InputError when the ImageNet weights cannot be had.
        """
        super().__init__(min_depth, max_depth)
        if not 0 < width < math.inf:
            raise ValueError(f"width must be positive, found {width}")
        if weights == "imagenet" and width != 1:
            raise ValueError(
                f"weights 'imagenet' fit the published width 1 only, found width {width}; "
                "set `weights: scratch`"
            )
        rows, columns = input_size or PUBLISHED_SIZE
        self.input_size = (rows, columns)
        self.sizes = stage_sizes(self.input_size)
        coarse, stem, local = (_scaled(channels, width) for channels in (COARSE, STEM, LOCAL))
        start = math.log(min_depth * max_depth) / 2
        self.scale1 = GlobalScale(weights, width, self.sizes)
        self.scale2 = LocalScale(coarse, stem, local, num_convs=3, pool_stride=2, start=start)
        self.scale3 = LocalScale(1, stem, local, num_convs=2, pool_stride=1, start=start)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Image (B,3,H,W) in [0,1], H, W = `input_size` → log depth [(B,1,..), (B,1,..)]."""
        self.check_size(image)
        pixels = (image * 255 - PIXEL_MEAN) / PIXEL_STD
        coarse = self.scale2(pixels, self.scale1(image))
        height, width = self.sizes.scale3
        upsampled = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
        context = upsampled[:, :, :height, :width]
        if self.training and not any(p.requires_grad for p in self.scale3.parameters()):
            return [context, coarse]
        return [self.scale3(pixels, context), coarse]

    def native_to_depth(self, native: Tensor) -> Tensor:
        """Log depth (B,1,h,w) → depth in m; finite for every finite value."""
        return native.clamp(-LOG_LIMIT, LOG_LIMIT).exp()

    def fit_size(self, image: Tensor) -> Tensor:
        """Resize an image (B,3,H,W) to `input_size`, whatever its proportions."""
        return resize_image(image, self.input_size)

    def check_size(self, image: Tensor) -> None:
        """Raises ValueError when the image does not have the size the network was built for."""
        height, width = image.shape[-2:]
        if (height, width) != self.input_size:
            raise ValueError(
                f"this Eigen network takes images of {self.input_size[0]}x{self.input_size[1]}, "
                f"found {height}x{width}; resize the image or build it with that input_size"
            )


class GlobalScale(nn.Module):
    """Scale 1: VGG-16 and two fully connected layers; a coarse grid of features, upsampled."""

    mean: Tensor
    std: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(self, weights: Weights, width: float, sizes: StageSizes) -> None:
        super().__init__()
        # The released network subtracts Caffe's mean; our weights are torchvision's.
        for key, values in zip(("mean", "std"), IMAGENET_NORM, strict=True):
            self.register_buffer(key, torch.tensor(values).view(1, -1, 1, 1), persistent=False)
        self.features = vgg_features(width)
        channels, hidden = _scaled(STAGES[-1][0], width), _scaled(HIDDEN, width)
        self.grid = (_scaled(COARSE, width), *sizes.coarse)
        self.fc6 = nn.Linear(channels * math.prod(sizes.vgg), hidden)
        self.fc7 = nn.Linear(hidden, math.prod(self.grid))
        _init_relu_layers(self)
        if weights == "imagenet":
            vgg = Encoder("vgg16", weights, IMAGENET_NORM).backbone
            # Padding has no parameters, so the same weights fit.
            self.features.load_state_dict(vgg.get_submodule("features").state_dict())
        for i, name in enumerate(("rows", "columns")):
            matrix = upsampling_matrix(sizes.coarse[i], sizes.scale2[i])
            self.register_buffer(name, matrix, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Image (B,3,H,W) in [0,1] → features (B,C,h,w) of scale 2's size."""
        x = self.features((image - self.mean) / self.std).flatten(1)
        learns = self.training and self.fc6.weight.requires_grad
        x = F.dropout(F.relu(self.fc6(x)), 0.5, training=learns)
        grid = F.relu(self.fc7(x)).unflatten(1, self.grid)
        return self.rows @ grid @ self.columns.T


class LocalScale(nn.Module):
    """Scale 2 or 3: a 9x9 stem on the image, joined with the coarser scale, and 5x5 layers."""

    def __init__(
        self, context: int, stem: int, local: int, num_convs: int, pool_stride: int, start: float
    ) -> None:
        """`context`: channels that come from the coarser scale. `start`: log depth at the start."""
        super().__init__()
        self.pool_stride = pool_stride
        self.stem = nn.Conv2d(3, stem, 9, stride=2, padding=1)
        self.convs = nn.Sequential()
        for i in range(num_convs):
            inputs = local if i else context + stem
            self.convs.extend([nn.Conv2d(inputs, local, 5, padding=2), nn.ReLU(inplace=True)])
        _init_relu_layers(self)
        self.head = nn.Conv2d(local, 1, 5, padding=2)
        # Training starts at the middle of the depth range, with little noise on it.
        bound = 0.1 / math.sqrt(25 * local)
        nn.init.uniform_(self.head.weight, -bound, bound)
        assert self.head.bias is not None
        nn.init.constant_(self.head.bias, start)

    def forward(self, pixels: Tensor, context: Tensor) -> Tensor:
        """Normalised image (B,3,H,W), coarser scale (B,C,h,w) → log depth (B,1,h,w)."""
        local = F.max_pool2d(F.relu(self.stem(pixels)), 3, self.pool_stride)
        return self.head(self.convs(torch.cat([context, local], 1)))


def vgg_features(width: float) -> nn.Sequential:
    """VGG-16's convolutions with torchvision's numbering; the first block is not padded."""
    layers: list[nn.Module] = []
    inputs = 3
    for block, (channels, num_convs) in enumerate(STAGES):
        for _ in range(num_convs):
            outputs = _scaled(channels, width)
            layers += [nn.Conv2d(inputs, outputs, 3, padding=int(block > 0)), nn.ReLU(inplace=True)]
            inputs = outputs
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def upsampling_matrix(inputs: int, outputs: int) -> Tensor:
    """One axis of bilinear upsampling by 4, cut to the middle: (outputs, inputs).

    Equal to a transposed convolution with stride 4 and the 7-tap tent, and a centre crop.
    """
    margin = (4 * (inputs - 1) + 7 - outputs) // 2
    positions = [(output + margin - 3) / 4 for output in range(outputs)]
    return torch.tensor([[max(0.0, 1 - abs(p - i)) for i in range(inputs)] for p in positions])


def _scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width))


def _init_relu_layers(module: nn.Module) -> None:
    # He et al. 2015: the signal keeps its size through the sixteen layers.
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
