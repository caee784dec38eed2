"""The order of an epoch, of which any stretch can be had without the rest.

Row groups are permuted over the whole dataset and dealt to lanes: each goes on where the shortest
lane ends. Each group's rows are permuted, and the lanes take turns.

Held are 4 bytes for each row group and 80 for each one that is shorter than the others, such as the
last one of a shard. Rows are worked out where they are asked for: a billion of them need no memory,
and a run goes on from the middle of an epoch as fast as from its start.
"""

import bisect
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mde.data.shards import Shard

LANES = 8
"""Row groups that are mixed with each other: 128 rows."""

Ints = NDArray[np.int64]


class Epoch:
    """Every row once, a function of seed and epoch: `epoch[start:stop]` is (n,3) int64.

    Its columns are shard index, row group, row in the group. seed None keeps the stored order.
    """

    def __init__(
        self, shards: list[Shard], rows_per_group: int, seed: int | None, epoch: int
    ) -> None:
        self._size = rows_per_group
        self._rows = np.array([shard.rows for shard in shards], np.int64)
        groups = np.array([shard.row_groups for shard in shards], np.int64)
        self._row_ends, self._group_ends = np.cumsum(self._rows), np.cumsum(groups)
        self._first_row, self._first_group = self._row_ends - self._rows, self._group_ends - groups
        self._lanes: _Lanes | None = None
        if seed is None or not len(self):
            return
        rng, count = np.random.default_rng([seed, epoch]), int(groups.sum())
        # Numbers of row groups, shard after shard. The type changes nothing of the permutation.
        self._groups = np.arange(count, dtype=np.int32 if count < 2**31 else np.int64)
        rng.shuffle(self._groups)
        self._state: Any = rng.bit_generator.state
        self._lanes = _Lanes(count, rows_per_group, *self._find_short())

    def __len__(self) -> int:
        return int(self._rows.sum())

    def __getitem__(self, stretch: slice) -> Ints:
        start, stop, _ = stretch.indices(len(self))
        if self._lanes is None:
            return self._stored(np.arange(start, stop))
        if start >= stop:
            return np.empty((0, 3), np.int64)
        low, high = self._lanes.find_turns(start, stop)
        places = self._lanes.find_places(low, high)
        shard, group, sizes = self._look_up(places)
        of = np.repeat(np.arange(len(places)), sizes)
        turn = np.arange(len(of)) - (np.cumsum(sizes) - sizes)[of]
        chance = self._random(self._lanes.rows_before_place(int(places[0])), len(of))
        # Sorted by chance within each group: a permutation of its rows.
        row = turn[np.lexsort((chance, of))]
        lane, begin = self._lanes.deal(places)
        at = begin[of] + turn
        inside = np.flatnonzero((at >= low) & (at < high))
        taken = inside[np.lexsort((lane[of[inside]], at[inside]))]
        skipped = start - self._lanes.rows_before_turn(low)
        taken = taken[skipped : skipped + stop - start]
        return np.column_stack([shard[of[taken]], group[of[taken]], row[taken]])

    def _find_short(self) -> tuple[Ints, Ints]:
        """Places in the permutation of the groups that are not full, and their rows."""
        last = (self._rows - 1) % self._size + 1
        is_short = np.zeros(len(self._groups), bool)
        is_short[self._group_ends[(self._rows > 0) & (last < self._size)] - 1] = True
        places = np.flatnonzero(is_short[self._groups])
        return places, self._look_up(places)[2]

    def _look_up(self, places: Ints) -> tuple[Ints, Ints, Ints]:
        """Shard index, number in the shard and rows of the groups at places of the permutation."""
        number = self._groups[places].astype(np.int64)
        shard = np.searchsorted(self._group_ends, number, "right")
        group = number - self._first_group[shard]
        return shard, group, np.minimum(self._size, self._rows[shard] - group * self._size)

    def _random(self, skipped: int, count: int) -> NDArray[np.float64]:
        """One number for each row in the order of the permutation; the generator jumps there."""
        generator = np.random.PCG64()
        generator.state = self._state
        generator.advance(skipped)
        return np.random.Generator(generator).random(count)

    def _stored(self, rows: Ints) -> Ints:
        shard = np.searchsorted(self._row_ends, rows, "right")
        group, row = np.divmod(rows - self._first_row[shard], self._size)
        return np.column_stack([shard, group, row])


class _Lanes:
    """Where each group of a permutation begins, and in which lane.

    Groups of full size go to the lanes in turn, and only one that is shorter changes whose turn it
    is. So kept is how the lanes end before the first group, and after each short one; what lies
    between follows. A turn is a place in a lane: of all lanes that are long enough, one after the
    other gives the row that stands there.
    """

    def __init__(self, groups: int, size: int, short: Ints, sizes: Ints) -> None:
        self._num_groups, self._size = groups, size
        self._starts = np.concatenate([[0], short + 1])
        self._missing = np.concatenate([[0], np.cumsum(size - sizes)])
        # A lane and where it ends as one number, which sorts as the lanes come to their turns.
        self._ends = np.empty((len(self._starts), LANES), np.int64)
        ends, start = list(range(LANES)), 0
        for i, (place, rows) in enumerate(zip(short.tolist(), sizes.tolist(), strict=True)):
            self._ends[i] = ends
            shortest, *ends = self._go_on(ends, place - start)
            bisect.insort(ends, shortest + rows * LANES)
            start = place + 1
        self._ends[-1] = ends
        self._lengths = [end // LANES for end in self._go_on(ends, groups - start)]

    def _go_on(self, ends: list[int], groups: int) -> list[int]:
        """Ends of the lanes, the shortest first, after so many more full groups."""
        rounds, more = divmod(groups, LANES)
        rows = rounds * self._size * LANES
        rest = [end + rows for end in ends[more:]]
        return rest + [end + rows + self._size * LANES for end in ends[:more]]

    def deal(self, places: Ints) -> tuple[Ints, Ints]:
        """The lanes of the groups at these places, and where in them they begin."""
        part = np.searchsorted(self._starts, places, "right") - 1
        rounds, turn = np.divmod(places - self._starts[part], LANES)
        end, lane = np.divmod(self._ends[part, turn], LANES)
        return lane, end + rounds * self._size

    def find_turns(self, start: int, stop: int) -> tuple[int, int]:
        """The turns, from and to, in which the rows `start` to `stop` of the epoch are given."""
        turns = range(max(self._lengths) + 1)
        low = bisect.bisect_right(turns, start, key=self.rows_before_turn) - 1
        return low, bisect.bisect_left(turns, stop, key=self.rows_before_turn)

    def find_places(self, low: int, high: int) -> Ints:
        """The groups that have rows in these turns, and perhaps some more."""
        # Groups begin one after the other, in the order of their places.
        places, begin = range(self._num_groups), lambda place: self.deal(np.array([place]))[1][0]
        first = bisect.bisect_right(places, low - self._size, key=begin)
        return np.arange(first, bisect.bisect_left(places, high, key=begin))

    def rows_before_turn(self, turn: int) -> int:
        """Rows of the epoch that are given before a turn."""
        return sum(min(turn, length) for length in self._lengths)

    def rows_before_place(self, place: int) -> int:
        """Rows of the groups that come earlier in the permutation."""
        part = np.searchsorted(self._starts, place, "right") - 1
        return int(place * self._size - self._missing[part])
