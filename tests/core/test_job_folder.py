"""What a Ray job takes along, and how its code comes into the folder with the results."""

import json
import zipfile
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import create_package

from mde.cluster.job_folder import CODE, MARK, has_remote, job_folder, put_code
from mde.cluster.security import JOB_CONFIG, note_secrets_of_job
from mde.errors import InputError
from tests.conftest import REPOSITORY


def packed(folder: Path, package: Path) -> set[str]:
    """Names of the files that `ray job submit --working-dir folder` uploads, by Ray's own code."""
    create_package(str(folder), package, include_gitignore=True)
    return set(zipfile.ZipFile(package).namelist())


def test_a_job_takes_the_code_along_and_stays_small(tmp_path: Path) -> None:
    names = packed(REPOSITORY, tmp_path / "package.zip")
    needed = {
        path.relative_to(REPOSITORY).as_posix()
        for folder in ("mde", "pipelines")
        for path in (REPOSITORY / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    more = {name for name in CODE if (REPOSITORY / name).is_file()} | {"requirements.lock"}
    assert needed | more == names - {"dvc.lock"}
    assert (tmp_path / "package.zip").stat().st_size < 2.5e6


def test_a_job_takes_no_data_and_no_key_along(tmp_path: Path) -> None:
    kept = ["mde/errors.py", "pipelines/train.py", "params.yaml", ".dvc/config"]
    left = ["services/environment", ".env", "prod.env", "mde/prod.env", "mlflow.db", "mde/host.pem"]
    left += [".git/config", ".dvc/config.local", ".dvc/cache/ab/cd", ".ssh/id_rsa", "id_rsa"]
    left += ["data/raw/a.png", "models/a/model.safetensors", "tests/test_a.py", "infra/keys.yaml"]
    project = tmp_path / "project"
    for name in [*kept, *left]:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("content")
    for name in (".rayignore", ".gitignore"):
        (project / name).write_bytes((REPOSITORY / name).read_bytes())
    assert packed(project, tmp_path / "package.zip") == set(kept)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A working folder as a job has it."""
    folder = tmp_path / "source"
    for name in ("mde/new.py", "pipelines/stage.py", *CODE[2:]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"new {name}")
    (folder / ".dvc/config").write_text("[core]\n    remote = nas\n    analytics = false\n")
    (folder / "dvc.lock").write_text("new lock")
    return folder


def test_code_is_exchanged_and_results_stay(source: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    results = ["data/shards/a.parquet", "models/a/run.json", "dvc.lock", "mlflow.db"]
    results += [".dvc/config.local", ".dvc/cache/ab/cd", "checkpoints/a/state.json"]
    for name in [*results, "mde/old.py", "mde/old/module.py", "params.yaml", f"{MARK}/claims/x"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("old")
    (source / "mde/__pycache__").mkdir()
    put_code(source, root)
    assert {path.name for path in (root / "mde").iterdir()} == {"new.py"}
    assert (root / "params.yaml").read_text() == "new params.yaml"
    assert all((root / name).read_text() == "old" for name in results)
    assert "no_scm = true" in (root / ".dvc/config").read_text()


def test_a_new_folder_starts_from_the_lock_of_the_commit(source: Path, tmp_path: Path) -> None:
    with job_folder(source, tmp_path / "root"):
        assert (tmp_path / "root/dvc.lock").read_text() == "new lock"
        assert has_remote(tmp_path / "root")
        (tmp_path / "root/dvc.lock").write_text("of this root")
    with job_folder(source, tmp_path / "root"):
        assert (tmp_path / "root/dvc.lock").read_text() == "of this root"


def test_somebody_elses_code_is_not_overwritten(source: Path, tmp_path: Path) -> None:
    for name, message in [
        ("a/.git", "is a checkout"),
        ("b/params.yaml", "params.yaml was not put"),
    ]:
        root = (tmp_path / name).parent
        root.mkdir()
        (tmp_path / name).write_text("mine")
        with pytest.raises(InputError, match=message), job_folder(source, root):
            pass
        assert (tmp_path / name).read_text() == "mine"
        assert len(list(root.iterdir())) == 1


def test_a_folder_that_would_go_away_is_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(source)
    missing = tmp_path / "not mounted" / "root"
    for root, message in [
        (Path("."), "the folder of the code"),
        (Path("results"), "expected an absolute path"),
        (missing, "cannot be made: No such file or directory"),
    ]:
        with pytest.raises(InputError, match=message), job_folder(source, root):
            pass
    (source / "dvc.yaml").unlink()
    with (
        pytest.raises(InputError, match=r"lacks dvc\.yaml; .*\.rayignore"),
        job_folder(source, tmp_path / "root"),
    ):
        pass


def test_secrets_in_a_jobs_runtime_env_are_named_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(JOB_CONFIG, raising=False)
    note_secrets_of_job()
    harmless = {"MDE_ROOT": "/mnt/mde", "RAY_AUTH_TOKEN_PATH": "/run/token", "AWS_REGION": "eu"}
    harmless |= {"MLFLOW_TRACKING_URI": "http://mlflow:5000", "AWS_ENDPOINT_URL": "http://s3:9000"}
    monkeypatch.setenv(JOB_CONFIG, json.dumps({"runtime_env": {"env_vars": harmless}}))
    note_secrets_of_job()
    assert capsys.readouterr().err == ""
    secret = {"AWS_SECRET_ACCESS_KEY": "planted", "MLFLOW_TRACKING_PASSWORD": "planted"}
    secret["MLFLOW_TRACKING_URI"] = "http://me:planted@mlflow:5000"
    monkeypatch.setenv(JOB_CONFIG, json.dumps({"runtime_env": {"env_vars": harmless | secret}}))
    note_secrets_of_job()
    said = capsys.readouterr().err
    assert said.startswith(f"note: {', '.join(sorted(secret))}: in the job's runtime_env")
    assert "planted" not in said
