"""Raw data in the official layouts, as large as the real files, out of the built-in sample.

A few rendered rooms and drives are shifted, mirrored and covered with noise, so that no two frames
are equal and the encoded sizes come near the real ones: 84 kB for a room as JPEG, 0.69 MB as .h5,
0.8 MB for a street as PNG. Real streets and rooms are not needed to measure speed.
"""

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
from numpy.typing import NDArray

from mde.data.sample import DATE, SampleConfig, write_kitti, write_nyu_labeled
from mde.data.sources.nyu_labeled import MAT
from mde.files import fresh_folder

ROOMS = SampleConfig(rooms=8, frames_per_room=4)
DRIVES = SampleConfig(drives=2, frames_per_drive=12)
FRAMES_PER_SCENE = 64
KINECT_STEPS = 8 * 348.0
"""Filled depth has about 8 values for each of the Kinect's own, which are z² / 348 m apart."""
ROOM_NOISE, STREET_NOISE = 0.5, 1.5
"""Grey levels."""
MAT_CHUNK = (40, 30)
"""Columns and rows of a chunk of the .mat that spans all images."""


def make_rooms(work: Path, frames: int) -> Path:
    """FastDepth's tree `nyudepthv2/{train,val}/<scene>/<%05d>.h5`: a folder of that many frames.

    One more in 64 is in val. No number is one that FastDepth validates on.
    """
    out = work / f"nyu_h5-{frames}"
    if out.is_dir():
        return out
    base = _render(work / "rooms", functools.partial(write_nyu_labeled, config=ROOMS)) / MAT
    with fresh_folder(out) as draft:
        tasks: list[tuple[Any, ...]] = []
        for number in range(frames + frames // FRAMES_PER_SCENE):
            scene, place = divmod(number, FRAMES_PER_SCENE)
            folder = f"train/scene_{scene:04d}" if number < frames else "val/official"
            path = draft / f"nyudepthv2/{folder}/{2 * place + 2:05d}.h5"
            path.parent.mkdir(parents=True, exist_ok=True)
            tasks.append((path, base, number))
        _in_parallel(_write_h5, tasks)
    return out


def make_drives(work: Path, triplets: int) -> Path:
    """KITTI raw drives with at least that many frames that have both neighbours.

    `train_files.txt` lists exactly so many.
    """
    out = work / f"kitti-{triplets}"
    if out.is_dir():
        return out
    base = _render(work / "drives", functools.partial(write_kitti, config=DRIVES))
    with fresh_folder(out) as draft:
        (draft / DATE).mkdir()
        for text in (base / DATE).glob("calib_*.txt"):
            (draft / DATE / text.name).write_bytes(text.read_bytes())
        lines: list[str] = []
        tasks: list[tuple[Any, ...]] = []
        originals = sorted((base / DATE).glob("*_sync"))
        copy = 0
        while len(lines) < triplets:
            name = f"{DATE}_drive_{9101 + copy:04d}_sync"
            for camera in ("image_02", "image_03"):
                (draft / DATE / name / camera / "data").mkdir(parents=True)
                for image in sorted((originals[copy % 2] / camera / "data").glob("*.png")):
                    tasks.append((draft / DATE / name / camera / "data" / image.name, image, copy))
            inner = range(1, DRIVES.frames_per_drive - 1)
            lines += [f"{DATE}/{name} {frame} {side}\n" for frame in inner for side in "lr"]
            copy += 1
        (draft / "train_files.txt").write_text("".join(lines[:triplets]))
        _in_parallel(_write_street, tasks)
    return out


def make_mat(work: Path, images: int) -> Path:
    """An `nyu_depth_v2_labeled.mat` in which every chunk holds a tile of all images."""
    out = work / f"mat-{images}"
    if out.is_dir():
        return out
    base = _render(work / "rooms", functools.partial(write_nyu_labeled, config=ROOMS)) / MAT
    rooms = [vary_room(*_load_room(base, number), number) for number in range(images)]
    rgb = np.stack([image.transpose(2, 1, 0) for image, _ in rooms])
    depth = np.stack([depth.T for _, depth in rooms])
    options = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
    with fresh_folder(out) as draft, h5py.File(draft / MAT, "w") as file:
        for name, array in (("images", rgb), ("depths", depth), ("rawDepths", depth)):
            chunks = (images, 1, *MAT_CHUNK) if name == "images" else (images, *MAT_CHUNK)
            file.create_dataset(name, data=array, chunks=chunks, **options)
        codes = np.array([[ord(letter)] for letter in "room_0001"], np.uint16)
        name_of_all = file.create_dataset("#refs#/a", data=codes)
        scenes = file.create_dataset("scenes", (1, images), h5py.ref_dtype)
        scenes[0, :] = [name_of_all.ref] * images
    return out


def vary_room(
    image: NDArray[np.uint8], depth: NDArray[np.float32], number: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Another frame out of a rendered one: (H,W,3) and (H,W) m, shifted, mirrored, with noise."""
    rng = np.random.default_rng([1, number])
    shift = (int(rng.integers(-60, 61)), int(rng.integers(640)))
    image, depth = np.roll(image, shift, (0, 1)), np.roll(depth, shift, (0, 1))
    if rng.random() < 0.5:
        image, depth = image[:, ::-1], depth[:, ::-1]
    steps = np.maximum(1, np.round(KINECT_STEPS / depth))
    return _add_noise(image, ROOM_NOISE, rng), (KINECT_STEPS / steps).astype(np.float32)


def _render(folder: Path, write: Callable[[Path], None]) -> Path:
    if not folder.is_dir():
        with fresh_folder(folder) as draft:
            write(draft)
    return folder


def _load_room(base: Path, number: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    with h5py.File(base) as file:
        index = number % len(file["images"])
        return file["images"][index].transpose(2, 1, 0), file["depths"][index].T


def _write_h5(path: Path, base: Path, number: int) -> None:
    image, depth = vary_room(*_load_room(base, number), number)
    with h5py.File(path, "w") as file:
        file.create_dataset("rgb", data=image.transpose(2, 0, 1), compression="gzip")
        file.create_dataset("depth", data=depth, compression="gzip")


def _write_street(path: Path, original: Path, copy: int) -> None:
    # The same shift for a whole drive keeps its motion.
    rng = np.random.default_rng([2, copy, int(original.stem)])
    image: Any = cv2.imread(str(original))
    noisy = _add_noise(np.roll(image, 97 * copy, 1), STREET_NOISE, rng)
    cv2.imwrite(str(path), noisy, [cv2.IMWRITE_PNG_COMPRESSION, 3])


@functools.cache
def _noise_field(sigma: float) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(0, sigma, (1024, 2048, 3)).astype(np.float32)


def _add_noise(
    image: NDArray[np.uint8], sigma: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    field = _noise_field(sigma)
    y, x = rng.integers(1024 - height), rng.integers(2048 - width)
    return (image + field[y : y + height, x : x + width]).round().clip(0, 255).astype(np.uint8)


def _in_parallel(function: Callable[..., None], tasks: Sequence[tuple[Any, ...]]) -> None:
    context = get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), context, cv2.setNumThreads, (1,)) as pool:
        for _ in pool.map(function, *zip(*tasks, strict=True), chunksize=8):
            pass
