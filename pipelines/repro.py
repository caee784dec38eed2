"""`dvc repro` inside a Ray job: the job's code, on the data and results of MDE_ROOT."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from mde.cluster.job_folder import has_remote, job_folder, run_dvc
from mde.errors import InputError
from mde.provenance import git_commit
from pipelines._stage import ROOT, Root, run

Targets = Annotated[list[str] | None, typer.Argument(help="Stages, with what they need; or all.")]
Force = Annotated[bool, typer.Option("--force", help="Run stages that have not changed, too.")]
KeepGoing = Annotated[bool, typer.Option("--keep-going", help="Let one failure stop not the rest.")]
Pull = Annotated[bool, typer.Option("--pull", help="Take from DVC's remote what is there.")]
Push = Annotated[bool, typer.Option("--push", help="Afterwards put all into DVC's remote.")]


def main(
    targets: Targets = None,
    root: Root = ROOT,
    force: Force = False,
    keep_going: KeepGoing = False,
    pull: Pull = False,
    push: Push = False,
) -> None:
    """Put the code of the working folder into MDE_ROOT, and run what has changed there."""
    given = {"--force": force, "--keep-going": keep_going, "--pull": pull}
    options = [option for option, wanted in given.items() if wanted]
    if git_commit() == "unknown":
        print(
            "note: the commit of the code is unknown, as MDE_GIT_COMMIT is not set; runs say so",
            file=sys.stderr,
        )
    with job_folder(Path.cwd(), root):
        if (pull or push) and not has_remote(root):
            raise InputError(".dvc/config: DVC has no remote (core.remote) to pull from or push to")
        code = run_dvc(root, "repro", *options, *(targets or []))
        if push and code == 0:
            code = run_dvc(root, "push")
    raise SystemExit(code)


if __name__ == "__main__":
    run(main)
