"""One Ray of this machine's own for all tests of this folder that a process runs."""

import os
from collections.abc import Iterator
from unittest.mock import patch

import pytest
import ray

from mde.cluster.session import connect


@pytest.fixture(scope="package", autouse=True)
def ray_session() -> Iterator[None]:
    """Ray, with keys for an object store; it leaves no settings to the tests that follow."""
    with patch.dict(os.environ, AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test"):
        connect()
        yield
        ray.shutdown()
