"""What larger trainings need, from the measured results: the tables of `docs/scaling.md`.

    python -m benchmarks.scaling --markdown
    python -m benchmarks.scaling --update                # writes them into the page

Measured figures are read from `benchmarks/results`; all else is an `Assumption` with its source,
and stands in the page as one.
"""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.needs import (
    ASSUMED,
    CORES_PER_NODE,
    DRIVER_GIB,
    GPU_RATE,
    GPUS_PER_NODE,
    GROUP,
    NETWORK,
    PIXELS,
    PLAN_SHARE,
    PREFIX,
    RESULTS,
    ROWS,
    Measured,
    Need,
    amount,
    figures_of,
    load,
)  # fmt: skip

PAGE = Path("docs/scaling.md")


def cases(measured: Measured) -> list[Need]:
    """KITTI's eigen_zhou split on one GPU and on a node, and a large corpus."""
    return [
        Need("KITTI, 1 GPU", 39_810, 256, 20, 1, True, measured),
        Need("KITTI, 8 GPUs", 39_810, 256, 20, 8, True, measured),
        Need("10⁹ triplets, 64 GPUs", 10**9, 1024, 1, 64, False, measured),
        Need("10⁹ triplets, 512 GPUs", 10**9, 1024, 1, 512, False, measured),
    ]


def table(header: list[str], rows: list[list[str]], right: bool = True) -> str:
    """A table in Markdown."""
    rule = ["---", *(["---:" if right else "---"] * (len(header) - 1))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))


def saturations(measured: Measured) -> list[tuple[float, list[str]]]:
    """What ends first as the dataset grows: triplets, and the cells of the table."""
    row_bytes = 3 * measured.frame_bytes
    frames = DRIVER_GIB * 2**30 / measured.driver_bytes
    found = [
        (2**40 / row_bytes, "a start reads every byte", "the limit is set: 1 TiB, minutes",
         "nothing: above it sizes are compared, and the bytes of 16 shards"),
        (frames, "the conversion's driver lists every frame",
         f"measured: {measured.driver_bytes:,.0f} B a frame, in {DRIVER_GIB} GiB",
         "convert drives apart, join their manifests; look for duplicates on disk"),
        (measured.shards * 1024, "one manifest in JSON, a copy in each worker",
         f"measured up to {measured.shards:,} shards, see below",
         "a manifest in Parquet, one for each part"),
        (2**31 * GROUP, "4 bytes a row group in each worker", "computed",
         "permute shards, then row groups of those that are open"),
    ]  # fmt: skip
    return [(at, [amount(at, "").strip(), *cells]) for at, *cells in sorted(found)]


def gpu_saturations(measured: Measured) -> list[tuple[float, list[str]]]:
    """What ends first as GPUs are added: GPUs, and the cells of the table."""
    need = Need("", 10**9, 1024, 1, 1, False, measured)
    cores = CORES_PER_NODE.value / GPUS_PER_NODE.value
    requests = need.requests / need.epoch_s
    found = [
        (PREFIX.value / requests, "requests to one prefix of the store", "computed",
         "row groups of 64 rows; or footers kept in the manifest's place"),
        (PLAN_SHARE / (measured.plan_s * need.rate), "each worker plans the rows of all",
         f"measured: {1e6 * measured.plan_s:.2f} µs a row; 10 % of a core",
         "plan only the lanes of this worker"),
    ]  # fmt: skip
    fed = [
        (cores * 1e3 / need.decode_ms / GPU_RATE.value, "cores that decode", "computed",
         "nodes without GPUs decode too, which Ray does already"),
        (NETWORK.value * 1e9 / GPUS_PER_NODE.value / (8 * need.row_bytes * need.rate),
         "network of a node", "computed", "shards on the nodes' own disks"),
    ]  # fmt: skip
    rows = [(at, [f"{at:,.0f} GPUs", *cells]) for at, *cells in sorted(found)]
    return [*rows, *((at, [f"GPUs {at:.1f} x as fast", *cells]) for at, *cells in sorted(fed))]


