"""What a frame costs at the size of a training: bytes, and CPU time to store and to decode it.

    python -m benchmarks.frame_costs FOLDER              # PNG files, such as KITTI's image_02/data

One process on one core; the median of the rounds counts.
"""

import statistics
from pathlib import Path
from typing import Annotated, Any

import cv2
import typer
from rich.console import Console

from benchmarks.data import tabulate_figures
from benchmarks.timing import Figure, Run, describe, describe_figures, time_call
from mde.data.codecs import decode_image, decode_raw_image, encode_image, resize_image
from mde.files import read_json, write_json

RESULTS = Path("benchmarks/results/frames.json")
SIZES = ((192, 640), (320, 1024))
"""(H, W), px."""


def measure_size(files: list[bytes], size: tuple[int, int], rounds: int) -> dict[str, Any]:
    """Store and decode all frames at one size."""
    stored = [_store(data, size) for data in files]
    runs: dict[str, list[Run]] = {"store": [], "decode": []}
    for _ in range(rounds):
        runs["store"].append(time_call(lambda: [_store(data, size) for data in files], len(files)))
        runs["decode"].append(time_call(lambda: [decode_image(s) for s in stored], len(files)))
    figures = [
        Figure("raw file", statistics.mean(map(len, files)), "bytes"),
        Figure("stored", statistics.mean(map(len, stored)), "bytes"),
        *(
            Figure(name, statistics.median(run["cpu_ms_per_sample"] for run in found), "CPU ms")
            for name, found in runs.items()
        ),
    ]
    settings = {"frames": len(files), "height": size[0], "width": size[1]}
    return describe([], runs, **settings) | describe_figures(figures)


def _store(data: bytes, size: tuple[int, int]) -> bytes:
    return encode_image(resize_image(decode_raw_image(data), size))


def main(
    folder: Annotated[Path, typer.Argument(help="PNG files, at any depth.", exists=True)],
    runs: Annotated[int, typer.Option(min=1, help="Rounds.")] = 5,
    out: Annotated[Path, typer.Option(help="Results; other sizes in it stay.")] = RESULTS,
) -> None:
    """Measure frames and print the figures."""
    cv2.setNumThreads(1)
    files = [path.read_bytes() for path in sorted(folder.rglob("*.png"))]
    if not files:
        raise typer.BadParameter(f"{folder}: no PNG files in it")
    found = {
        f"{width}x{height}": measure_size(files, (height, width), runs) for height, width in SIZES
    }
    write_json(out, {**(read_json(out) if out.is_file() else {}), **found})
    Console().print(tabulate_figures(found))


if __name__ == "__main__":
    typer.run(main)
