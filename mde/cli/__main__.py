"""`python -m mde.cli` is `mde`."""

from mde.cli import app

app()
