"""Sides that take turns, so that a machine whose speed varies is fair to all of them.

A ratio is taken within a round, of runs that lie seconds apart; absolute times are of a machine
that other programs may use too.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mde.bench.side import Side, SideError, SideProcess, Started
from mde.cost import Cost, p95

RUNS, ROUNDS, FEWEST_ROUNDS = 100, 10, 5
SECONDS = 120.0
Tell = Callable[[str, float], None]
"""Told what is being done, and which share of all is done."""


@dataclass(frozen=True)
class Pace:
    """How often each side runs.

    runs: of each, timed, over ROUNDS rounds. seconds: for all sides' timed runs together; slow ones
    get fewer runs in a round, and then fewer rounds, but FEWEST_ROUNDS of one run at least.
    """

    runs: int = RUNS
    seconds: float = SECONDS


@dataclass(frozen=True)
class Result:
    """What was found of a side.

    rounds: durations in ms. reason: why there is nothing. ratio: how many times as fast as the
    first side it is, the median over the rounds; low, high: their quartiles. difference: of depth
    from the first side's, mean of |d - d0| / d0 over all pixels of all images.
    """

    side: Side
    cost: Cost | None = None
    started: Started | None = None
    rounds: tuple[tuple[float, ...], ...] = ()
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    difference: float | None = None
    reason: str | None = None


def take_turns(
    sides: Sequence[Side], images: NDArray[np.uint8], pace: Pace, tell: Tell
) -> list[Result]:
    """Measure sides against the first one; one that fails is a result with its reason.

    images: (N,H,W,3) uint8 RGB; the first one is timed, depths of all are compared.
    """
    racers: list[_Racer] = []
    try:
        for number, side in enumerate(sides):
            tell(f"{side.label}: starting {side.mode.name}", number / len(sides) / 2)
            racers.append(_Racer(side))
            racers[-1].start(images)
        _run_rounds([one for one in racers if not one.reason], pace, tell)
    finally:
        for one in racers:
            one.process.close()
    tell(f"{sides[0].label}: measured", 1.0)
    return [one.result(racers[0]) for one in racers]


def _run_rounds(racers: list["_Racer"], pace: Pace, tell: Tell) -> None:
    per_round, rounds = plan(pace, [one.started.run_ms for one in racers if one.started])
    begun = time.perf_counter()
    for number in range(rounds):
        if number >= FEWEST_ROUNDS and time.perf_counter() - begun > pace.seconds:
            break
        # Back and forth: what speeds up or slows down in a round favours nobody.
        for one in racers[:: -1 if number % 2 else 1]:
            tell(f"{one.side.label}: round {number + 1} of {rounds}", (1 + number / rounds) / 2)
            one.turn(per_round)


def plan(pace: Pace, run_ms: list[float]) -> tuple[int, int]:
    """Timed runs of a side in a round, and rounds, of sides whose runs last so long."""
    rounds = max(1, min(ROUNDS, pace.runs))
    # Each turn has one run more, which is not counted.
    affordable = int(1e3 * pace.seconds / rounds / max(sum(run_ms), 1e-3)) - 1
    return max(1, min(-(-pace.runs // rounds), affordable)), rounds


class _Racer:
    """A side in its process, and what has been found of it so far."""

    def __init__(self, side: Side) -> None:
        self.side, self.process = side, SideProcess(side)
        self.started: Started | None = None
        self.rounds: list[list[float]] = []
        self.reason: str | None = None

    def start(self, images: NDArray[np.uint8]) -> None:
        try:
            self.started = self.process.start(images)
        except SideError as error:
            self.reason = str(error)

    def turn(self, runs: int) -> None:
        if self.reason:
            return
        try:
            self.rounds.append(self.process.turn(runs))
        except SideError as error:
            self.reason = str(error)

    def result(self, first: "_Racer") -> Result:
        if self.reason or not self.started:
            return Result(self.side, reason=self.reason)
        kept = tuple(map(tuple, self.rounds))
        cost = self._cost(self.started, first.started)
        if first.reason or not first.started:
            return Result(self.side, cost, self.started, kept)
        ratios = [
            statistics.median(theirs) / statistics.median(ours)
            for theirs, ours in zip(first.rounds, self.rounds, strict=True)
        ]
        low, ratio, high = (float(value) for value in np.percentile(ratios, [25, 50, 75]))
        apart = np.abs(self.started.depths - first.started.depths) / first.started.depths
        return Result(self.side, cost, self.started, kept, ratio, low, high, float(apart.mean()))

    def _cost(self, started: Started, first: Started | None) -> Cost:
        times = [run for turn in self.rounds for run in turn]
        # A compiled network, or a file, does not show them.
        counts = started.counts or (first.counts if first else {})
        return Cost(
            device=started.device,
            threads=self.side.threads,
            height=self.side.size[0],
            width=self.side.size[1],
            parameters=counts.get("parameters", 0),
            macs=counts.get("macs", 0),
            runs=len(times),
            median_ms=statistics.median(times),
            p95_ms=p95(times),
            **started.memory,
        )
