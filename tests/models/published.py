"""The published networks, written anew from their layer tables and under their published names.

They share no code with `mde.models`; backbones come from torchvision. Weights and batch-norm
statistics are random, so that a value in the wrong place changes the output.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

Net = TypeVar("Net", bound=nn.Module)


def randomized(kind: type[Net], *args: object, seed: int = 0, **options: object) -> Net:
    """A network with random weights and batch-norm statistics, in eval mode."""
    # torch's own initialisation, which would be overwritten, takes most of the time.
    with torch.device("meta"):
        net = kind(*args, **options)
    net.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)

    def uniform(tensor: Tensor, low: float, high: float) -> None:
        tensor.data.uniform_(low, high, generator=generator)

    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            std = (1.5 / module.weight[0].numel()) ** 0.5
            uniform(module.weight, -(3**0.5) * std, 3**0.5 * std)
        elif isinstance(module, nn.Linear):
            uniform(module.weight, -0.1, 0.1)
        elif isinstance(module, nn.BatchNorm2d):
            uniform(module.weight, 0.4, 1.0)
            uniform(module.running_mean, -0.2, 0.2)
            uniform(module.running_var, 0.5, 1.5)
            module.num_batches_tracked.fill_(7)
        if getattr(module, "bias", None) is not None:
            uniform(module.bias, -0.15, 0.15)
    return net.eval()


# ---- monodepth2: encoder.pth, depth.pth, pose_encoder.pth, pose.pth


class ResNetEncoder(nn.Module):
    """Keys `encoder.conv1.weight` … `encoder.fc.bias`; images (B,3n,H,W)."""

    def __init__(self, depth: int, num_images: int = 1) -> None:
        super().__init__()
        self.encoder = getattr(torchvision.models, f"resnet{depth}")(weights=None)
        if num_images > 1:
            self.encoder.conv1 = nn.Conv2d(3 * num_images, 64, 7, 2, 3, bias=False)
        last = 512 if depth < 50 else 2048
        self.channels = [64, last // 8, last // 4, last // 2, last]

    def forward(self, image: Tensor) -> list[Tensor]:
        net = self.encoder
        maps = [net.bn1(net.conv1((image - 0.45) / 0.225)).relu()]
        x = net.maxpool(maps[0])
        for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
            x = layer(x)
            maps.append(x)
        return maps


class DenseNetEncoder(nn.Module):
    """DDSR2020's: keys `encoder.features.conv0.weight` … `encoder.classifier.bias`."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.encoder = getattr(torchvision.models, f"densenet{depth}")(weights=None)
        last = {121: [256, 512, 1024, 1024], 169: [256, 512, 1280, 1664]}[depth]
        self.channels = [64, *last]

    def forward(self, image: Tensor) -> list[Tensor]:
        x, maps = (image - 0.45) / 0.225, []
        for name, layer in self.encoder.features.named_children():
            x = layer(x)
            if name == "relu0" or name.startswith("denseblock"):
                maps.append(x.clone())
        return maps


