"""What the published training codes do to read their samples, as PyTorch datasets.

Written anew from the formulas on current libraries, whose faster paths they get for free.
"""

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import scipy.ndimage
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import ColorJitter
from torchvision.transforms import functional as F

from mde.data.augment import Augment

FASTDEPTH_HEIGHT, FASTDEPTH_CROP, FASTDEPTH_SIZE = 250, (228, 304), (224, 224)
"""First resize, centre crop and size of a sample (H, W), px."""
ZOOM, ANGLE, JITTER = 1.5, 5.0, 0.4
NEAREST = Image.Resampling.NEAREST

FASTDEPTH = Augment(
    height=224, width=224, crop=0.912, zoom=1.5, rotate=5.0, flip=0.5,
    color=1.0, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.0,
)  # fmt: skip
"""The recipe of `FastDepthFiles` as we have it."""
MONODEPTH2 = Augment()
"""The recipe of `Monodepth2Files`: our defaults."""


class FastDepthFiles(Dataset[dict[str, Tensor]]):
    """FastDepth's recipe over its own .h5 files.

    Read and gunzip; resize to 250 high, turn by ±5°, enlarge by 1 to 1.5 (depth is divided by
    it), crop 228x304, mirror, resize to 224x224, all by the nearest pixel; jitter brightness,
    contrast and saturation by 0.4. image (3,224,224) float32 in [0,1], depth (1,224,224) m.
    still: the validation transform, without chance.
    """

    def __init__(self, files: list[Path], still: bool = False) -> None:
        self.files, self.still = files, still
        self.jitter = ColorJitter(JITTER, JITTER, JITTER)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        with h5py.File(self.files[index], "r") as file:
            rgb = np.ascontiguousarray(file["rgb"][()].transpose(1, 2, 0))
            depth = file["depth"][()]
        zoom, angle, mirror = 1.0, 0.0, False
        if not self.still:
            zoom, angle = np.random.uniform(1, ZOOM), np.random.uniform(-ANGLE, ANGLE)
            mirror = np.random.random() < 0.5
        image = Image.fromarray(self._place(rgb, zoom, angle, mirror))
        if not self.still:
            image = self.jitter(image)
        placed = self._place(depth / np.float32(zoom), zoom, angle, mirror)
        return {
            "image": torch.from_numpy(np.asarray(image, np.float32).transpose(2, 0, 1) / 255),
            "depth": torch.from_numpy(placed).unsqueeze(0),
        }

    @staticmethod
    def _place(array: NDArray, zoom: float, angle: float, mirror: bool) -> NDArray:
        array = _resize(array, FASTDEPTH_HEIGHT / array.shape[0])
        if angle:
            array = scipy.ndimage.rotate(array, angle, reshape=False, order=0, prefilter=False)
        array = _resize(array, zoom)
        (height, width), (rows, columns) = FASTDEPTH_CROP, array.shape[:2]
        top, left = round((rows - height) / 2), round((columns - width) / 2)
        array = array[top : top + height, left : left + width]
        array = array[:, ::-1] if mirror else array
        size = FASTDEPTH_SIZE[::-1]
        return np.array(Image.fromarray(np.ascontiguousarray(array)).resize(size, NEAREST))


def _resize(array: NDArray, factor: float) -> NDArray:
    if factor == 1:
        return array
    size = int(array.shape[1] * factor), int(array.shape[0] * factor)
    return np.asarray(Image.fromarray(array).resize(size, NEAREST))


class Monodepth2Files(Dataset[dict[str, Tensor]]):
    """Monodepth2's recipe over KITTI's raw PNG files: a frame with both its neighbours.

    Open, mirror (half of them), resize with Lanczos, jitter (half of them, all three frames
    alike), and give every frame twice, as it is for the loss and jittered for the networks: (3,H,W)
    float32. Left out, all of which would make it slower: the three smaller scales, and the LiDAR
    points that are read for logging alone. still: without chance.
    """

    ROLES = ("image_prev", "image", "image_next")

    def __init__(self, triplets: list[tuple[Path, Path, Path]], size: tuple[int, int],
                 still: bool = False) -> None:  # fmt: skip
        self.triplets, self.size, self.still = triplets, size, still

    def __len__(self) -> int:
        return len(self.triplets)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        jitters, mirror = (not self.still and np.random.random() < 0.5 for _ in range(2))
        spread = (0.8, 1.2)
        draw = ColorJitter.get_params(list(spread), list(spread), list(spread), [-0.1, 0.1])
        sample = {}
        for role, path in zip(self.ROLES, self.triplets[index], strict=True):
            with Image.open(path) as file:
                image = file.convert("RGB")
            if mirror:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            image = image.resize(self.size[::-1], Image.Resampling.LANCZOS)
            jittered = _jitter(image, *draw) if jitters else image
            sample[role] = F.to_tensor(image)
            sample[f"{role}_jittered"] = F.to_tensor(jittered)
        return sample


def _jitter(image: Image.Image, order: Tensor, brightness: float | None, contrast: float | None,
            saturation: float | None, hue: float | None) -> Image.Image:  # fmt: skip
    adjust = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    factors = (brightness, contrast, saturation, hue)
    for number in order.tolist():
        image = adjust[number](image, factors[number])
    return image


def list_h5(raw: Path) -> list[Path]:
    """The training files of `nyudepthv2`."""
    return sorted(raw.glob("nyudepthv2/train/*/*.h5"))


def list_triplets(raw: Path) -> list[tuple[Path, Path, Path]]:
    """The image files of each line of `train_files.txt`."""
    triplets = []
    for line in (raw / "train_files.txt").read_text().splitlines():
        scene, frame, side = line.split()
        folder = raw / scene / {"l": "image_02", "r": "image_03"}[side] / "data"
        before, here, after = (folder / f"{int(frame) + i:010d}.png" for i in (-1, 0, 1))
        triplets.append((before, here, after))
    return triplets


def epochs_of(dataset: Dataset[dict[str, Tensor]], batch_size: int, workers: int, epochs: int
              ) -> Iterator[Iterator[int]]:  # fmt: skip
    """Shuffled epochs of a DataLoader whose workers live on: the sizes of the batches."""
    # Linux's own way; a spawned process, as benchmarks run in, would spawn its workers too.
    loader = DataLoader(dataset, batch_size, shuffle=True, num_workers=workers,
                        persistent_workers=True, multiprocessing_context="fork")  # fmt: skip
    for _ in range(epochs):
        yield (len(batch["image"]) for batch in loader)
