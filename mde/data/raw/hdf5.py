"""HDF5 from others: datasets are looked at before they are followed, allocated or decompressed."""

import io
import math
from pathlib import Path

import h5py

from mde.data.codecs import CodecError

FILTERS = {
    h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE,
    h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF,
}  # fmt: skip
"""Any other filter is code that HDF5 would load from the machine's plugin folder."""
SPARE_BYTES = 2**20
MAX_RATIO = 4
"""A chunk may be this many times as large as its dataset; HDF5 allocates it whole."""
HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError)
"""What h5py raises on damaged files."""


def open_hdf5(source: Path | bytes) -> h5py.File:
    """Open a file, or its bytes, to read. Raises CodecError when it is not a whole HDF5 file."""
    try:
        return h5py.File(io.BytesIO(source) if isinstance(source, bytes) else source, "r")
    except HDF5_ERRORS as error:
        raise CodecError(f"not a whole HDF5 file: {error}", "not an HDF5 file") from error


def get_dataset(file: h5py.File, key: str) -> h5py.Dataset:
    """The dataset `key` of a file, after `check_dataset`; reads none of its values.

    Raises CodecError when it is not there, lies in another file, or is behind a link.
    """
    group: h5py.Group = file
    *folders, name = key.strip("/").split("/")
    try:
        for folder in folders:
            group = _get(group, folder, key)
            if not isinstance(group, h5py.Group):
                raise CodecError(f"'{folder}' in '{key}' is not a group", "wrong HDF5 content")
        dataset = _get(group, name, key)
        if not isinstance(dataset, h5py.Dataset):
            raise CodecError(f"'{key}' is a {type(dataset).__name__.lower()}, not a dataset",
                             "wrong HDF5 content")  # fmt: skip
        check_dataset(dataset)
    except CodecError:
        raise
    except HDF5_ERRORS as error:
        raise CodecError(f"'{key}' cannot be read: {error}", "damaged HDF5") from error
    return dataset


def _get(group: h5py.Group, name: str, key: str) -> h5py.Group | h5py.Dataset:
    link = group.get(name, getlink=True)
    if link is None:
        found = ", ".join(sorted(group)[:10]) or "nothing"
        raise CodecError(f"no dataset '{key}'; found: {found}", f"no dataset '{key}'")
    # To follow any other link may open another file.
    if not isinstance(link, h5py.HardLink):
        raise CodecError(f"'{key}' is behind a link ({type(link).__name__}); refused",
                         "HDF5 link")  # fmt: skip
    return group[name]


def check_dataset(dataset: h5py.Dataset) -> None:
    """Raises CodecError when values of a dataset lie elsewhere or would cost too much to read.

    Refused: external and virtual storage, filters that are not HDF5's own, a chunk or stored data
    MAX_RATIO times larger than the dataset. The shape is for the caller to check.
    """
    name = f"'{(dataset.name or '?').strip('/')}'"
    if dataset.external or dataset.is_virtual:
        raise CodecError(f"{name} points to other files; refused", "HDF5 data in other files")
    limit = MAX_RATIO * dataset.size * dataset.dtype.itemsize + SPARE_BYTES
    chunk = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
    for what, size in (("a chunk", chunk), ("its stored data", dataset.id.get_storage_size())):
        if size > limit:
            raise CodecError(
                f"{name} of shape {dataset.shape}: {what} has {size} bytes; refused",
                "oversized HDF5 chunk",
            )
    created = dataset.id.get_create_plist()
    filters = {created.get_filter(i)[0] for i in range(created.get_nfilters())}
    if filters - FILTERS:
        raise CodecError(
            f"{name} uses HDF5 filter {min(filters - FILTERS)}; gzip, lzf, shuffle and fletcher32 "
            "are allowed",
            "unknown HDF5 filter",
        )
