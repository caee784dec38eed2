"""What is recorded of a run's origin: git, DVC, the group; without MLflow and without DVC."""

import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.utils.validation import _validate_tag_name

from mde import provenance
from mde.errors import InputError
from mde.provenance import Provenance, git_commit, without_credentials, working_tree
from mde.storage import open_storage
from mde.tracking.group import dvc_command, find_group
from mde.tracking.origin import describe, dvc_tags
from mde.tracking.run_folder import Delivered, RunFolder


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository that the code seems to run from, with one commit."""
    monkeypatch.delenv("MDE_GIT_COMMIT", raising=False)
    package = tmp_path / "mde"
    package.mkdir()
    for name in ("mde/losses.py", "params.yaml", "dvc.lock"):
        (tmp_path / name).write_text("a: 1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "start")
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    return tmp_path


def test_a_lock_that_dvc_has_written_makes_no_commit_dirty(checkout: Path) -> None:
    (checkout / "dvc.lock").write_text("other")
    assert not git_commit().endswith("+dirty")
    found = working_tree()
    assert found is not None
    assert (found.origin, found.patch, found.untracked) == (str(checkout), b"", ())


def test_the_patch_makes_the_commit_what_ran(checkout: Path, tmp_path: Path) -> None:
    (checkout / "mde/losses.py").write_text("a: 2\n")
    (checkout / "params.yaml").write_text("a: 3\n")
    (checkout / "mde/fresh.py").write_text("")
    found = working_tree(apart=checkout / "params.yaml")
    assert found is not None
    assert git_commit().endswith("+dirty")
    assert found.untracked == ("mde/fresh.py",)
    clone = tmp_path / "clone"
    git(checkout, "clone", "-q", str(checkout), str(clone))
    (clone / "params.yaml").write_text("kept by itself")
    (clone / "p").write_bytes(found.patch)
    git(clone, "apply", "p")
    assert (clone / "mde/losses.py").read_text() == "a: 2\n"
    assert (clone / "params.yaml").read_text() == "kept by itself"


def test_the_origin_is_the_remote_without_its_password(checkout: Path) -> None:
    git(checkout, "remote", "add", "origin", "https://me:secret@example.com/mde.git")
    found = working_tree()
    assert found is not None
    assert found.origin == "https://example.com/mde.git"
    for url in ("git@example.com:me/mde.git", "ssh://git@example.com/mde.git", "/srv/mde"):
        assert without_credentials(url) == url


def test_without_git_nothing_is_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MDE_GIT_COMMIT", raising=False)
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert (git_commit(), working_tree()) == ("unknown", None)


LOCK = b"""
schema: '2.0'
stages:
  convert@kitti:
    cmd: python -m pipelines.convert --dataset kitti
    deps:
    - {path: data/raw (1)/kitti, hash: md5, md5: 0a.dir, size: 1, nfiles: 3}
    - {path: mde/errors.py, hash: md5, md5: 1b, size: 1}
    - {path: pipelines/convert.py, hash: md5, md5: 2c, size: 1}
    outs:
    - {path: data/shards/kitti, hash: md5, md5: 3d.dir, size: 1, nfiles: 3}
"""


def test_dvc_has_the_hashes_of_the_data_alone() -> None:
    tags = {"dvc.data/shards/kitti": "3d.dir", "dvc.data/raw _1_/kitti": "0a.dir"}
    assert dvc_tags(LOCK, "kitti") == tags
    assert dvc_tags(LOCK, "nyu") == {}
    for damaged in (b"<<<<<<< HEAD\na: [", b"[]", b"", b"stages: 3"):
        assert "cannot be read" in dvc_tags(damaged, "kitti")["dvc.lock"]


def test_raw_data_in_a_bucket_have_a_tag_that_mlflow_takes() -> None:
    lock = LOCK.replace(b"data/raw (1)/kitti", b"s3://mde/raw/kitti")
    assert dvc_tags(lock, "kitti")["dvc.s3:/mde/raw/kitti"] == "0a.dir"
    archive = lock.replace(b"md5: 0a.dir", b"etag: 4f-2")
    assert dvc_tags(archive, "kitti")["dvc.s3:/mde/raw/kitti"] == "4f-2"
    for name in dvc_tags(lock, "kitti"):
        _validate_tag_name(name)


@pytest.mark.parametrize(("kind", "mode"), [({"mode": "ms"}, "ms"), ({}, "supervised")])
def test_a_run_has_its_mode_as_a_tag(kind: dict[str, str], mode: str) -> None:
    variant = {"name": "x", "dataset": "d", "model": {"family": "f"}, "objective": kind}
    assert describe(Provenance(variant, "0", "1", "2"))[2]["mode"] == mode


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("python /env/bin/dvc repro evaluate@x", "repro"),
        ("python -m dvc -q exp run", "exp"),
        ("dvc pull repro", None),
        ("python train.py --dvc repro", None),
        ("sh -c dvc", None),
    ],
)
def test_dvc_is_known_by_its_command_line(line: str, command: str | None) -> None:
    assert dvc_command(line.split()) == command


def test_all_that_one_dvc_repro_starts_is_one_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MDE_GROUP", raising=False)
    assert find_group() is None
    script = tmp_path / "dvc"
    ask = f"{sys.executable} -c 'from mde.tracking.group import find_group; print(find_group())'"
    script.write_text(f"import os\nfor _ in 'ab': os.system({ask!r})\n")
    both = [
        subprocess.run(
            [sys.executable, str(script), "repro"], check=True, capture_output=True, text=True
        ).stdout.split()
        for _ in range(2)
    ]
    assert [len(set(names)) for names in both] == [1, 1]
    assert both[0] != both[1]
    assert both[0][0].startswith("repro-")


def test_a_group_is_named_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDE_GROUP", "sweep-7")
    assert find_group() == "sweep-7"
    monkeypatch.setenv("MDE_GROUP", "it's mine")
    with pytest.raises(InputError, match="MDE_GROUP"):
        find_group()


def test_what_waits_besides_numbers_keeps_a_run_unsettled(tmp_path: Path) -> None:
    folder = RunFolder(open_storage(tmp_path))
    commit = "mlflow.source.git.commit"
    folder.begin("toy", {}, {commit: "a"}, files={"params.yaml": b"x: 1"})
    folder.storage.write("pictures/depth/000000040.png", b"png")
    assert folder.waiting_once() == ["code/params.yaml", "pictures/depth/000000040.png"]
    folder.write_delivered(Delivered("id", once=("code/params.yaml",)))
    assert folder.waiting_once() == ["pictures/depth/000000040.png"]
    # Gone on with, with other code.
    again = folder.begin("toy", {}, {commit: "b"}, files={"params.yaml": b"x: 2"})
    assert again.tags == {commit: "a", "mde.resumed_with": "b"}
    assert folder.storage.read("code/params.yaml") == b"x: 1"
    assert "mde.resumed_with=b" in folder.waiting_once()
    folder.forget()
    assert folder.waiting_once() == []
    assert list(tmp_path.iterdir()) == []
