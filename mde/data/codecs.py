"""Image and depth bytes ↔ arrays, with the precision stated.

Images are stored as JPEG, quality 92, 4:4:4, or lossless as WebP. Depth is stored as
uint16 codes in lz4, with an error of at most half a code (0.5 mm for NYUv2, 1/512 m for KITTI), or
lossless as float32 in lz4. Range is checked, never wrapped.
"""

import io

import cv2
import lz4.block
import numpy as np
import PIL.ExifTags
import PIL.Image
from numpy.typing import NDArray

JPEG_QUALITY = 92
JPEG = [
    *(cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY),
    # With half the chroma (4:2:0) real KITTI frames at 192x640 keep 33 dB even at quality 95, with
    # all of it 36: as much as the published recipe, which resizes JPEGs of quality 92, 4:2:0.
    *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
]
LOSSLESS = 0.0
"""In place of a depth scale: the depth is stored as float32."""
RAW_FORMATS = ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM"]
EXIF_TURNS = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
"""EXIF orientation → what makes the image upright."""
MAX_PIXELS = 64 * 2**20
"""Larger images are refused before they are decoded: a header of some bytes can ask for 10 GB."""


class CodecError(ValueError):
    """Bytes that are not what they should be; the caller adds which file or sample it was.

    reason: a few words to count by.
    """

    def __init__(self, detail: str, reason: str = "unreadable file") -> None:
        super().__init__(detail)
        self.reason = reason

    def about(self, name: str) -> "CodecError":
        """The same, with the name of the file in front."""
        return CodecError(f"{name}: {self}", self.reason)


def encode_image(image: NDArray[np.uint8], lossless: bool = False) -> bytes:
    """RGB (H,W,3) uint8 → JPEG, or WebP when lossless."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    name, options = ".jpg", JPEG
    if lossless:
        # A quality above 100 means lossless.
        name, options = ".webp", [cv2.IMWRITE_WEBP_QUALITY, 101]
    ok, data = cv2.imencode(name, bgr, options)
    if not ok:
        raise CodecError(f"could not encode an image of shape {image.shape}")
    return data.tobytes()


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """Stored bytes → RGB (H,W,3) uint8. Raises CodecError when they cannot be decoded."""
    return _decode(data, cv2.IMREAD_COLOR_RGB)


def decode_raw_image(data: bytes) -> NDArray[np.uint8]:
    """Bytes of an image file of any origin → RGB (H,W,3) uint8, upright by its EXIF orientation.

    Raises CodecError when they are truncated, damaged, or larger than MAX_PIXELS by their header.
    """
    if _check_header(data) != "JPEG":
        return decode_image(data)
    # OpenCV fills the missing part of a truncated JPEG with grey; Pillow refuses it.
    try:
        with PIL.Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            # Phones store a portrait picture as a landscape one and the turn beside it.
            turn = EXIF_TURNS.get(image.getexif().get(PIL.ExifTags.Base.Orientation, 1))
            upright = image if turn is None else image.transpose(turn)
            return np.asarray(upright.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise CodecError(f"damaged JPEG ({len(data)} bytes): {error}") from error


def decode_raw_depth(data: bytes) -> NDArray[np.integer]:
    """Bytes of a depth PNG of any origin → (H,W) uint8 or uint16 codes, as they are.

    Raises CodecError when they are damaged or not a single channel.
    """
    _check_header(data)
    codes = _decode(data, cv2.IMREAD_UNCHANGED)
    if codes.ndim != 2 or codes.dtype not in (np.uint8, np.uint16):
        raise CodecError(
            f"a depth image of shape {codes.shape}, {codes.dtype}; one channel of 8 or 16 bits "
            "is expected",
            "not a depth image",
        )
    return codes


def _check_header(data: bytes) -> str:
    try:
        with PIL.Image.open(io.BytesIO(data), formats=RAW_FORMATS) as image:
            kind, (width, height) = image.format or "", image.size
    except PIL.Image.DecompressionBombError as error:
        raise CodecError(f"refused: {error}", "too large an image") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise CodecError(f"not a readable image ({len(data)} bytes)") from error
    if width * height > MAX_PIXELS:
        raise CodecError(f"{width}x{height} px is more than {MAX_PIXELS} px", "too large an image")
    if kind == "PNG" and data[-12:-4] != b"\0\0\0\0IEND":
        raise CodecError(f"truncated PNG ({len(data)} bytes, no end mark)")
    return kind


def _decode(data: bytes, mode: int) -> NDArray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), mode)
    except cv2.error as error:
        raise CodecError(f"not a readable image ({len(data)} bytes): {error.err}") from error
    if image is None:
        raise CodecError(f"not a readable image ({len(data)} bytes)")
    return image


def encode_depth(depth: NDArray[np.floating], scale: float) -> bytes:
    """Depth (H,W) in m → codes of `scale` m, or float32 for LOSSLESS; NaN, inf and <= 0 become 0.

    Raises CodecError when a value is beyond the range of the codes.
    """
    clean = np.where(np.isfinite(depth) & (depth > 0), depth, 0)
    if scale == LOSSLESS:
        return lz4.block.compress(clean.astype("<f4").tobytes(), store_size=True)
    codes = clean / scale
    if codes.max(initial=0) > np.iinfo(np.uint16).max:
        raise CodecError(
            f"depth {codes.max() * scale:.1f} m is beyond {65535 * scale:.1f} m, the range of "
            f"codes of {scale:g} m",
            "depth out of range",
        )
    return lz4.block.compress(np.rint(codes).astype("<u2").tobytes(), store_size=True)


def decode_depth(data: bytes, height: int, width: int, scale: float) -> NDArray[np.float32]:
    """Codes → depth (height, width) float32 in m; 0 = invalid. Raises CodecError on damage."""
    try:
        codes = np.frombuffer(lz4.block.decompress(data), "<u2" if scale else "<f4")
        codes = codes.reshape(height, width)
    except (lz4.block.LZ4BlockError, ValueError) as error:
        raise CodecError(f"damaged depth ({len(data)} bytes): {error}") from error
    return codes.astype(np.float32) * np.float32(scale) if scale else codes.astype(np.float32)


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


def shrink_sparse_depth(depth: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Sparse depth (H,W) → `size`: every point moves to its new pixel, and the nearest one stays.

    Nearest-pixel resizing would lose most points.
    """
    if depth.shape == size:
        return depth
    v, u = np.nonzero(depth > 0)
    points = depth[v, u]
    order = np.argsort(-points, kind="stable")
    small = np.zeros(size, np.float32)
    rows, columns = v[order] * size[0] // depth.shape[0], u[order] * size[1] // depth.shape[1]
    small[rows, columns] = points[order]
    return small
