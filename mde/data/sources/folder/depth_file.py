"""Depth files of any origin → metres: 16-bit PNG, OpenEXR, NumPy. Nothing in them is executed."""

import io
from pathlib import PurePosixPath

import numpy as np
import OpenEXR
from numpy.lib import format as npy
from numpy.typing import NDArray

from mde.data.codecs import MAX_PIXELS, CodecError
from mde.data.raw.files import RawFiles

DEPTH_SUFFIXES = (".png", ".exr", ".npy")
NOT_DEPTH = "not a depth image"


def read_depth(files: RawFiles, name: str, png_scale: float) -> NDArray[np.float32]:
    """Depth (H,W) float32 in m, as it is in the file: NaN, infinite and negative values too.

    png_scale: metres per unit of a 16-bit PNG; EXR and NPY hold metres.
    Raises CodecError that names the file.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if suffix == ".png":
        codes = files.depth_codes(name)
        if codes.dtype != np.uint16:
            detail = f"{name}: 8 bits are too few for depth; a PNG of 16 bits is expected"
            raise CodecError(detail, NOT_DEPTH)
        return codes.astype(np.float32) * np.float32(png_scale)
    data = files.read(name)
    try:
        depth = decode_npy(data) if suffix == ".npy" else decode_exr(data)
    except CodecError as error:
        raise error.about(name) from error
    with np.errstate(over="ignore"):
        return depth.astype(np.float32)


def decode_npy(data: bytes) -> NDArray[np.floating]:
    """Bytes of a .npy file → (H,W) float16, 32 or 64; the header is checked before the data.

    Raises CodecError when it is damaged or something else than one such array, (H,W) or (H,W,1).
    """
    file = io.BytesIO(data)
    try:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(file)
    # A damaged header is parsed as Python text, with whatever errors that has.
    except Exception as error:
        raise CodecError(f"not a readable .npy file ({len(data)} bytes): {error}") from error
    if dtype.kind != "f" or dtype.itemsize > 8:
        detail = f"an array of {dtype}; metres as float16, float32 or float64 are expected"
        raise CodecError(detail, NOT_DEPTH)
    if not (len(shape) == 2 or (len(shape) == 3 and shape[2] == 1)):
        raise CodecError(f"an array of shape {shape}; (height, width) is expected", NOT_DEPTH)
    _check_size(*shape[:2])
    expected, found = shape[0] * shape[1] * dtype.itemsize, len(data) - file.tell()
    if found != expected:
        raise CodecError(f"{found} bytes of data, {expected} are expected: truncated or damaged")
    array = np.frombuffer(data, dtype, offset=file.tell())
    return array.reshape(shape[:2], order="F" if fortran else "C")


def decode_exr(data: bytes) -> NDArray[np.floating]:
    """Bytes of an OpenEXR file → (H,W) float16 or 32: its only channel, or the one named Z.

    Raises CodecError when it is damaged, or has other channels only, several parts or a crop.
    """
    try:
        with _open_exr(data, header_only=True) as header:
            low, high = (np.array(corner, np.int64) for corner in header.header()["dataWindow"])
            shown = header.header()["displayWindow"]
        if not np.array_equal([low, high], shown):
            detail = f"data window {low}..{high}, display window {shown}: a crop of the image"
            raise CodecError(detail, NOT_DEPTH)
        width, height = (int(n) for n in high - low + 1)
        _check_size(height, width)
        with _open_exr(data, header_only=False) as file:
            parts = len(file.parts)
            channels = {name: channel.pixels for name, channel in file.channels().items()}
    except CodecError:
        raise
    # The binding raises what it happens to meet: RuntimeError, ValueError, UnicodeDecodeError.
    except Exception as error:
        raise CodecError(f"not a readable EXR file ({len(data)} bytes): {error}") from error
    names = list(channels)
    if len(names) > 1:
        names = [name for name in names if name.split(".")[-1] == "Z"]
    if len(names) != 1 or parts != 1 or channels[names[0]].dtype.kind != "f":
        detail = (
            f"{parts} parts with the channels {', '.join(sorted(channels))}; one part with one "
            "channel, or one named Z, of half or float values is expected"
        )
        raise CodecError(detail, NOT_DEPTH)
    depth: NDArray[np.floating] = channels[names[0]]
    if depth.shape != (height, width):
        raise CodecError(f"{depth.shape} px, its header says {(height, width)}")
    return depth


def _open_exr(data: bytes, header_only: bool) -> OpenEXR.File:
    return OpenEXR.File(
        io.BytesIO(data), separate_channels=True, header_only=header_only, num_threads=0
    )


def _check_size(height: int, width: int) -> None:
    if not (height > 0 and width > 0 and height * width <= MAX_PIXELS):
        detail = f"{width}x{height} px; 1 to {MAX_PIXELS} px are allowed"
        raise CodecError(detail, "too large an image" if height * width > 0 else NOT_DEPTH)