TITLES = {
    "write_manifest": "the manifest written",
    "read_manifest": "the manifest read",
    "order of an epoch": "order of an epoch",
    "order, shards of 1,000 rows": "the same, shards of 1,000 rows",
    "tasks, mid-epoch": "tasks of 262,144 rows, mid-epoch",
    "worker": "a worker until its first task",
    "driver": "the driver until Ray starts",
}
"""Sides of `benchmarks.metadata`, and what the page calls them."""


def metadata_table(metadata: dict[str, Any]) -> str:
    """What the number of shards alone costs; CPU seconds, MiB above the bare process."""
    parts = {name: part for name, part in metadata.items() if name.endswith(" shards")}
    counts = sorted(parts, key=lambda name: int(name.split()[0]))
    figures = {name: figures_of(parts[name]) for name in counts}
    ratios = {n: {r["name"]: r["cpu_ratio"] for r in parts[n]["ratios"]} for n in counts}
    rows = [["manifest, MB", *(f"{figures[name]['manifest']:.3g}" for name in counts)]]
    for what, title in TITLES.items():
        rows.append([title, *(
            f"{figures[name][f'{what}: CPU']:.2g} s, {figures[name][f'{what}: memory']:.0f} MiB"
            for name in counts
        )])  # fmt: skip
    for ratio, peer in (("manifest read", "json.loads of the same bytes"),
                        ("order of an epoch", "numpy's permutation of as many int64")):  # fmt: skip
        cells = (f"{1 / ratios[n][ratio]:.1f}x" if ratios[n][ratio] else "–" for n in counts)
        rows.append([f"{ratio}, CPU time over {peer}", *cells])
    return table(["shards", *(f"{int(name.split()[0]):,}" for name in counts)], rows)


def tables(results: Path = RESULTS) -> dict[str, str]:
    """All tables of the page, by name."""
    measured, metadata = load(results)
    needs = cases(measured)
    columns = [need.column() for need in needs]
    inputs = [
        ["a raw frame, PNG", amount(measured.raw_bytes, "B"), "measured, 24 KITTI frames"],
        [f"a frame at {PIXELS}, JPEG q95", amount(measured.frame_bytes, "B"), "measured"],
        ["storing it", f"{measured.store_ms:.1f} ms CPU", "measured"],
        ["decoding it", f"{measured.decode_ms:.2f} ms CPU", "measured"],
        ["the feed over decoding alone", f"{measured.feed_overhead:.2f}x", "measured, 640x192"],
        ["conversion on Ray over a loop", f"{measured.ray_overhead:.2f}x", "measured, NYU"],
        *([a.name, f"{a.value:,g} {a.unit}".strip(), a.source] for a in ASSUMED),
    ]
    header = ["at", "what ends", "evidence", "what then"]
    return {
        "inputs": table(["input", "value", "from"], inputs, right=False),
        "needs": table(
            ["", *(need.name for need in needs)],
            [[name, *cells] for name, cells in zip(ROWS, zip(*columns, strict=True), strict=True)],
        ),
        "metadata": metadata_table(metadata),
        "rows": table(
            ["triplets", *header[1:]], [cells for _, cells in saturations(measured)], right=False
        ),
        "gpus": table(header, [cells for _, cells in gpu_saturations(measured)], right=False),
    }


def fill(page: str, found: dict[str, str]) -> str:
    """The page with its tables anew; each stands after `<!-- table: NAME -->`."""
    for name, text in found.items():
        mark = f"<!-- table: {name} -->"
        if page.count(mark) != 1:
            raise typer.BadParameter(f"{PAGE}: {mark} has to stand there once")
        before, after = page.split(f"{mark}\n")
        rest = re.sub(r"\A\n(\|.*\n)*\n?", "", after)
        page = f"{before}{mark}\n\n{text}\n\n{rest}"
    return page


def main(
    markdown: Annotated[bool, typer.Option(help="Print the tables.")] = True,
    update: Annotated[bool, typer.Option(help="Write them into the page.")] = False,
) -> None:
    """Reckon the tables of docs/scaling.md."""
    found = tables()
    if update:
        PAGE.write_text(fill(PAGE.read_text(), found))
    elif markdown:
        print("\n\n".join(f"<!-- table: {name} -->\n\n{text}" for name, text in found.items()))


if __name__ == "__main__":
    typer.run(main)
