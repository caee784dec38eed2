"""MLflow's server, with users: runs in PostgreSQL, artifacts in a store that it alone may open."""

import sys
from pathlib import Path

import requests

from infra.services.keys import ADMIN, MEMBER, Keys, write_private
from infra.services.object_store import ObjectStore
from infra.services.postgres import ACCOUNTS, OWNER, Postgres
from infra.services.process import HOST, Server
from mde.errors import InputError

ACCOUNT_SETTINGS = """[mlflow]
# Of users for what others have made; all that a user makes is that user's to manage.
default_permission = READ
database_uri = {uri}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
# A password is hashed once in this time, and not at each request; a changed one may stay good so
# long.
auth_cache_ttl_seconds = 60
"""


class TrackingServer:
    """`mlflow server` in front of a database and an object store."""

    def __init__(
        self,
        folder: Path,
        log: Path,
        keys: Keys,
        postgres: Postgres,
        artifacts: ObjectStore,
        port: int,
        workers: int = 1,
    ) -> None:
        self.folder, self.keys, self.postgres, self.port = folder, keys, postgres, port
        self.uri = f"http://{HOST}:{port}"
        self.passwords, self.settings = folder / "pgpass", folder / "basic_auth.ini"
        command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port)]
        command += ["--app-name", "basic-auth", "--workers", str(workers)]
        command += ["--artifacts-destination", f"s3://{artifacts.bucket}"]
        environment = {
            **artifacts.environment,
            "MLFLOW_BACKEND_STORE_URI": postgres.uri,
            # libpq's: no password stands in a URI, and so in no message of anybody.
            "PGPASSFILE": str(self.passwords.absolute()),
            "MLFLOW_AUTH_CONFIG_PATH": str(self.settings.absolute()),
            "MLFLOW_AUTH_ADMIN_USERNAME": ADMIN,
            "MLFLOW_AUTH_ADMIN_PASSWORD": keys.mlflow_admin,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": keys.mlflow_flask,
            # Of judges of chats; without them it is two processes, and not ten.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        self.server = Server("MLflow", command, folder, log, self._answers, environment)

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs to know."""
        return {
            "MLFLOW_TRACKING_URI": self.uri,
            "MLFLOW_TRACKING_USERNAME": MEMBER,
            "MLFLOW_TRACKING_PASSWORD": self.keys.mlflow_member,
        }

    def start(self) -> None:
        """Start it, once the database and the store answer."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(
            self.passwords, f"{HOST}:{self.postgres.port}:*:{OWNER}:{self.keys.postgres}\n"
        )
        settings = ACCOUNT_SETTINGS.format(uri=self.postgres.uri_of(ACCOUNTS))
        write_private(self.settings, settings)
        self.server.start()

    def wait(self) -> None:
        """Wait until it answers, and make the user that trainings are."""
        self.server.wait()
        member = (MEMBER, self.keys.mlflow_member)
        if self._call("GET", "users/current", member).ok:
            return
        admin = (ADMIN, self.keys.mlflow_admin)
        content = {"username": MEMBER, "password": self.keys.mlflow_member}
        made = self._call("POST", "users/create", admin, content)
        if not made.ok:
            raise InputError(
                f"MLflow does not let {ADMIN} make the user {MEMBER} ({made.text[:200]}): one of "
                "their passwords was changed by hand. Put it into keys.json of the services' "
                "folder (mlflow_admin, mlflow_member)"
            )

    def _call(
        self, method: str, name: str, who: tuple[str, str], content: dict[str, str] | None = None
    ) -> requests.Response:
        address = f"{self.uri}/api/2.0/mlflow/{name}"
        return requests.request(method, address, auth=who, json=content, timeout=60)

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.uri}/health", timeout=5).ok
        except requests.RequestException:
            return False
