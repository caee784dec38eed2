"""`mde doctor`: examine the environment, and say what to mend."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mde.errors import InputError, explained

if TYPE_CHECKING:
    from mde.doctor.examination import Check, Finding, Scope

STYLES = {"fail": "bold red", "warn": "yellow", "ok": "green"}
PARAMS, ROOT = Path("params.yaml"), Path(".")

Params = Annotated[Path, typer.Option(help="Its sections `cluster` and `run` count.")]
Root = Annotated[Path, typer.Option(envvar="MDE_ROOT", help="Folder of data and results.")]


def doctor(
    params: Params = PARAMS,
    root: Root = ROOT,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show an error's traceback.")] = False,
) -> None:
    """Check libraries, GPUs, Ray, storage, disk, MLflow and DVC; exit code 1 if something fails.

    It joins the Ray of RAY_ADDRESS, or starts one for the check.
    """
    from mde.doctor.examination import worst_first

    with explained(debug):
        findings = worst_first(_examine(_scope(params, root), _checks()))
    failed = sum(finding.state == "fail" for finding in findings)
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        _show(findings, failed)
    raise typer.Exit(int(failed > 0))


def _scope(params: Path, root: Path) -> "Scope":
    from mde.config import load_section
    from mde.doctor.examination import Scope
    from mde.layout import Layout
    from mde.train.checkpoints import RunConfig

    try:
        storage = load_section(params, "run", RunConfig, optional=True).storage
    except InputError:
        # The check of Ray reads the file too, and reports it.
        storage = None
    return Scope(root, params, storage or str(Layout(root.resolve()).checkpoints))


def _checks() -> "list[Check]":
    from mde.cluster.doctor import check_ray
    from mde.doctor import machine_checks, torch_checks
    from mde.doctor.examination import Check

    # The slowest first, as two run at a time.
    return [
        Check("ray", check_ray, 150),
        Check("libraries", machine_checks.check_libraries),
        Check("machine", machine_checks.check_machine),
        Check("disk", machine_checks.check_disk),
        Check("mlflow", machine_checks.check_mlflow, 30),
        Check("tools", machine_checks.check_tools),
        Check("torch", torch_checks.check_torch, 90),
        Check("collectives", torch_checks.check_collectives, 90),
    ]


def _examine(scope: "Scope", checks: "list[Check]") -> "list[Finding]":
    from mde.doctor.examination import Examination

    found: dict[str, list[Finding]] = {}
    examination = Examination(scope)
    with Console(stderr=True).status("looking") as status:
        for check, findings in examination.run(checks):
            found[check.name] = findings
            running = ", ".join(examination.running)
            status.update(f"{len(found)} of {len(checks)} checks done · now {running}")
    return [finding for check in checks for finding in found[check.name]]


def _show(findings: "list[Finding]", failed: int) -> None:
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(max_width=22)
    table.add_column(overflow="fold")
    for finding in findings:
        text = Text(finding.found)
        if finding.todo:
            text.append(f"\n→ {finding.todo}", style="bold")
        table.add_row(Text(finding.state, style=STYLES[finding.state]), Text(finding.name), text)
    console.print(table)
    warned = sum(finding.state == "warn" for finding in findings)
    console.print(f"\n{failed} failed, {warned} to look at, {len(findings) - failed - warned} fine")
