"""The tables of `docs/scaling.md` are those that the measured results give."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import needs, scaling
from mde.data.shards import ROWS_PER_GROUP

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/scaling.md").read_text()


@pytest.fixture
def measured() -> needs.Measured:
    """Round numbers."""
    return needs.Measured(
        raw_bytes=800e3, frame_bytes=100e3, store_ms=10, decode_ms=2, feed_overhead=1.5,
        ray_overhead=1.2, plan_s=1e-6, driver_bytes=1000, manifest_bytes=250, shards=10**6,
    )  # fmt: skip


def need(measured: needs.Measured) -> needs.Need:
    return needs.Need("", 1_600_000, 1024, 2, 8, False, measured)


@pytest.mark.parametrize("name", ["inputs", "needs", "metadata", "rows", "gpus"])
def test_the_page_has_the_table_that_is_printed(name: str) -> None:
    found = scaling.tables(ROOT / "benchmarks/results")
    assert f"<!-- table: {name} -->\n\n{found[name]}\n\n" in PAGE, (
        "python -m benchmarks.scaling --update"
    )


def test_the_page_has_no_other_tables_and_filling_it_again_changes_nothing() -> None:
    found = scaling.tables(ROOT / "benchmarks/results")
    assert re.findall(r"<!-- table: (\w+) -->", PAGE) == ["inputs", "needs", "rows", "gpus",
                                                           "metadata"]  # fmt: skip
    assert scaling.fill(PAGE, found) == PAGE


def test_needs_grow_as_they_should(measured: needs.Measured) -> None:
    one = need(measured)
    assert needs.GROUP == ROWS_PER_GROUP
    assert one.row_bytes == 300e3
    assert one.stored_bytes == 480e9
    assert one.requests == 1_600_000 / 16 * 5
    assert replace(one, footers_kept=True).requests == 1_600_000 / 16 * 2
    # 3 frames of 10 ms, and Ray's share.
    assert one.conversion_hours == pytest.approx(1_600_000 * 0.030 * 1.2 / 3600)
    assert one.decode_ms == pytest.approx(9)
    assert one.epoch_s == pytest.approx(1_600_000 / (8 * 231))


def test_costs_are_of_all_epochs_and_of_all_gpus(measured: needs.Measured) -> None:
    one = need(measured)
    conversion, storage, gpus, requests = one.costs()
    assert conversion == pytest.approx(one.conversion_hours * 0.05)
    assert storage == pytest.approx(0.48 * 23)
    assert gpus == pytest.approx(2 * 1_600_000 / 231 / 3600 * 3)
    assert requests == pytest.approx(2 * 0.5 * 0.4)
    # The same epochs on more GPUs cost as much, in less time.
    assert replace(one, gpus=16).costs() == pytest.approx(one.costs())


def test_what_ends_first_comes_first(measured: needs.Measured) -> None:
    ends = [at for at, _ in scaling.saturations(measured)]
    assert ends == sorted(ends)
    heavier = replace(measured, driver_bytes=1e6)
    assert "driver" in scaling.saturations(heavier)[0][1][1]


def test_a_column_has_a_cell_for_each_row(measured: needs.Measured) -> None:
    assert len(need(measured).column()) == len(needs.ROWS)


@pytest.mark.parametrize(
    ("value", "shown"), [(18.24e9, "18.2 GB"), (4.58e14, "458 TB"), (12, "12 B")]
)
def test_amounts_have_three_digits(value: float, shown: str) -> None:
    assert needs.amount(value, "B") == shown


def test_spans_are_in_the_unit_that_fits() -> None:
    assert [needs.span(s) for s in (30, 600, 7200 * 2, 86400 * 3)] == [
        "30.0 s", "10.0 min", "4.0 h", "3.0 d",
    ]  # fmt: skip
