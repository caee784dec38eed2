"""`python -m infra.services`: a team's servers, until Ctrl-C; their back-up and its restoring."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from infra.services.backup import back_up, restore, running_postgres
from infra.services.keys import ADMIN, ENVIRONMENT, KEYS
from infra.services.postgres import TRACKING
from infra.services.process import own_environment
from infra.services.services import Ports, Services
from mde.errors import InputError, explained

app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)
FOLDER = Path("services")

Folder = Annotated[Path, typer.Option(help="Keeps all that the servers know.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="On 127.0.0.1; 0: any free one.")]
Debug = Annotated[bool, typer.Option(help="Show the traceback of an error.")]


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    folder: Folder = FOLDER,
    mlflow_port: Port = 5000,
    postgres_port: Port = 5432,
    store_port: Port = 9000,
    artifacts_port: Port = 9001,
    workers: Annotated[int, typer.Option(min=1, help="Processes of MLflow's server.")] = 2,
    debug: Debug = False,
) -> None:
    """Start PostgreSQL, the object stores and MLflow, on this machine alone, until Ctrl-C."""
    context.obj = folder
    if context.invoked_subcommand is not None:
        return
    # As Ctrl-C, so that the servers are ended in their order.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    ports = Ports(mlflow_port, postgres_port, store_port, artifacts_port)
    try:
        with explained(debug):
            print(f"starting in {folder} …", flush=True)
            with Services(folder, ports, workers) as services:
                print(_welcome(services), flush=True)
                services.watch()
    except KeyboardInterrupt:
        print("ended", flush=True)


def _welcome(services: Services) -> str:
    file, store = services.folder / ENVIRONMENT, services.store
    return "\n".join(
        [
            f"MLflow  {services.mlflow.uri}  (user {ADMIN}, its password: {KEYS} in the folder)",
            f"S3      {store.environment['AWS_ENDPOINT_URL']}  bucket {store.bucket}",
            f"to use: set -a; . {file}; set +a",
            "to end: Ctrl-C",
        ]
    )


@app.command()
def backup(context: typer.Context, target: Path, debug: Debug = False) -> None:
    """Copy databases and artifacts to the new folder TARGET; the servers may run meanwhile."""
    with explained(debug):
        print(f"{target}: {back_up(context.obj, target)}")


@app.command("restore")
def restore_command(context: typer.Context, source: Path, debug: Debug = False) -> None:
    """Make new services, in the folder of --folder, from the back-up SOURCE."""
    with explained(debug):
        print(f"{context.obj}: {restore(source, context.obj)}")


@app.command()
def upgrade(context: typer.Context, debug: Debug = False) -> None:
    """Bring the database of stopped services to the installed MLflow; back it up first."""
    with explained(debug), running_postgres(context.obj) as postgres:
        command = [sys.executable, "-m", "mlflow", "db", "upgrade", postgres.uri_of(TRACKING)]
        environment = own_environment() | {"PGPASSWORD": postgres.keys.postgres}
        if subprocess.run(command, env=environment, check=False).returncode != 0:
            raise InputError(f"{context.obj}: MLflow cannot upgrade this database; see above")


if __name__ == "__main__":
    app()
