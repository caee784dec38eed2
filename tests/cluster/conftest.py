"""One Ray of this machine's own for all tests of this folder that a process runs."""

from collections.abc import Iterator

import pytest
import ray

from mde.cluster.session import connect


@pytest.fixture(scope="package", autouse=True)
def ray_session() -> Iterator[None]:
    """Ray; its processes inherit keys for an object store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        connect()
        yield
        ray.shutdown()
