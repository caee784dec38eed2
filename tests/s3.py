"""A real, durable S3 server for tests: rclone, on a port of its own, with keys of its own."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from infra.services.object_store import ObjectStore
from infra.services.process import free_port


@dataclass(frozen=True)
class S3Server:
    """environment: what a process needs to use it."""

    environment: dict[str, str]

    @property
    def address(self) -> str:
        """host:port."""
        return self.environment["AWS_ENDPOINT_URL"].removeprefix("http://")


@contextmanager
def s3_server(folder: Path, *buckets: str) -> Iterator[S3Server]:
    """A server with these buckets; while it runs, it is the one of this process's environment."""
    for bucket in buckets:
        (folder / "store" / bucket).mkdir(parents=True)
    keys = secrets.token_hex(8), secrets.token_hex(16)
    log = folder / "rclone.log"
    store = ObjectStore("rclone", buckets[0], folder / "store", log, keys, free_port())
    store.start()
    try:
        store.wait()
        with patch.dict(os.environ, store.environment):
            yield S3Server(store.environment)
    finally:
        store.server.stop()
