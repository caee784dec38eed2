"""Re-check a converted dataset: its files, its manifest and every row; all faults, not the first.

`mde.data.shards.verify_shards` is the quick check at the start of a training.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from mde.config import parse_section
from mde.data.dataset_checks import (
    Sample,
    SplitFound,
    check_counts,
    check_file,
    check_names,
    check_samples,
    expected_rows,
    is_named_right,
    some,
)
from mde.data.row_checks import Expected, RowCheck, check_row
from mde.data.shards import (
    Manifest,
    Shard,
    find_extra,
    image_digest,
    read_manifest,
    read_row_group,
)
from mde.errors import InputError
from mde.files import read_json
from mde.schema import SPLITS

T = TypeVar("T")
R = TypeVar("R")


@dataclass
class Verification:
    """The outcome. decoded: whether images and depth were.

    problems: one message each. skipped: what could not be checked because of them.
    """

    folder: Path
    manifest: Manifest
    decoded: bool
    splits: dict[str, SplitFound]
    problems: list[str]
    skipped: list[str]

    def raise_problems(self) -> None:
        """Raises InputError that lists all problems, if there are any."""
        if not self.problems:
            return
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        lines = [f"{self.folder}: {count}; bring back the files as they were or convert again:"]
        lines += [f"  {problem}" for problem in self.problems]
        lines += [f"  not checked, because of the above: {item}" for item in self.skipped]
        raise InputError("\n".join(lines))


@dataclass
class _Group:
    """What was found in a row group. problem: why it could not be read."""

    samples: list[Sample] = field(default_factory=list)
    check: RowCheck = field(default_factory=RowCheck)
    problem: str | None = None


def open_dataset(folder: Path) -> Manifest:
    """The manifest of a dataset. Raises InputError when the folder is not there or is none."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder of a converted dataset")
    path = folder / "manifest.json"
    inside = sorted(other.parent.name for other in folder.glob("*/manifest.json"))
    if inside and not path.exists():
        raise InputError(f"{folder}: not a dataset, but it holds some: {', '.join(inside)}")
    read_manifest(folder)
    content = {key: value for key, value in read_json(path).items() if key != "counts"}
    return parse_section(path, "manifest", content, Manifest)


def verify(folder: Path, quick: bool = False) -> Verification:
    """Check a dataset, on all cores; memory holds one row group for each of them.

    quick: files, checksums, counts and names only; images and depth stay undecoded.
    Raises InputError when there is no dataset or its manifest cannot be read.
    """
    manifest = open_dataset(folder)
    splits = {split: SplitFound() for split in SPLITS}
    extra = find_extra(folder, manifest)
    problems = [*check_names(manifest), *([extra] if extra else [])]
    with _all_cores() as run:
        shards = [shard for shard in manifest.shards if is_named_right(shard)]
        groups: list[tuple[Shard, int, int]] = []
        check_whole = partial(check_file, folder, manifest)
        for shard, (faults, sizes) in run("checksums", check_whole, shards, lambda s: s.rows):
            problems += faults
            groups += [(shard, number, rows) for number, rows in enumerate(sizes)]
            split = splits[shard.split]
            split.shards += 1
            split.bytes += (folder / shard.file).stat().st_size if sizes else 0
            split.unread += not sizes
        expected = None if quick else {split: expected_rows(manifest, split) for split in SPLITS}
        check_rows = partial(_check_group, folder, expected, set())
        problems += _collect(run("rows", check_rows, groups, lambda group: group[2]), splits)
    problems += check_samples(manifest, splits, not quick)
    counts = read_json(folder / "manifest.json").get("counts")
    faults, skipped = check_counts(manifest, counts, splits, not quick)
    prefix = f"{folder}{os.sep}"
    problems = [problem.removeprefix(prefix) for problem in [*problems, *faults]]
    return Verification(folder, manifest, not quick, splits, problems, skipped)


