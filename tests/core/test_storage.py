"""A run's place, in a folder and in a bucket of a real S3 server: both behave alike."""

from pathlib import Path

import pytest

from mde.errors import InputError
from mde.storage import Storage, join_uri, open_storage


@pytest.fixture(params=["folder", "bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "folder":
        return open_storage(tmp_path / "run")
    return open_storage(join_uri(request.getfixturevalue("bucket"), tmp_path.name))


def test_files_are_written_read_listed_and_deleted(storage: Storage) -> None:
    assert storage.names() == storage.names("journal") == []
    with pytest.raises(FileNotFoundError):
        storage.read("run.json")
    storage.write("run.json", b"1")
    storage.write("journal/b", b"2")
    storage.write("journal/a", b"")
    storage.write("run.json", b"3")
    assert storage.read("run.json") == b"3"
    assert storage.names("journal") == ["a", "b"]
    assert storage.names() == ["journal", "run.json"]
    storage.delete("journal/a")
    storage.delete("nothing")
    assert storage.names("journal") == ["b"]
    storage.delete("")
    assert storage.names() == []


def test_a_folder_is_published_whole_and_comes_back(storage: Storage) -> None:
    def write(content: str):
        def fill(folder: Path) -> None:
            (folder / "state.json").write_text(content)
            (folder / "weights").write_text(content)

        return fill

    storage.put_folder("step-1", write("old"))
    storage.put_folder("step-1", write("new"))
    fetched = storage.fetch_folder("step-1")
    assert {file.name: file.read_text() for file in fetched.iterdir()} == {
        "state.json": "new",
        "weights": "new",
    }
    with pytest.raises(FileNotFoundError):
        storage.fetch_folder("step-2")


def test_what_cannot_be_filled_is_not_published(storage: Storage) -> None:
    def fail(folder: Path) -> None:
        (folder / "state.json").write_text("half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        storage.put_folder("step-1", fail)
    assert storage.names() == []


def test_the_options_of_a_uri_stay_when_a_name_is_joined() -> None:
    assert join_uri("s3://a/b?region=x", "c") == "s3://a/b/c?region=x"
    assert join_uri("/a/b", "c") == "/a/b/c"


def test_an_unknown_scheme_is_named_with_what_is_allowed() -> None:
    with pytest.raises(InputError, match=r"'ftp://host/x'.*allowed are a path, file://"):
        open_storage("ftp://host/x")
