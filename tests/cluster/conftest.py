"""One Ray of this machine's own for all tests of this folder that a process runs."""

import os
from collections.abc import Iterator
from unittest.mock import patch

import pytest
import ray

from mde.cluster.session import connect
from tests.s3 import S3Server, s3_server


@pytest.fixture(scope="package")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server that Ray's processes know from their start."""
    with s3_server(tmp_path_factory.mktemp("s3"), "mde") as server:
        yield server


@pytest.fixture(scope="package", autouse=True)
def ray_session(s3: S3Server) -> Iterator[None]:
    """Ray, with keys for the object store; it leaves no settings to the tests that follow."""
    with patch.dict(os.environ):
        connect()
        yield
        ray.shutdown()
