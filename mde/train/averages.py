"""Means of loss terms over images, batches and workers: sums and counts, reduced at the end."""

from typing import Any

import torch
from torch import Tensor

from mde.train.context import gather


class Averages:
    """Image-weighted sums of one worker.

    count: images so far.
    """

    def __init__(self) -> None:
        self.totals: dict[str, Tensor] = {}
        self.count = 0

    def add(self, terms: dict[str, Tensor], count: int) -> None:
        """Add terms that are means over `count` images; nothing is read from the device."""
        self.count += count
        for name, value in terms.items():
            total = self.totals.get(name)
            # In double precision, so that the order of workers and a resume change nothing.
            term = value.detach().double() * count
            self.totals[name] = term if total is None else total + term

    def reduced(self) -> dict[str, Any]:
        """Sums over all workers, plain: `{"count": …, "totals": {…}}`; all workers must call it."""
        totals = {name: float(total) for name, total in self.totals.items()}
        parts = gather({"count": self.count, "totals": totals})
        names = sorted({name for part in parts for name in part["totals"]})
        summed = {name: sum(part["totals"].get(name, 0.0) for part in parts) for name in names}
        return {"count": sum(part["count"] for part in parts), "totals": summed}

    def restore(self, reduced: dict[str, Any]) -> None:
        """Go on from what `reduced` gave, on one of the workers."""
        self.count = reduced["count"]
        self.totals = {
            name: torch.tensor(total, dtype=torch.float64)
            for name, total in reduced["totals"].items()
        }


def means(reduced: dict[str, Any]) -> dict[str, float]:
    """Means over images of what `Averages.reduced` gave; none when there were no images."""
    return {name: total / reduced["count"] for name, total in reduced["totals"].items()}
