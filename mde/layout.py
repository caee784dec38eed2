"""Where things lie below the root folder: one place for the names that stages agree on.

On a cluster the root is on storage that all nodes see.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """Paths below `root`."""

    root: Path

    @property
    def checkpoints(self) -> Path:
        """Unfinished runs; a finished one is moved to `model`."""
        return self.root / "checkpoints"

    @property
    def report(self) -> Path:
        """The page with all results."""
        return self.root / "reports" / "index.html"

    def sample(self, name: str) -> Path:
        """Raw files of the built-in sample."""
        return self.root / "data" / "sample" / name

    def mirror(self, dataset: str) -> Path:
        """Raw files that lie in an object store, fetched for the conversion."""
        return self.root / "data" / "mirror" / dataset

    def shards(self, dataset: str) -> Path:
        """A converted dataset."""
        return self.root / "data" / "shards" / dataset

    def model(self, variant: str) -> Path:
        """`checkpoint/` and `run.json` of a trained variant."""
        return self.root / "models" / variant

    def result(self, variant: str) -> Path:
        """`metrics.json`, `per_image.parquet` and `panels/` of an evaluated variant."""
        return self.root / "results" / variant

    def registered(self, variant: str) -> Path:
        """What the registry answered."""
        return self.root / "registered" / f"{variant}.json"

    def variants(self) -> list[str]:
        """Names of the variants that have been evaluated."""
        # Not those that are being written.
        found = (self.root / "results").glob("[!.]*/metrics.json")
        return sorted(path.parent.name for path in found)
