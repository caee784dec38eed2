"""Archives: the same files as in a folder, and nothing from one that is hostile or damaged."""

import gzip
import io
import os
import random
import stat
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from mde.data.codecs import CodecError
from mde.data.raw import tar_index
from mde.data.raw.checks import MAX_MEMBER
from mde.data.raw.files import RawFiles, open_raw
from mde.errors import InputError
from tests.conftest import REPOSITORY

LONG = "top/" + "a_folder_with_a_long_name/" * 8 + "ü.bin"
KINDS = ["zip", "tar", "tar.gz"]


def make_files(count: int = 6) -> dict[str, bytes]:
    """Half of each file is noise, half is text, so that compression has something to do."""
    noise = random.Random(0)
    return {
        f"top/scene_{i // 3}/{i:05d}.bin": noise.randbytes(900) + b"depth " * 150
        for i in range(count)
    }


def pack(files: dict[str, bytes], kind: str, tar_format: int = tarfile.GNU_FORMAT) -> bytes:
    """An archive with these files, in this order."""
    out = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, data in files.items():
                packed.writestr(name, data)
        return out.getvalue()
    with tarfile.open(fileobj=out, mode="w", format=tar_format) as tar:
        for name, data in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return gzip.compress(out.getvalue(), mtime=0) if kind == "tar.gz" else out.getvalue()


