"""The folder in which a Ray job does its `dvc repro`: the job's own copy of the code goes away.

The code that the job brings takes the place of the code there; data, models, `dvc.lock` and all
other results stay, so that the next job goes on from them.
"""

import configparser
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from mde.cluster.security import job_config
from mde.errors import InputError
from mde.files import fresh_folder, write_bytes
from mde.provenance import git_commit
from mde.storage import FolderStorage
from mde.tracking.lease import Lease

CODE = ("mde", "pipelines", "dvc.yaml", "params.yaml", ".dvcignore", ".dvc/config")
"""What is taken from the job, file or folder; `.rayignore` lets it into the job."""
MARK = ".job"
"""Folder of a root whose code comes from jobs; holds the claim of the job that works there."""
STOP_S = "RAY_JOB_STOP_WAIT_TIME_S"
"""Environment of the nodes: so long after it has asked a job to stop, Ray kills it."""


@contextmanager
def job_folder(source: Path, root: Path) -> Iterator[None]:
    """Have `root` for this process alone while the block runs, with the code of `source`.

    Raises InputError when another job works there, or when something of somebody else's would be
    overwritten. SIGTERM leaves the block with SystemExit.
    """
    former = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        _check(source, root)
        lease = Lease(FolderStorage(root / MARK), f"{socket.gethostname()}-{os.getpid()}", _name())
        if (owner := lease.acquire()) is not None:
            raise InputError(
                f"{root}: {owner} works there; wait for it, end it with ray job stop, or name "
                "another folder with MDE_ROOT"
            )
        try:
            # Whoever had it is gone: DVC would look for its process id, on another machine.
            (root / ".dvc/tmp/rwlock").unlink(missing_ok=True)
            put_code(source, root)
            yield
        finally:
            lease.release()
    finally:
        signal.signal(signal.SIGTERM, former)


def put_code(source: Path, root: Path) -> None:
    """Let the code and the configuration of `source` take the place of those in `root`.

    A folder is exchanged as a whole, so no module of older code remains. `root` gets the DVC
    configuration of `source`, for work without git, and its `dvc.lock` where it has none.
    """
    for name in CODE[:-1]:
        if (source / name).is_dir():
            with fresh_folder(root / name) as folder:
                ignore = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source / name, folder, ignore=ignore, dirs_exist_ok=True)
        else:
            write_bytes(root / name, (source / name).read_bytes())
    config = configparser.ConfigParser(interpolation=None)
    config.read_string((source / CODE[-1]).read_text())
    config.read_dict({"core": {"no_scm": "true"}})
    text = io.StringIO()
    config.write(text)
    write_bytes(root / CODE[-1], text.getvalue().encode())
    if (source / "dvc.lock").is_file() and not (root / "dvc.lock").exists():
        write_bytes(root / "dvc.lock", (source / "dvc.lock").read_bytes())


def run_dvc(root: Path, *arguments: str) -> int:
    """Run `dvc` in `root`, with this process's output; returns its exit code.

    When the wait is ended, by a signal, DVC and the stage that it runs are ended too.
    """
    environment = {
        **os.environ,
        # Stages are `python -m …`: with the Python that has the libraries.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "MDE_ROOT": str(root),
        "DVC_NO_ANALYTICS": "1",
        # A repository that the root happens to lie in is not that of the code.
        "GIT_CEILING_DIRECTORIES": str(root),
    }
    if (commit := git_commit()) != "unknown":
        environment["MDE_GIT_COMMIT"] = commit
    # In the group of this process: when Ray itself dies, all of it is killed.
    dvc = subprocess.Popen([sys.executable, "-m", "dvc", *arguments], cwd=root, env=environment)
    try:
        return dvc.wait()
    finally:
        _end(dvc)


def has_remote(root: Path) -> bool:
    """Whether DVC knows where to push to and to pull from."""
    config = configparser.ConfigParser(strict=False, interpolation=None)
    config.read([root / ".dvc/config", root / ".dvc/config.local"])
    return config.has_option("core", "remote")


def _check(source: Path, root: Path) -> None:
    """Raises InputError unless `root` is a folder that the code of `source` may be put into."""
    if source.resolve() == root.resolve():
        raise InputError(
            f"MDE_ROOT: found {root}, the folder of the code, which goes away with the job; name "
            "a folder that all nodes see (outside a job, dvc repro does it)"
        )
    if not root.is_absolute():
        raise InputError(f"MDE_ROOT: found {root}, expected an absolute path, which all nodes see")
    if missing := [name for name in CODE if not (source / name).exists()]:
        raise InputError(
            f"the job's working folder lacks {', '.join(missing)}; submit with --working-dir at "
            "the top of the repository, and let them in in .rayignore"
        )
    if (root / ".git").exists():
        raise InputError(
            f"{root}: is a checkout, whose code would be overwritten; name another folder with "
            "MDE_ROOT, or run dvc repro there with RAY_ADDRESS"
        )
    try:
        root.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"MDE_ROOT: {root} cannot be made: {error.strerror}") from error
    foreign = [name for name in CODE if (root / name).exists()]
    if foreign and not (root / MARK).is_dir():
        raise InputError(
            f"{root}: {', '.join(foreign)} was not put there by a job, and would be overwritten; "
            "move it away, or name another folder with MDE_ROOT"
        )


def _name() -> str:
    """This job or process, for people."""
    process = f"process {os.getpid()} on {socket.gethostname()}"
    job = (job_config().get("metadata") or {}).get("job_submission_id")
    return f"job {job} ({process})" if job else process


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that still runs, and all that it has started."""
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process.pid)
        family = [parent, *parent.children(recursive=True)]
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.terminate()
        # The other half is for giving the folder back.
        _, alive = psutil.wait_procs(family, float(os.environ.get(STOP_S) or 3) / 2)
        for member in alive:
            with suppress(psutil.NoSuchProcess):
                member.kill()
    process.wait()
