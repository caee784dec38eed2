"""A team's MLflow server, from PyPI packages: PostgreSQL, an S3-compatible store, users.

`python -m infra.services` starts it; `docs/services.md` has the rest.
"""

from infra.services.services import Services

__all__ = ["Services"]
