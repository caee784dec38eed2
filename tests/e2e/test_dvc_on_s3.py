"""DVC with an S3 server that is not Amazon's: raw data as a dependency, and its own remote."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mde.storage import open_storage
from tests.s3 import S3Server

pytestmark = pytest.mark.e2e

STAGES = """
stages:
  convert:
    foreach: ${datasets}
    do:
      cmd: echo of ${item.raw} > ${key}.txt
      deps: ["${item.raw}"]
      outs: ["${key}.txt"]
"""


# As `dvc init --no-scm` and `dvc remote add --default` write it.
CONFIG = """
[core]
    no_scm = True
    remote = store
['remote "store"']
    url = s3://mde/dvc
"""


def dvc(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        env={**os.environ, "DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(folder / "site")},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_raw_data_and_the_remote_lie_on_the_same_server(s3: S3Server, tmp_path: Path) -> None:
    raw = open_storage("s3://mde/raw/rooms")
    raw.write("camera.yaml", b"fx: 60")
    raw.write("images/a.png", b"pixels")
    work, clone = tmp_path / "work", tmp_path / "clone"
    work.mkdir()
    (work / "dvc.yaml").write_text(STAGES)
    (work / "params.yaml").write_text("datasets: {rooms: {raw: 's3://mde/raw/rooms'}}\n")
    (work / ".dvc").mkdir()
    (work / ".dvc/config").write_text(CONFIG)
    assert "Running stage 'convert@rooms'" in dvc(work, "repro")
    dvc(work, "push")
    shutil.copytree(work, clone, ignore=shutil.ignore_patterns("cache", "tmp", "site", "*.txt"))
    dvc(clone, "pull")
    assert (clone / "rooms.txt").read_text() == "of s3://mde/raw/rooms\n"
    raw.write("camera.yaml", b"fx: 61")
    assert "s3://mde/raw/rooms" in dvc(clone, "status")
    kept = [path.read_bytes() for path in (work / ".dvc").rglob("*") if path.is_file()]
    secret = s3.environment["AWS_SECRET_ACCESS_KEY"].encode()
    assert kept
    assert not [content for content in kept if secret in content]
