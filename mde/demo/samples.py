"""Pictures to begin with: some of the built-in sample's test split."""

from pathlib import Path

from mde.data.codecs import encode_image
from mde.data.sample import DATE
from mde.layout import Layout

ROOMS, STREETS = 3, 2
"""How many of each."""


def write_samples(root: Path, folder: Path) -> list[Path]:
    """Write pictures of the built-in sample into `folder`; those that are there, be it none."""
    folder.mkdir(parents=True, exist_ok=True)
    return [*_rooms(Layout(root).sample("nyu_labeled"), folder),
            *_streets(Layout(root).sample("kitti"), folder)]  # fmt: skip


def _rooms(raw: Path, folder: Path) -> list[Path]:
    from mde.data.sources.nyu_labeled import MAT, SPLITS_MAT, open_mat, read_splits

    if not (raw / MAT).is_file():
        return []
    written = []
    with open_mat(raw / MAT) as mat:
        _, test = read_splits(raw / SPLITS_MAT, len(mat["images"]))
        # Of different rooms.
        for number, index in enumerate(test[:: max(1, len(test) // ROOMS)][:ROOMS]):
            # MATLAB's order: colour, column, row.
            path = folder / f"room-{number + 1}.jpg"
            path.write_bytes(encode_image(mat["images"][index].transpose(2, 1, 0)))
            written.append(path)
    return written


def _streets(raw: Path, folder: Path) -> list[Path]:
    drives = sorted((raw / DATE).glob("*_sync"))
    frames = sorted(drives[-1].glob("image_02/data/*.png")) if drives else []
    written = []
    for number, frame in enumerate(frames[:: max(1, len(frames) // STREETS)][:STREETS]):
        path = folder / f"street-{number + 1}.png"
        path.write_bytes(frame.read_bytes())
        written.append(path)
    return written