def pack_tar_member(header: tarfile.TarInfo, kind: str) -> bytes:
    """An archive of one good file and this member, which has no content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("good.bin"))
        tar.addfile(header)
    return gzip.compress(out.getvalue()) if kind == "tar.gz" else out.getvalue()


@pytest.fixture
def open_packed(tmp_path: Path) -> Callable[..., RawFiles]:
    """Write the bytes of an archive and open it."""

    def open_it(data: bytes, name: str = "archive") -> RawFiles:
        (tmp_path / name).write_bytes(data)
        return open_raw(tmp_path / name, tmp_path / "work")

    return open_it


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_gives_the_same_files_as_a_folder(open_packed, tmp_path: Path, kind: str):
    files = make_files() | {"top/.hidden": b"x", "top/empty.bin": b"", LONG: b"long"}
    for name, data in files.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    folder = open_raw(tmp_path / "folder", tmp_path / "work")
    archive = open_packed(pack({f"./{name}": data for name, data in files.items()}, kind))
    assert archive.names() == folder.names() == sorted(files.keys() - {"top/.hidden"})
    for name in random.Random(1).sample(archive.names(), len(archive.names())):
        assert archive.read(name) == folder.read(name) == files[name]


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_of_both_kinds_of_tar_are_whole(open_packed, tar_format: int):
    archive = open_packed(pack({LONG: b"1", "short": b"2"}, "tar", tar_format))
    assert [archive.read(name) for name in (LONG, "short")] == [b"1", b"2"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_file_is_told_from_a_damaged_one(open_packed, kind: str):
    with pytest.raises(CodecError, match="not in the archive") as caught:
        open_packed(pack(make_files(), kind)).read("top/other.bin")
    assert caught.value.reason == "missing file"


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_an_archive_is_known(open_packed, kind: str):
    names = ["c", "a", "b"]
    archive = open_packed(pack(dict.fromkeys(names, b"x"), kind))
    assert sorted(archive.names(), key=archive.position) == names


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_is_known_by_its_content_not_by_its_name(open_packed, kind: str):
    for name in ("data.zip", "data.tar", "data.tgz", "data"):
        assert len(open_packed(pack(make_files(), kind), name).names()) == 6


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "neither a folder nor"),
        (b"BZh91AY" * 100, "neither a folder nor"),
        (b"\x89HDF\r\n\x1a\n" * 100, "neither a folder nor"),
        (gzip.compress(b"<html>not found</html>" * 99), "not a tar archive"),
        (gzip.compress(b""), "truncated"),
        (gzip.compress(b"short"), "truncated"),
    ],
    ids=["empty", "bzip2", "hdf5", "gzipped html", "gzipped nothing", "gzipped text"],
)
def test_other_files_are_refused(open_packed, data: bytes, message: str):
    with pytest.raises(InputError, match=rf"archive: .*{message}"):
        open_packed(data)


def test_what_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"nowhere: no such folder or archive"):
        open_raw(tmp_path / "nowhere", tmp_path)


# --- The stored index -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_the_index_is_made_once_and_again_when_the_archive_changes(
    open_packed, tmp_path: Path, kind: str
):
    data = pack(make_files(), kind)
    open_packed(data)
    (folder,) = (tmp_path / "work").iterdir()
    before = folder.stat().st_mtime_ns
    open_raw(tmp_path / "archive", tmp_path / "work")
    assert folder.stat().st_mtime_ns == before
    more = open_packed(pack(make_files(9), kind))
    assert len(more.names()) == 9
    assert len(list((tmp_path / "work").iterdir())) == 2


def test_another_process_reads_by_the_stored_index_and_ends_cleanly(open_packed, tmp_path: Path):
    open_packed(pack(make_files(), "tar.gz"))
    # Left open at the end of the process, which rapidgzip answers by abort().
    script = (
        "import sys, pathlib; from mde.data.raw.files import open_raw\n"
        "raw = open_raw(*map(pathlib.Path, sys.argv[1:]))\n"
        "[print(len(raw.read(name))) for name in raw.names()[::-1]]"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "archive", tmp_path / "work"],
        capture_output=True, text=True, cwd=REPOSITORY, timeout=60, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.split() == ["1800"] * 6


def test_members_are_found_by_many_seek_points_in_any_order(
    open_packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tar_index, "CHUNK", 64 * 1024)
    noise = random.Random(0)
    files = {f"{i:03d}": noise.randbytes(9000 + i) + b"text " * 3000 for i in range(60)}
    archive = open_packed(pack(files, "tar.gz"))
    for name in noise.sample(sorted(files), 60):
        assert archive.read(name) == files[name]


@pytest.mark.parametrize("file", ["members.json", "seek_points"])
def test_a_damaged_index_is_named(open_packed, tmp_path: Path, file: str):
    data = pack(make_files(), "tar.gz")
    open_packed(data)
    (folder,) = (tmp_path / "work").iterdir()
    (folder / file).write_bytes((folder / file).read_bytes()[:20])
    with pytest.raises(InputError, match=r"archive-\w+: damaged index of archive .* delete"):
        open_raw(tmp_path / "archive", tmp_path / "work")


# --- Hostile archives -------------------------------------------------------------------------


def refused(open_packed: Callable[[bytes], RawFiles], data: bytes, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        open_packed(data)
    for word in ("archive: member", *words, "refused as a whole"):
        assert word in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("../evil.txt", "'..'"),
        ("a/../../evil.txt", "'..'"),
        ("a\\..\\evil.txt", "'..'"),
        ("/etc/passwd", "absolute"),
        ("C:/evil.txt", "absolute"),
    ],
)
def test_names_that_lead_out_are_refused(open_packed, tmp_path, kind: str, name: str, problem: str):
    refused(open_packed, pack({"good.bin": b"x", name: b"x"}, kind), repr(name), problem)
    assert {path.name for path in tmp_path.rglob("*")} <= {"archive", "work"}


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
@pytest.mark.parametrize(
    ("type_", "problem"),
    [
        (tarfile.SYMTYPE, "symbolic link"),
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.BLKTYPE, "device"),
        (tarfile.FIFOTYPE, "named pipe"),
        (tarfile.GNUTYPE_SPARSE, "of type"),
        (b"Z", "of type"),
    ],
)
def test_tar_members_that_are_no_files_are_refused(
    open_packed, kind: str, type_: bytes, problem: str
):
    header = tarfile.TarInfo("evil")
    header.type, header.linkname = type_, "/etc/passwd"
    refused(open_packed, pack_tar_member(header, kind), "'evil'", problem)


@pytest.mark.parametrize(
    ("mode", "problem"), [(stat.S_IFLNK, "symbolic link"), (stat.S_IFCHR, "device")]
)
def test_zip_members_that_are_no_files_are_refused(open_packed, mode: int, problem: str):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        info = zipfile.ZipInfo("evil")
        info.create_system, info.external_attr = 3, (mode | 0o777) << 16
        packed.writestr(info, "/etc/passwd")
    refused(open_packed, out.getvalue(), "'evil'", problem)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_is_there_twice_is_refused(open_packed, kind: str):
    refused(open_packed, pack({"a/b": b"1", "./a/b": b"2"}, kind), "'a/b'", "twice")


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_a_tar_member_that_is_too_large_is_refused_by_its_header(open_packed, kind: str):
    header = tarfile.TarInfo("huge.bin")
    header.size = MAX_MEMBER + 1
    data = header.tobuf(tarfile.GNU_FORMAT)
    refused(open_packed, gzip.compress(data) if kind == "tar.gz" else data, "'huge.bin'", "bytes")


@pytest.mark.parametrize("type_", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE])
def test_an_extended_tar_header_that_is_too_large_is_refused_unread(open_packed, type_: bytes):
    header = tarfile.TarInfo("name")
    header.type, header.size = type_, 8 * 2**30
    refused(open_packed, header.tobuf(tarfile.GNU_FORMAT), "extended header of 8589934592 bytes")


@pytest.mark.parametrize(
    "records", [b"99999 path=x\n", b"x path=x\n", b"0 a=b\n", b"12 path=evil", b"11 pathevil\n"]
)
def test_a_damaged_extended_tar_header_is_refused(open_packed, records: bytes):
    header = tarfile.TarInfo("name")
    header.type, header.size = tarfile.XHDTYPE, len(records)
    data = header.tobuf(tarfile.GNU_FORMAT) + records.ljust(512, b"\0")
    refused(open_packed, data + bytes(1024), "damaged extended header")


def test_what_an_extended_tar_header_says_is_checked_too(open_packed):
    for records, problem in (
        ({"path": "../evil"}, "'..'"),
        ({"size": str(2**40)}, "bytes"),
        ({"size": "-1"}, "bytes"),
        ({"size": "many"}, "'many' bytes"),
        ({"GNU.sparse.map": "0,1"}, "sparse"),
    ):
        header = tarfile.TarInfo("name")
        header.pax_headers = records
        refused(open_packed, header.tobuf(tarfile.PAX_FORMAT) + bytes(1024), problem)


def test_a_zip_bomb_is_refused_by_its_directory(open_packed):
    refused(open_packed, pack({"bomb.bin": bytes(40 * 2**20)}, "zip"), "'bomb.bin'", "expands")


def test_a_large_zip_member_is_refused_by_its_directory(open_packed):
    data = bytearray(pack({"huge.bin": b"x"}, "zip"))
    place = data.rindex(b"PK\1\2") + 24
    data[place : place + 4] = (MAX_MEMBER + 1).to_bytes(4, "little")
    refused(open_packed, bytes(data), "'huge.bin'", "allowed")


def test_a_tar_gz_bomb_is_refused_after_some_of_it(open_packed, tmp_path: Path):
    header = tarfile.TarInfo("bomb.bin")
    header.size = 250 * 2**20
    # A megabyte of zeros that can be repeated in the stream.
    deflate = zlib.compressobj(9, wbits=-15)
    start = deflate.compress(header.tobuf()) + deflate.flush(zlib.Z_FULL_FLUSH)
    zeros = deflate.compress(bytes(2**20)) + deflate.flush(zlib.Z_FULL_FLUSH)
    (tmp_path / "bomb").write_bytes(b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + start + zeros * 250)
    with pytest.raises(InputError, match=r"bomb: its first \d+ bytes expand to \d+, more than 900"):
        open_raw(tmp_path / "bomb", tmp_path / "work")
    assert not list((tmp_path / "work").iterdir())


def test_encrypted_and_unusual_zip_members_are_refused(open_packed):
    data = bytearray(pack({"secret.bin": b"x"}, "zip"))
    data[data.rindex(b"PK\1\2") + 8] |= 1
    refused(open_packed, bytes(data), "'secret.bin'", "encrypted")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_LZMA) as packed:
        packed.writestr("odd.bin", b"x" * 100)
    refused(open_packed, out.getvalue(), "'odd.bin'", "compression 14")


# --- Damaged archives -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.1, 0.4, 0.7])
def test_a_truncated_archive_is_refused_and_no_index_stored(
    open_packed, tmp_path: Path, kind: str, share: float
):
    data = pack(make_files(), kind)
    with pytest.raises(InputError, match=r"archive: .*(truncated|not a whole|damaged)"):
        open_packed(data[: int(len(data) * share)])
    assert not list(tmp_path.glob("work/*"))


def test_a_tar_cut_between_two_members_is_not_taken_for_a_shorter_one(open_packed):
    tar = pack(make_files(), "tar")
    for data in (tar[: 3 * 2560], gzip.compress(tar[: 3 * 2560])):
        with pytest.raises(InputError, match=r"truncated: .* before the end mark"):
            open_packed(data)


@pytest.mark.parametrize("cut", [1, 8, 20])
@pytest.mark.parametrize("padding", [0, 2**20])
def test_a_tar_gz_that_lacks_its_checksum_is_refused(
    open_packed, monkeypatch: pytest.MonkeyPatch, cut: int, padding: int
):
    # rapidgzip itself does not notice it in its later chunks.
    monkeypatch.setattr(tar_index, "CHUNK", 64 * 1024)
    whole = gzip.compress(pack(make_files(150), "tar") + bytes(padding))
    open_packed(whole)
    with pytest.raises(InputError, match=r"archive: .*(truncated|damaged)"):
        open_packed(whole[:-cut])


def test_a_damaged_header_is_not_taken_for_the_end_of_a_tar(open_packed):
    data = bytearray(pack(make_files(), "tar"))
    data[2 * 2560 + 100] ^= 1
    with pytest.raises(InputError, match="damaged tar header at byte 5120"):
        open_packed(bytes(data))


def test_several_archives_in_one_file_are_refused(open_packed):
    tar, gzipped = pack(make_files(), "tar"), pack(make_files(), "tar.gz")
    for data in (tar + tar, gzipped + gzipped):
        with pytest.raises(InputError, match="archive: data after the end mark"):
            open_packed(data)


def test_damage_after_the_index_was_made_is_noticed_when_reading(open_packed, tmp_path: Path):
    files = make_files()
    gzipped = bytearray(pack(files, "tar.gz"))
    open_packed(bytes(gzipped))
    path = tmp_path / "archive"
    times = path.stat()
    noticed = 0
    for place in range(20, len(gzipped) - 20, 150):
        damaged = gzipped.copy()
        damaged[place] ^= 4
        path.write_bytes(damaged)
        # As a failing disk does: the file looks as before.
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        archive = open_raw(path, tmp_path / "work")
        for name, data in files.items():
            try:
                assert archive.read(name) == data
            except CodecError as error:
                noticed += error.reason == "damaged in the archive"
    assert noticed > 20


def fuzz(data: bytes, seed: int) -> bytes:
    """Cut or change the bytes at random."""
    chance, damaged = random.Random(seed), bytearray(data)
    if seed % 3 == 0:
        return data[: chance.randrange(len(data))]
    for _ in range(chance.choice([1, 1, 1, 10])):
        damaged[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


@pytest.mark.parametrize("kind", KINDS)
def test_random_damage_ends_in_the_right_bytes_or_in_an_error(open_packed, kind: str):
    files = make_files()
    packed, outcomes = pack(files, kind), {"refused": 0, "damaged": 0, "right": 0}
    for seed in range(150):
        try:
            archive = open_packed(fuzz(packed, seed), f"{seed}")
        except InputError as error:
            outcomes["refused"] += f"{seed}: " in str(error)
            continue
        for name in archive.names():
            try:
                data = archive.read(name)
            except CodecError:
                outcomes["damaged"] += 1
                continue
            # A plain tar has a checksum of its headers only.
            assert data == files[name] or (kind == "tar" and name in files)
            outcomes["right"] += 1
    assert outcomes["refused"] >= 50
    # Of a .tar.gz, one flipped bit condemns the whole.
    assert (outcomes["right"] > 0) == (kind != "tar.gz")
