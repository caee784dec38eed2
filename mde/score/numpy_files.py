"""Stacks of maps in NumPy's own files, read without running what is pickled in them."""

import pickle
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from mde.errors import InputError

Stack = Sequence[NDArray[Any]]
"""Maps (H,W), not all of one size, perhaps."""

USUAL_KEYS = ("data", "arr_0")
DAMAGE = (EOFError, OSError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error)


def read_stack(path: Path, key: str | None = None) -> Stack:
    """The maps of a `.npy` or `.npz` file: (N,H,W), (N,1,H,W), one (H,W), or an array of maps.

    key: of the array in a `.npz`; else `data`, `arr_0` or its only one. A `.npy` of numbers is not
    read before its maps are asked for. Arrays of maps of different sizes, which NumPy pickles, are
    read if there are arrays in them and nothing else.
    Raises InputError when the file is damaged, its array is not maps, or it has no such key.
    """
    try:
        content = _read_npz(path, key) if path.suffix == ".npz" else _read_npy(path, key)
    except DAMAGE as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a readable {path.suffix} file: {error}") from error
    return _split(path, content)


def _read_npy(path: Path, key: str | None) -> NDArray[Any]:
    if key is not None:
        raise InputError(f"{path}: a .npy file has no keys, found '{key}'; leave the key out")
    with path.open("rb") as file:
        if _read_header(file).hasobject:
            return _unpickle(path, file)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _read_npz(path: Path, key: str | None) -> NDArray[Any]:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        keys = [name.removesuffix(".npy") for name in names if name.endswith(".npy")]
        usual = [name for name in USUAL_KEYS if name in keys] or (keys if len(keys) == 1 else [])
        wanted = usual[0] if key is None and usual else key
        if wanted not in keys:
            found = f"no array '{key}'" if key else "no array is called data or arr_0"
            raise InputError(f"{path}: {found}; name one with --key: {', '.join(keys)}")
        with archive.open(f"{wanted}.npy") as file:
            if _read_header(file).hasobject:
                return _unpickle(path, file)
    with np.load(path, allow_pickle=False) as arrays:
        array: NDArray[Any] = arrays[wanted]
    return array


def _read_header(file: IO[bytes]) -> np.dtype:
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    dtype: np.dtype = read(file)[2]
    return dtype


def _unpickle(path: Path, file: IO[bytes]) -> NDArray[Any]:
    try:
        content = _ArraysOnly(file).load()
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:
        # A pickle that is damaged, or made to do harm, ends in whatever it likes.
        raise InputError(f"{path}: its pickled array cannot be read: {error!r}") from error
    if not isinstance(content, np.ndarray):
        raise InputError(f"{path}: a pickled {type(content).__name__}, expected an array of maps")
    return content


def _encode(text: str, encoding: str) -> bytes:
    # How old pickles hold bytes; other codecs are none of their business.
    if encoding not in ("latin1", "latin-1"):
        raise InputError(f"bytes pickled as '{encoding}', expected latin1")
    return text.encode("latin1")


class _ArraysOnly(pickle.Unpickler):
    """Knows what arrays are made of and no other name, so that nothing can be called."""

    def find_class(self, module: str, name: str) -> Any:
        found = f"{module}.{name}"
        if found in ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"):
            return np.ndarray.__reduce__(np.empty(0))[0]
        if found in ("numpy.ndarray", "numpy.dtype"):
            return getattr(np, name)
        if found == "_codecs.encode":
            return _encode
        raise InputError(
            f"its pickle holds '{found}', which is no array, and is not loaded; save the maps "
            "themselves with np.save or np.savez"
        )


def _split(path: Path, array: NDArray[Any]) -> Stack:
    if array.dtype == object and array.ndim == 1:
        maps: Stack = [_single(path, _as_numbers(path, item)) for item in array]
    else:
        array = _as_numbers(path, array)
        whole = array[None] if array.ndim == 2 else array
        whole = whole[:, 0] if whole.ndim == 4 and whole.shape[1] == 1 else whole
        if whole.ndim != 3:
            raise InputError(_wrong_shape(path, array.shape))
        maps = list(whole)
    if not len(maps):
        raise InputError(f"{path}: no maps in it")
    return maps


def _single(path: Path, item: NDArray[Any]) -> NDArray[Any]:
    item = item[0] if item.ndim == 3 and item.shape[0] == 1 else item
    if item.ndim != 2:
        raise InputError(_wrong_shape(path, item.shape))
    return item


def _as_numbers(path: Path, item: Any) -> NDArray[Any]:
    try:
        # Maps of one size in an array of objects have become an array of Python's numbers.
        array = item.astype(np.float64) if item.dtype == object else item
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{path}: an array of something else than maps: {error}") from error
    if array.dtype.kind not in "fiu":
        raise InputError(f"{path}: maps of type {array.dtype}, expected numbers")
    return array


def _wrong_shape(path: Path, shape: tuple[int, ...]) -> str:
    return (
        f"{path}: an array of shape {shape}; expected maps (N,H,W) or (N,1,H,W), one map (H,W), or "
        "an array of maps"
    )