@contextmanager
def _all_cores() -> Iterator[Callable[..., Iterator[tuple[Any, Any]]]]:
    """Gives `run(name, function, items, rows)` → pairs of item and result; a bar counts rows."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with (
        Progress(
            *columns,
            TextColumn("rows"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        ) as progress,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):

        def run(
            name: str, function: Callable[[T], R], items: list[T], rows: Callable[[T], int]
        ) -> Iterator[tuple[T, R]]:
            bar = progress.add_task(name, total=sum(map(rows, items)))
            for item, result in zip(items, pool.map(function, items), strict=True):
                yield item, result
                progress.advance(bar, rows(item))

        try:
            yield run
        except BaseException:
            # Else Ctrl-C would wait for all that is queued.
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _check_group(
    folder: Path,
    expected: dict[str, Expected] | None,
    decoded: set[str],
    group: tuple[Shard, int, int],
) -> _Group:
    """Check the rows of a row group; without `expected` only their names are read."""
    (shard, number, _), found = group, _Group()
    columns = None if expected else ["sample_id", "scene"]
    try:
        rows: list[Any] = read_row_group(folder / shard.file, number, columns).to_pylist()
    except InputError as error:
        found.problem = str(error)
        return found
    for row in rows:
        digest = image_digest(row["image"]) if expected else ""
        found.samples.append(Sample(row["sample_id"], row["scene"], digest, shard.file))
        if expected:
            found.check.add(check_row(row, expected[shard.split], decoded))
    return found


def _collect(
    results: Iterator[tuple[tuple[Shard, int, int], _Group]], splits: dict[str, SplitFound]
) -> Iterator[str]:
    """Add the groups to their splits; faults of one kind in one shard make one message."""
    faults: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (shard, _, _), group in results:
        split = splits[shard.split]
        split.samples += group.samples
        split.check.add(group.check)
        if group.problem:
            split.unread += 1
            yield group.problem
        for sample_id, fault in group.check.faults:
            faults[shard.file, fault.kind].append(f"{sample_id} ({fault.detail})")
    for (file, kind), samples in faults.items():
        rows = "1 row" if len(samples) == 1 else f"{len(samples)} rows"
        yield f"{file}: {kind}: {rows}: {some(samples)}"


# --- What is printed --------------------------------------------------------------------------


def tabulate(found: Verification) -> Table:
    """One line for each split; of a quick check, depth and duplicates as the manifest has them."""
    title = f"{found.folder} · {found.manifest.source}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("split")
    names = ("shards", "rows", "scenes", "MB", "depth in m*", "valid", "rejected", "duplicates")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    table.caption = "* min · mean · max of the valid pixels"
    for name, split in found.splits.items():
        stated = found.manifest.statistics.get(name, {})
        depth = split.check.statistics.summary() if found.decoded else stated
        pixels = split.check.pixels
        table.add_row(
            name,
            str(split.shards),
            str(len(split.samples)),
            str(len(split.scenes)),
            f"{split.bytes / 1e6:.1f}",
            _range(depth),
            f"{split.check.statistics.depth_pixels / pixels:.1%}" if pixels else "–",
            str(sum(frame.split == name for frame in found.manifest.rejected)),
            str(_num_duplicates(found, split)),
        )
    return table


def _range(depth: dict[str, Any]) -> str:
    values = [depth.get(f"depth_{name}") for name in ("min", "mean", "max")]
    return " · ".join(f"{value:.2f}" if isinstance(value, float) else "–" for value in values)


def _num_duplicates(found: Verification, split: SplitFound) -> int:
    """Rows with the image of an earlier one."""
    if found.decoded:
        return len(split.samples) - len({sample.digest for sample in split.samples})
    names = {sample.sample_id for sample in split.samples}
    return sum(len(group) - 1 for group in found.manifest.duplicates if names & set(group))


def describe_precision(manifest: Manifest) -> str:
    """What storing has changed, in a line."""
    image, depth = (manifest.precision.get(name, {}) for name in ("image", "depth"))
    quality = ""
    if image.get("psnr_db") is not None:
        quality = (
            f", PSNR {image['psnr_db']:.1f} dB, {image['psnr_db_min']:.1f} dB at worst "
            f"({image['checked']} checked)"
        )
    error = depth.get("max_error_m")
    largest = "" if error is None else f", error up to {1000 * error:.2g} mm"
    return f"images: {image.get('codec', '?')}{quality} · depth: {depth.get('codec', '?')}{largest}"