class ReflectConv(nn.Module):
    """Keys `conv.*`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (1, 1, 1, 1), mode="reflect"))


class ConvBlock(nn.Module):
    """Keys `conv.conv.*`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = ReflectConv(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.elu(self.conv(x))


class DepthDecoder(nn.Module):
    """Keys `decoder.0` … `decoder.13`: upconv (4,0), (4,1), (3,0) … (0,1), dispconv 0 … 3."""

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        widths = [16, 32, 64, 128, 256]
        skips = [0, *channels[:-1]]
        above = [*widths[1:], channels[-1]]
        blocks: list[nn.Module] = []
        for i in (4, 3, 2, 1, 0):
            blocks += [ConvBlock(above[i], widths[i]), ConvBlock(widths[i] + skips[i], widths[i])]
        blocks += [ReflectConv(widths[i], 1) for i in range(4)]
        self.decoder = nn.ModuleList(blocks)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        x, disparities = maps[-1], []
        for step, i in enumerate((4, 3, 2, 1, 0)):
            x = self.decoder[2 * step](x)
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
            if i:
                x = torch.cat([x, maps[i - 1]], 1)
            x = self.decoder[2 * step + 1](x)
            if i < 4:
                disparities.insert(0, torch.sigmoid(self.decoder[10 + i](x)))
        return disparities


class PoseDecoder(nn.Module):
    """Keys `net.0` … `net.3`."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.net = nn.ModuleList(
            [
                nn.Conv2d(inputs, 256, 1),
                nn.Conv2d(256, 256, 3, 1, 1),
                nn.Conv2d(256, 256, 3, 1, 1),
                nn.Conv2d(256, 12, 1),
            ]
        )

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        squeeze, first, second, third = self.net
        x = third(second(first(squeeze(features).relu()).relu()).relu())
        motions = 0.01 * x.mean(3).mean(2).view(-1, 2, 6)
        return motions[:, 0, :3], motions[:, 0, 3:]


def save_monodepth2(folder: Path, encoder: nn.Module, decoder: nn.Module, **facts: object) -> Path:
    """encoder.pth, with the plain values `facts` among its tensors, and depth.pth."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(encoder.state_dict() | facts, folder / "encoder.pth")
    torch.save(decoder.state_dict(), folder / "depth.pth")
    return folder


# ---- FastDepth: MobileNetSkipAdd


class MobileNetSkipAdd(nn.Module):
    """Keys `conv0.0.weight` … `conv13.4.bias`, `decode_conv1.0.0.weight` … `decode_conv6.1.*`."""

    STRIDES = (2, 1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
    WIDTHS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = nn.Sequential(*conv_norm(3, 32, 3, 2), nn.ReLU6())
        for i in range(1, 14):
            inputs, outputs = self.WIDTHS[i - 1], self.WIDTHS[i]
            depthwise = conv_norm(inputs, inputs, 3, self.STRIDES[i], groups=inputs)
            block = [*depthwise, nn.ReLU6(), *conv_norm(inputs, outputs, 1), nn.ReLU6()]
            self.add_module(f"conv{i}", nn.Sequential(*block))
        for i in range(1, 6):
            inputs = 2048 >> i
            depthwise = [*conv_norm(inputs, inputs, 5, groups=inputs), nn.ReLU()]
            pointwise = [*conv_norm(inputs, inputs // 2, 1), nn.ReLU()]
            block = [nn.Sequential(*depthwise), nn.Sequential(*pointwise)]
            self.add_module(f"decode_conv{i}", nn.Sequential(*block))
        self.decode_conv6 = nn.Sequential(*conv_norm(32, 1, 1), nn.ReLU())

    def forward(self, image: Tensor) -> Tensor:
        x, skips = image, {}
        for i in range(14):
            x = self.get_submodule(f"conv{i}")(x)
            skips[i] = x
        for i in range(1, 6):
            x = self.get_submodule(f"decode_conv{i}")(x)
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
            if i in (2, 3, 4):
                x = x + skips[{2: 5, 3: 3, 4: 1}[i]]
        return self.decode_conv6(x)


def conv_norm(
    inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1
) -> Iterator[nn.Module]:
    yield nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    yield nn.BatchNorm2d(outputs)


# ---- DenseDepth, the PyTorch port


class PortEncoder(nn.Module):
    """Keys `original_model.features.conv0.weight` … `original_model.classifier.bias`."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.original_model = getattr(torchvision.models, f"densenet{depth}")(weights=None)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x, maps = image, {}
        for name, layer in self.original_model.features.named_children():
            x = layer(x)
            maps[name] = x.clone()
        return maps


class PortUp(nn.Module):
    """Keys `convA.*`, `convB.*`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convA = nn.Conv2d(inputs, outputs, 3, 1, 1)
        self.convB = nn.Conv2d(outputs, outputs, 3, 1, 1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = F.interpolate(x, size=skip.shape[2:], mode="bilinear", align_corners=True)
        return F.leaky_relu(self.convB(self.convA(torch.cat([x, skip], 1))), 0.2)


class PortDecoder(nn.Module):
    """Keys `conv2.*`, `up1.convA.*` … `up4.convB.*`, `conv3.*`."""

    def __init__(self, inputs: int, width: float) -> None:
        super().__init__()
        features = int(inputs * width)
        self.conv2 = nn.Conv2d(inputs, features, 1)
        for i, skip in enumerate((256, 128, 64, 64)):
            up = PortUp(features // 2**i + skip, features // 2 ** (i + 1))
            self.add_module(f"up{i + 1}", up)
        self.conv3 = nn.Conv2d(features // 16, 1, 3, 1, 1)

    def forward(self, maps: dict[str, Tensor]) -> Tensor:
        x = self.conv2(maps["norm5"].relu())
        for i, name in enumerate(("transition2", "transition1", "pool0", "relu0")):
            x = self.get_submodule(f"up{i + 1}")(x, maps[name])
        return self.conv3(x)


class Port(nn.Module):
    """The whole port: (B,3,H,W) in [0,1], not normalised → 10 m / depth (B,1,H/2,W/2)."""

    def __init__(self, depth: int = 169, width: float = 1.0) -> None:
        super().__init__()
        self.encoder = PortEncoder(depth)
        self.decoder = PortDecoder({121: 1024, 169: 1664, 201: 1920}[depth], width)

    def forward(self, image: Tensor) -> Tensor:
        return self.decoder(self.encoder(image))
