"""The stored rows in the formats of WebDataset, LitData and MosaicML Streaming, and their loaders.

All, and a plain torch DataLoader over the shards as they are, hold the same encoded bytes and
decode them with the same `load_sample`, so that what differs is the container, the shuffle and the
way from the workers to the batch. These libraries are no dependency of the project: `make bench`
installs them.
"""

import functools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from mde.data.augment import Augment, columns_of, load_sample
from mde.data.shards import read_manifest, read_row_group
from mde.files import fresh_folder
from mde.schema import Batch, Row

IMAGES = ("image",)
SHUFFLE_ROWS = 128
"""As many as the feed mixes."""
FACTS = ("height", "width", "K", "depth_scale")
"""What `load_sample` needs of a row beside its bytes."""
Decode = Callable[[Row], dict[str, Any]]


def train_rows(folder: Path) -> Iterator[Row]:
    """The rows of the training split of a dataset, with the columns that are needed."""
    for shard in read_manifest(folder).of_split("train"):
        for group in range(shard.row_groups):
            table = read_row_group(folder / shard.file, group, columns_of(IMAGES, True))
            yield from table.to_pylist()


NAMES = ("WebDataset", "LitData", "MosaicML")
PLAIN = "DataLoader"
"""Reads the dataset itself: nothing is packed."""


def pack(
    folder: Path, work: Path, rows_per_shard: int, names: Iterable[str] = NAMES
) -> dict[str, Path]:
    """Write the training rows of a dataset in other formats; format → its folder."""
    writers = dict(zip(NAMES, (_to_webdataset, _to_litdata, _to_mds), strict=True))
    packed = {name: work / f"{folder.name}-{name.lower()}" for name in names}
    for name, out in packed.items():
        if not out.is_dir():
            with fresh_folder(out) as draft:
                writers[name](train_rows(folder), draft, rows_per_shard)
    return packed


def _to_webdataset(rows: Iterable[Row], out: Path, rows_per_shard: int) -> None:
    import webdataset

    with webdataset.ShardWriter(f"{out}/%05d.tar", maxcount=rows_per_shard, verbose=0) as writer:
        for row in rows:
            fields = _pack(row)
            facts = fields["facts"].encode()
            name, image, depth = fields["sample_id"], fields["image"], fields["depth"]
            writer.write({"__key__": name, "jpg": image, "depth": depth, "json": facts})


def _to_litdata(rows: Iterable[Row], out: Path, rows_per_shard: int) -> None:
    from litdata.streaming.cache import Cache

    cache = Cache(str(out), chunk_size=rows_per_shard)
    for number, row in enumerate(rows):
        cache[number] = _pack(row)
    cache.done()
    cache.merge()


def _to_mds(rows: Iterable[Row], out: Path, rows_per_shard: int) -> None:
    from streaming import MDSWriter

    packed = [_pack(row) for row in rows]
    mean = sum(len(fields["image"]) + len(fields["depth"]) for fields in packed) // len(packed)
    columns = {"sample_id": "str", "image": "bytes", "depth": "bytes", "facts": "str"}
    with MDSWriter(out=str(out), columns=columns, size_limit=rows_per_shard * mean) as writer:
        for fields in packed:
            writer.write(fields)


def _pack(row: Row) -> dict[str, Any]:
    facts = json.dumps({name: row[name] for name in FACTS})  # type: ignore[literal-required]
    fields = {"sample_id": row["sample_id"], "image": row["image"], "depth": row["depth"]}
    return {**fields, "facts": facts}


def _unpack(decode: Decode, fields: dict[str, Any]) -> dict[str, Any]:
    row: Any = {**fields, **json.loads(fields["facts"])}
    return decode(row)


def open_loader(
    name: str, folder: Path, augment: Augment | None, batch_size: int, workers: int
) -> Iterable[Batch]:
    """The loader of a format, over all of a folder, shuffled, with so many worker processes."""
    if name == PLAIN:
        from benchmarks.torch_loader import Epochs, TorchFeed

        return Epochs(
            TorchFeed(folder, IMAGES, True, batch_size, 0, augment, 0, 1, workers=workers)
        )
    decode = functools.partial(
        load_sample, images=IMAGES, with_depth=True, augment=augment, key=[0, 0]
    )
    loader, dataset = DataLoader, None
    if name == "WebDataset":
        dataset = _open_webdataset(folder, decode)
    elif name == "LitData":
        import litdata

        loader, unpack = litdata.StreamingDataLoader, functools.partial(_unpack, decode)
        dataset = litdata.StreamingDataset(str(folder), shuffle=True, transform=unpack)
    else:
        dataset = _open_mds(folder, decode, batch_size)
    # Linux's own way; a spawned process, as benchmarks run in, would spawn its workers too.
    living: dict[str, Any] = {"persistent_workers": True, "multiprocessing_context": "fork"}
    options = living if workers else {}
    return loader(
        dataset, batch_size=batch_size, num_workers=workers, collate_fn=collate,
        worker_init_fn=one_thread, **options,
    )  # fmt: skip


def _open_webdataset(folder: Path, decode: Decode) -> Any:
    import webdataset

    def unpack(sample: dict[str, Any]) -> dict[str, Any]:
        fields = {"sample_id": sample["__key__"], "image": sample["jpg"], "depth": sample["depth"]}
        return _unpack(decode, {**fields, "facts": sample["json"]})

    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    dataset = webdataset.WebDataset(urls, shardshuffle=len(urls), empty_check=False)
    return dataset.shuffle(SHUFFLE_ROWS).map(unpack)


def _open_mds(folder: Path, decode: Decode, batch_size: int) -> Any:
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    class Decoded(StreamingDataset):
        def __getitem__(self, at: Any) -> Any:
            return _unpack(decode, super().__getitem__(at))

    clean_stale_shared_memory()
    return Decoded(local=str(folder), shuffle=True, batch_size=batch_size)


def one_thread(worker: int) -> None:
    """What a DataLoader's worker does first: OpenCV starts threads unless told not to."""
    cv2.setNumThreads(1)


def collate(samples: list[dict[str, Any]]) -> Batch:
    """Samples → a batch like the feed's: images (B,3,H,W) uint8, one copy of every array."""
    batch: Any = {"sample_id": [sample["sample_id"] for sample in samples]}
    for name, value in samples[0].items():
        # WebDataset adds the name of the sample under a name of its own.
        if isinstance(value, str):
            continue
        arrays = [sample[name] for sample in samples]
        stacked = torch.from_numpy(np.stack(arrays))
        if name.startswith("image"):
            stacked = stacked.permute(0, 3, 1, 2)
        batch[name] = stacked.unsqueeze(1) if name == "depth" else stacked
    return batch
