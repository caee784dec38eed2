"""Image and depth bytes ↔ arrays, with the precision stated.

Images: JPEG, quality 95, 4:2:0 (about 42 dB). Depth: uint16 codes in lz4; the error is at most
half a code (0.5 mm for NYUv2, 1/512 m for KITTI). Range is checked, never wrapped.
"""

from pathlib import Path

import cv2
import lz4.block
import numpy as np
from numpy.typing import NDArray

JPEG_QUALITY = 95
MAX_PIXELS = 64 * 2**20
"""Larger images are refused before they are decoded: a header of some bytes can ask for 10 GB."""


class CodecError(ValueError):
    """Bytes that are not what they should be; the caller adds which sample it was."""


def encode_image(image: NDArray[np.uint8]) -> bytes:
    """RGB (H,W,3) uint8 → JPEG."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    ok, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not ok:
        raise CodecError(f"could not encode an image of shape {image.shape}")
    return data.tobytes()


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """JPEG or PNG bytes → RGB (H,W,3) uint8. Raises CodecError when they cannot be decoded."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        raise CodecError(f"not a readable image ({len(data)} bytes): {error.err}") from error
    if image is None:
        raise CodecError(f"not a readable image ({len(data)} bytes)")
    return image  # type: ignore[return-value]


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an RGB image file (H,W,3) uint8.

    Raises CodecError when it is missing, damaged, or larger than MAX_PIXELS by its header.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CodecError(f"{path}: {error.strerror}") from error
    if data[:4] == b"\x89PNG":
        if data[-12:-4] != b"\0\0\0\0IEND":
            raise CodecError(f"{path}: truncated PNG ({len(data)} bytes, no end mark)")
        width, height = np.frombuffer(data[16:24], ">u4").astype(np.int64)
        if width * height > MAX_PIXELS:
            raise CodecError(f"{path}: {width}x{height} px is more than {MAX_PIXELS} px")
    try:
        return decode_image(data)
    except CodecError as error:
        raise CodecError(f"{path}: {error}") from error


def encode_depth(depth: NDArray[np.floating], scale: float) -> bytes:
    """Depth (H,W) in m → uint16 codes of `scale` m in lz4; NaN, inf and values <= 0 become 0.

    Raises CodecError when a value is beyond the range of the codes.
    """
    codes = np.where(np.isfinite(depth) & (depth > 0), depth, 0) / scale
    if codes.max(initial=0) > np.iinfo(np.uint16).max:
        raise CodecError(
            f"depth {codes.max() * scale:.1f} m is beyond {65535 * scale:.1f} m, the range of "
            f"codes of {scale:g} m"
        )
    return lz4.block.compress(np.rint(codes).astype("<u2").tobytes(), store_size=True)


def decode_depth(data: bytes, height: int, width: int, scale: float) -> NDArray[np.float32]:
    """Codes → depth (height, width) float32 in m; 0 = invalid. Raises CodecError on damage."""
    try:
        codes = np.frombuffer(lz4.block.decompress(data), "<u2").reshape(height, width)
    except (lz4.block.LZ4BlockError, ValueError) as error:
        raise CodecError(f"damaged depth ({len(data)} bytes): {error}") from error
    return codes.astype(np.float32) * np.float32(scale)


def resize_image(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """RGB (H,W,3) → `size` (H, W), anti-aliased (area) when it shrinks."""
    if image.shape[:2] == size:
        return image
    shrinks = size[0] < image.shape[0]
    mode = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, size[::-1], interpolation=mode)  # type: ignore[return-value]


def resize_depth(depth: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Depth (H,W) → `size`, nearest: depths of two surfaces are never mixed."""
    if depth.shape == size:
        return depth
    return cv2.resize(depth, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)  # type: ignore[return-value]
