"""A run's place, in a folder and in a bucket of a real S3 server: both behave alike."""

from pathlib import Path

import pytest

from mde.cluster import doctor
from mde.data.place import read_bytes
from mde.errors import InputError
from mde.storage import Storage, join_uri, open_storage, require_storage
from tests.s3 import S3Server


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


def test_the_server_is_named_by_the_environment_or_by_the_uri(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_storage("s3://runs/where").write("a", b"1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    by_uri = f"s3://runs/where?endpoint_override={s3.address}&scheme=http&region=us-east-1"
    assert open_storage(by_uri).read("a") == read_bytes(join_uri(by_uri, "a")) == b"1"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://{s3.address}")
    assert open_storage("s3://runs/where").read("a") == read_bytes("s3://runs/where/a") == b"1"


def test_files_are_copied_and_measured(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "local").write_bytes(b"123")
    storage.put_file("made/a", tmp_path / "local")
    storage.write("made/deep/b", b"1")
    assert (storage.sizes("made"), storage.sizes("nothing")) == ({"a": 3}, {})


def test_every_node_finds_what_all_have_written(storage: Storage) -> None:
    place = join_uri(storage.uri, "doctor")
    assert [doctor.write_report(place, node).error for node in ("one", "two")] == ["", ""]
    assert doctor.look_around(place, "one") == ["one", "two"]
    doctor.clean_up(place, "one")
    assert storage.names() == []


def test_a_server_that_refuses_us_is_said_at_the_start(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"s3://none/x: cannot be used: there is no such bucket"):
        require_storage("s3://none/x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-wrong-one")
    with pytest.raises(InputError, match=r"s3://runs/x: cannot be used: .*signature") as caught:
        require_storage("s3://runs/x")
    assert "a-wrong-one" not in str(caught.value)
    assert doctor.write_report("s3://runs/x", "node").error.startswith("PermissionError")


@pytest.mark.parametrize(
    ("uri", "found"), [("s3://a/b?regoin=x", "unknown option 'regoin'"), ("s3:///b", "no bucket")]
)
def test_a_uri_that_is_none_is_explained(uri: str, found: str) -> None:
    with pytest.raises(InputError, match=found):
        open_storage(uri)


def test_an_unknown_scheme_is_named_with_what_is_allowed() -> None:
    with pytest.raises(InputError, match=r"'ftp://host/x'.*allowed are a path, file://"):
        open_storage("ftp://host/x")
