"""A Ray of this machine's own for each module of tests."""

from collections.abc import Iterator

import pytest
import ray

from mde.cluster.session import connect


@pytest.fixture(scope="module", autouse=True)
def ray_session() -> Iterator[None]:
    connect()
    yield
    ray.shutdown()
