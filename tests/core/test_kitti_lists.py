"""Split files of KITTI: the formats that people have, and messages that name the bad line."""

from pathlib import Path

import pytest

from mde.data.sources.kitti.lists import SELECTION, Entry, read_list
from mde.errors import InputError

DRIVE = "2011_09_26/2011_09_26_drive_0002_sync"
TRUTH = "2011_09_26_drive_0002_sync/proj_depth/groundtruth"


def read(tmp_path: Path, text: str) -> list[Entry]:
    path = tmp_path / "list.txt"
    path.write_text(text)
    return read_list(path)


@pytest.mark.parametrize(
    ("line", "entry"),
    [
        (f"{DRIVE} 69 l", Entry(DRIVE, 69, "l")),
        (f"{DRIVE} 0000000069 r", Entry(DRIVE, 69, "r")),
        (f"  {DRIVE}\t69  l \r", Entry(DRIVE, 69, "l")),
        (f"\ufeff{DRIVE} 69 l", Entry(DRIVE, 69, "l")),
        ("9 1589 l", Entry("sequences/09", 1589, "l")),
        ("04 000012 r", Entry("sequences/04", 12, "r")),
        (
            f"{DRIVE}/image_02/data/0000000069.png {TRUTH}/image_02/0000000069.png 721.5377",
            Entry(DRIVE, 69, "l"),
        ),
        (
            f"/{DRIVE}/image_03/data/0000000069.jpg train/{TRUTH}/image_03/0000000069.png 721",
            Entry(DRIVE, 69, "r"),
        ),
        (f"{DRIVE}/image_02/data/0000000075.png None 721.5377", Entry(DRIVE, 75, "l", False)),
        ("image 499", Entry(SELECTION, 499, "l", False)),
    ],
)
def test_a_line_of_each_format_is_understood(tmp_path: Path, line: str, entry: Entry):
    assert read(tmp_path, f"{line}\n") == [entry]


def test_images_are_sorted_by_drive_frame_and_side(tmp_path: Path):
    entries = read(tmp_path, "2 10 r\n\n2 9 l\n1 11 l\n2 10 l\n")
    assert [(e.scene[-2:], e.frame, e.side) for e in entries] == [
        ("01", 11, "l"), ("02", 9, "l"), ("02", 10, "l"), ("02", 10, "r"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        f"{DRIVE} 2",
        f"{DRIVE} two l",
        f"{DRIVE} -2 l",
        f"{DRIVE} ² l",
        f"{DRIVE} ٢ l",
        f"{DRIVE} 2 L",
        f"{DRIVE} 2 l l",
        "2011_09_26_drive_0002_sync 2 l",
        "../2011_09_26_drive_0002_sync 2 l",
        "/etc/passwd 2 l",
        "100 2 l",
        f"{DRIVE}/image_02/data/0000000069.png {TRUTH}/image_02/0000000070.png 721.5377",
        f"{DRIVE}/image_02/data/0000000069.png {TRUTH}/image_03/0000000069.png 721.5377",
        f"{DRIVE}/image_02/data/0000000069.png none 721.5377",
        f"{DRIVE}/image_02/data/0000000069.png {TRUTH}/image_02/0000000069.png",
        f"{DRIVE}/image_00/data/0000000069.png None 721.5377",
        "image 1 l",
        "\x89PNG\x00",
    ],
)
def test_a_malformed_line_is_named_with_the_formats_there_are(tmp_path: Path, line: str):
    with pytest.raises(InputError) as error:
        read(tmp_path, f"{DRIVE} 1 l\n\n{line}\n")
    assert "list.txt, line 3: found '" in str(error.value)
    assert "<date>/<drive> <frame> <l|r>\n" in str(error.value)


@pytest.mark.parametrize(
    "again",
    [f"{DRIVE} 1 l", f"{DRIVE} 0000000001 l", f"{DRIVE}/image_02/data/0000000001.png None 721.5"],
)
def test_an_image_that_is_there_twice_is_named_with_both_lines(tmp_path: Path, again: str):
    with pytest.raises(InputError, match=r"list\.txt, line 4: .* twice, first in line 2"):
        read(tmp_path, f"{DRIVE} 3 l\n{DRIVE} 1 l\n{DRIVE} 1 r\n{again}\n")


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_list_is_refused(tmp_path: Path, text: str):
    with pytest.raises(InputError, match=r"list\.txt: no frame in it"):
        read(tmp_path, text)


def test_a_list_that_is_not_there_is_named_with_its_key(tmp_path: Path):
    with pytest.raises(InputError, match=r"nowhere\.txt: No such file .* datasets\.<name>\.train"):
        read_list(tmp_path / "nowhere.txt")
    with pytest.raises(InputError, match="Is a directory"):
        read_list(tmp_path)


def test_a_list_of_other_bytes_than_text_is_refused(tmp_path: Path):
    path = tmp_path / "list.txt"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(InputError, match="line 1: found"):
        read_list(path)
