"""A run's folder and the lease on it, without MLflow."""

import threading
from pathlib import Path

import pytest

from mde.errors import InputError
from mde.storage import FolderStorage, open_storage
from mde.tracking import follow, lease
from mde.tracking.lease import Lease
from mde.tracking.run_folder import Artifacts, Delivered, End, RunFolder, run_folders
from mde.train.journal import Journal, segments

WHAT = ("toy", {"lr": "0.5"}, {"variant": "toy"})


def folder_of(path: Path) -> RunFolder:
    return RunFolder(open_storage(path))


def journal_steps(folder: RunFolder, count: int) -> None:
    journal = Journal(folder.storage)
    for step in range(count):
        journal.add(step, {"loss": 1.0, "lr": 0.1})
    journal.flush()


def test_a_folder_goes_on_with_its_run(tmp_path: Path) -> None:
    first = folder_of(tmp_path / "toy").begin(*WHAT)
    again = folder_of(tmp_path / "toy").begin("other", {}, {})
    assert again == first
    assert first.params == {"lr": "0.5"}
    assert folder_of(tmp_path / "other").begin(*WHAT).key != first.key


def test_all_records_are_read_as_written(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    assert (folder.record, folder.end, folder.delivered) == (None, None, Delivered())
    end = End("FINISHED", 17, Artifacts("models/toy/checkpoint", "ab"))
    folder.write_end(end)
    folder.write_delivered(delivered := Delivered("id", "RUNNING", ("a", "b"), "ab"))
    assert (folder.end, folder.delivered) == (end, delivered)
    folder.write_end(None)
    assert folder.end is None


@pytest.mark.parametrize("name", ["run.json", "journal/end.json", "delivered.json"])
@pytest.mark.parametrize("content", ["{", '{"keys": 1}', "[]"])
def test_a_damaged_record_is_named(tmp_path: Path, name: str, content: str) -> None:
    folder = folder_of(tmp_path)
    folder.storage.write(name, content.encode())
    with pytest.raises(InputError, match=name):
        print(folder.record, folder.end, folder.delivered)


def test_waiting_is_what_has_not_been_delivered(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    folder.begin(*WHAT)
    journal_steps(folder, 10)
    journal_steps(folder, 15)
    first, second = segments(folder.storage)
    assert (folder.waiting(), folder.waiting_values()) == ([first, second], 30)
    folder.write_delivered(Delivered("id", "RUNNING", (first,)))
    assert (folder.waiting(), folder.waiting_values()) == ([second], 10)
    (tmp_path / "journal" / second).write_text("noise")
    assert folder.waiting_values() == 1


def test_a_run_is_settled_when_all_of_it_is_delivered(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    folder.begin(*WHAT)
    journal_steps(folder, 3)
    names = tuple(segments(folder.storage))
    folder.write_end(End("FINISHED", 1, Artifacts("models/toy/checkpoint", "ab")))
    assert not folder.settled
    folder.write_delivered(Delivered("id", "FINISHED", names))
    assert not folder.settled
    folder.write_delivered(Delivered("id", "RUNNING", names, "ab"))
    assert not folder.settled
    folder.write_delivered(Delivered("id", "FINISHED", names, "ab"))
    assert folder.settled


@pytest.mark.parametrize("anew", [False, True])
def test_a_new_run_leaves_what_waits_of_the_former_beside(tmp_path: Path, anew: bool) -> None:
    folder = folder_of(tmp_path / "toy")
    former = folder.begin(*WHAT)
    journal_steps(folder, 3)
    folder.write_end(End("KILLED" if anew else "FINISHED", 5))
    record = folder.begin(*WHAT, anew)
    assert record.key != former.key
    assert (segments(folder.storage), folder.end) == ([], None)
    aside = next(f for f in run_folders(str(tmp_path)) if f.uri != folder.uri)
    assert (aside.record, aside.waiting_values()) == (former, 6)


def test_a_finished_run_with_checkpoints_is_gone_on_with(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    former = folder.begin(*WHAT)
    (tmp_path / "step-000000003").mkdir()
    folder.write_end(End("FINISHED", 5))
    assert folder.begin(*WHAT) == former


def test_run_folders_are_those_with_a_run(tmp_path: Path) -> None:
    folder_of(tmp_path / "a").begin(*WHAT)
    (tmp_path / "b").mkdir()
    (tmp_path / "c.txt").write_text("not a folder")
    assert [Path(folder.uri).name for folder in run_folders(str(tmp_path))] == ["a"]
    assert run_folders(str(tmp_path / "missing")) == []


@pytest.fixture
def fast_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    """A living claim changes every 0.05 s, a dead one is given up after a second."""
    monkeypatch.setattr(lease, "BEAT_S", 0.05)
    monkeypatch.setattr(lease, "STALE_S", 1.0)


@pytest.mark.usefixtures("fast_claims")
def test_a_lease_is_one_owners_until_it_is_released(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    first, second = Lease(storage, "a", "training"), Lease(storage, "b", "sync")
    assert first.acquire() is None
    assert not second.try_acquire()
    assert second.acquire() == "training"
    first.release()
    assert second.acquire() is None
    second.release()
    assert storage.names("claims") == []


@pytest.mark.usefixtures("fast_claims")
def test_a_dead_owners_claim_is_taken_over(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    storage.write("claims/dead", b"training, other-host, process 1\n7\n")
    heir = Lease(storage, "heir", "sync")
    assert not heir.try_acquire()
    assert heir.acquire() is None
    assert storage.names("claims") == ["heir"]
    heir.release()


@pytest.mark.usefixtures("fast_claims")
def test_an_owner_notices_that_its_claim_was_taken_away(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    owner = Lease(storage, "a", "training")
    assert owner.try_acquire()
    storage.delete("claims/a")
    while owner.held:
        threading.Event().wait(0.05)
    owner.release()
    assert storage.names("claims") == []


class Crowded(FolderStorage):
    """Somebody else claims at the same moment."""

    def write(self, name: str, data: bytes) -> None:
        super().write(name, data)
        super().write("claims/other", b"other\n0\n")


def test_of_two_that_claim_at_once_each_steps_back(tmp_path: Path) -> None:
    storage = Crowded(tmp_path)
    assert not Lease(storage, "a", "a").try_acquire()
    assert storage.names("claims") == ["other"]


@pytest.mark.usefixtures("fast_claims")
def test_of_many_at_once_one_at_a_time_has_the_lease(tmp_path: Path) -> None:
    storage, start = open_storage(tmp_path), threading.Barrier(3)
    inside: list[str] = []
    together: list[int] = []

    def work(name: str) -> None:
        own = Lease(storage, name, name)
        start.wait()
        while not own.try_acquire():
            threading.Event().wait(0.01)
        inside.append(name)
        together.append(len(inside))
        threading.Event().wait(0.05)
        inside.remove(name)
        own.release()

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == [1, 1, 1]


def raised_from(cause: BaseException) -> BaseException:
    try:
        try:
            raise cause
        except BaseException as error:
            raise RuntimeError("wrapped") from error
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(0), "KILLED"),
        (raised_from(KeyboardInterrupt()), "KILLED"),
        (raised_from(raised_from(SystemExit(15))), "KILLED"),
        (raised_from(ValueError()), "FAILED"),
        (FloatingPointError(), "FAILED"),
    ],
)
def test_how_a_run_ended_is_read_from_its_exception(error: BaseException, status: str) -> None:
    assert follow.status_of(error) == status
