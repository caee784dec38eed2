"""Codecs: their precision, and damaged bytes that never pass for an image or a depth map."""

import random
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from mde.data import codecs
from mde.data.codecs import (
    LOSSLESS,
    CodecError,
    decode_depth,
    decode_image,
    decode_raw_depth,
    encode_depth,
    encode_image,
)
from mde.data.raw.files import Folder

both_scales = pytest.mark.parametrize("scale", [1e-3, 1 / 256])


def smooth_image(height: int = 96, width: int = 128) -> np.ndarray:
    v, u = np.mgrid[:height, :width]
    waves = [np.sin(u / 9 + c) * np.cos(v / 7 - c) for c in range(3)]
    return (127.5 + 100 * np.stack(waves, -1)).round().astype(np.uint8)


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


def with_flipped_bit(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 8]) + data[middle + 1 :]


# --- Depth codec ------------------------------------------------------------------------------


@both_scales
def test_depth_comes_back_within_half_a_code(scale: float):
    depth = np.random.default_rng(0).uniform(scale, 65535 * scale, (40, 60))
    decoded = decode_depth(encode_depth(depth, scale), 40, 60, scale)
    # Half a code, and the rounding of float32.
    assert np.abs(decoded - depth).max() <= 0.5 * scale + 65535 * scale * 2.0**-24


@both_scales
def test_whole_codes_come_back_as_they_were(scale: float):
    codes = np.arange(65536).reshape(256, 256)
    decoded = decode_depth(encode_depth(codes * scale, scale), 256, 256, scale)
    np.testing.assert_array_equal(np.rint(decoded / scale), codes)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -1.0, 0.0, -1e30])
def test_what_is_no_depth_becomes_invalid(bad: float):
    decoded = decode_depth(encode_depth(np.array([[bad, 2.0]]), 1e-3), 1, 2, 1e-3)
    np.testing.assert_allclose(decoded, [[0, 2]])


@both_scales
@pytest.mark.parametrize("codes", [65536, 70000, 131072 + 5])
def test_depth_beyond_the_codes_is_an_error_and_never_wraps(scale: float, codes: int):
    with pytest.raises(CodecError, match="beyond"):
        encode_depth(np.array([[1.0, codes * scale]]), scale)


def test_lossless_depth_comes_back_to_the_bit():
    depth = np.random.default_rng(0).uniform(1e-3, 500, (40, 60)).astype(np.float32)
    np.testing.assert_array_equal(decode_depth(encode_depth(depth, LOSSLESS), 40, 60, 0), depth)
    holes = np.array([[np.nan, -1, np.inf, 2]], np.float32)
    np.testing.assert_array_equal(
        decode_depth(encode_depth(holes, LOSSLESS), 1, 4, 0), [[0, 0, 0, 2]]
    )


def test_shrinking_sparse_depth_keeps_every_pixel_that_was_hit_and_its_nearest_point():
    depth = np.zeros((8, 12), np.float32)
    depth[1, 1], depth[0, 0], depth[7, 11] = 5, 9, 3
    small = codecs.shrink_sparse_depth(depth, (4, 6))
    expected = np.zeros((4, 6), np.float32)
    expected[0, 0], expected[3, 5] = 5, 3
    np.testing.assert_array_equal(small, expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_depth_png_keeps_its_codes(dtype: type):
    codes = (np.arange(96 * 128).reshape(96, 128) % np.iinfo(dtype).max).astype(dtype)
    decoded = decode_raw_depth(cv2.imencode(".png", codes)[1].tobytes())
    assert decoded.dtype == dtype
    np.testing.assert_array_equal(decoded, codes)


def test_a_colour_image_is_not_a_depth_image():
    with pytest.raises(CodecError, match=r"\(96, 128, 3\), uint8; one channel of 8 or 16 bits"):
        decode_raw_depth(png(smooth_image()))


def test_damaged_depth_is_an_error():
    data = encode_depth(np.ones((8, 8)), 1e-3)
    for damaged in (b"", data[:3], data[:-2], b"\xff" * len(data)):
        with pytest.raises(CodecError, match="damaged depth"):
            decode_depth(damaged, 8, 8, 1e-3)
    with pytest.raises(CodecError, match="damaged depth"):
        decode_depth(data, 8, 9, 1e-3)


def test_resized_depth_has_no_depth_that_was_not_there():
    depth = np.where(np.arange(64).reshape(8, 8) % 3, 2.0, 9.0).astype(np.float32)
    assert set(np.unique(codecs.resize_depth(depth, (5, 6)))) == {2.0, 9.0}


# --- Image codec ------------------------------------------------------------------------------


def test_images_come_back_above_38_db_with_red_still_red():
    image = smooth_image()
    decoded = decode_image(encode_image(image))
    error = np.mean((decoded.astype(float) - image) ** 2)
    assert 10 * np.log10(255**2 / error) > 38
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 250
    assert decode_image(encode_image(red))[4, 4, 0] > 200


def test_lossless_images_come_back_exactly():
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    np.testing.assert_array_equal(decode_image(encode_image(image, lossless=True)), image)


def test_png_comes_back_exactly():
    np.testing.assert_array_equal(decode_image(png(smooth_image())), smooth_image())


def test_shrinking_averages_and_does_not_drop_pixels():
    stripes = np.zeros((8, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    np.testing.assert_array_equal(codecs.resize_image(stripes, (4, 32)), 100)


DAMAGED = {
    "an empty file": lambda image: b"",
    "random bytes": lambda image: random.Random(0).randbytes(500),
    "a text file": lambda image: b"404 not found\n",
    "half a PNG": lambda image: png(image)[: len(png(image)) // 2],
    "a PNG without its last byte": lambda image: png(image)[:-1],
    "a PNG cut in its header": lambda image: png(image)[:20],
    "half a JPEG": lambda image: encode_image(image)[: len(encode_image(image)) // 2],
    "a JPEG without its last 40 bytes": lambda image: encode_image(image)[:-40],
    "a PNG with a flipped bit": lambda image: with_flipped_bit(png(image)),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_image_file_is_an_error_that_names_it(damage: str, tmp_path: Path):
    path = tmp_path / "frame.png"
    path.write_bytes(DAMAGED[damage](smooth_image()))
    with pytest.raises(CodecError, match=r"frame\.png"):
        Folder(tmp_path).image(path.name)


@pytest.mark.parametrize("damage", ["an empty file", "random bytes", "half a JPEG"])
def test_damaged_image_bytes_are_an_error(damage: str):
    with pytest.raises(CodecError):
        decode_image(DAMAGED[damage](smooth_image()))


def test_a_missing_image_file_is_an_error_that_names_it(tmp_path: Path):
    with pytest.raises(CodecError, match=r"gone\.png: No such file"):
        Folder(tmp_path).image("gone.png")


@pytest.mark.parametrize("side", [9000, 60000])
def test_a_header_that_asks_for_gigabytes_is_refused_before_decoding(side: int, tmp_path: Path):
    header = bytearray(png(smooth_image()))
    header[16:24] = np.array([side, side], ">u4").tobytes()
    header[29:33] = np.array([zlib.crc32(header[12:29])], ">u4").tobytes()
    (tmp_path / "bomb.png").write_bytes(header)
    with pytest.raises(CodecError, match=r"bomb\.png: .*(px is more than|exceeds limit)") as error:
        Folder(tmp_path).image("bomb.png")
    assert error.value.reason == "too large an image"
