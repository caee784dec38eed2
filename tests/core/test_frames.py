"""Splits by ratio, leaks between splits, and the limit on rejected frames."""

import pytest

from mde.data.frames import (
    Frame,
    Rejected,
    check_leaks,
    check_ratios,
    check_rejected,
    split_by_ratio,
)
from mde.errors import InputError


def frame(name: str, split: str, scene: str) -> Frame:
    return Frame(name, split, scene, {})


@pytest.mark.parametrize(
    ("count", "ratios", "expected"),
    [
        # The splits of the two published re-implementations on NYUv2's 1449 labeled images.
        (1449, (0.8, 0.1, 0.1), {"train": 1159, "val": 145, "test": 145}),
        (1449, (0.95, 0.0, 0.05), {"train": 1377, "test": 72}),
        (3, (1.0, 0.0, 0.0), {"train": 3}),
    ],
)
def test_ratios_give_these_counts(count: int, ratios: tuple, expected: dict):
    splits = split_by_ratio([f"{i:05d}" for i in range(count)], ratios, 0)
    assert {split: splits.count(split) for split in set(splits)} == expected


def test_groups_stay_whole_and_the_seed_decides_which_goes_where():
    groups = [f"scene_{i // 7}" for i in range(140)]
    splits = split_by_ratio(groups, (0.5, 0.25, 0.25), 0)
    where = dict(zip(groups, splits, strict=True))
    assert [where[group] for group in groups] == splits
    assert sorted(where.values()) == ["test"] * 5 + ["train"] * 10 + ["val"] * 5
    assert split_by_ratio(groups, (0.5, 0.25, 0.25), 0) == splits
    assert split_by_ratio(groups, (0.5, 0.25, 0.25), 1) != splits


def test_the_split_of_a_group_does_not_depend_on_the_order_of_the_items():
    groups = [f"scene_{i}" for i in range(20)]
    forward = dict(zip(groups, split_by_ratio(groups, (0.6, 0.2, 0.2), 3), strict=True))
    backward = dict(
        zip(groups[::-1], split_by_ratio(groups[::-1], (0.6, 0.2, 0.2), 3), strict=True)
    )
    assert forward == backward


@pytest.mark.parametrize("ratios", [(0.5, 0.5), (0.5, 0.2, 0.2), (1.2, -0.1, -0.1)])
def test_ratios_that_are_no_shares_are_refused(ratios: tuple):
    with pytest.raises(ValueError, match="ratios are the shares of train, val and test"):
        check_ratios(ratios)


def test_a_scene_in_train_and_test_is_refused_by_name_unless_allowed():
    frames = [frame("a", "train", "kitchen"), frame("b", "test", "kitchen")]
    with pytest.raises(InputError, match=r"1 scenes are in the test split.*kitchen"):
        check_leaks(frames, allow_shared_scenes=False)
    check_leaks(frames, allow_shared_scenes=True)
    # As in KITTI's official lists, validation may share drives with training.
    check_leaks([frame("a", "train", "drive"), frame("b", "val", "drive")], False)


def test_a_frame_twice_and_no_frame_at_all_are_refused():
    twice = [frame("a", "train", "x"), frame("a", "val", "y")]
    with pytest.raises(InputError, match=r"1 frames are listed twice.*: a"):
        check_leaks(twice, allow_shared_scenes=True)
    with pytest.raises(InputError, match="no frame"):
        check_leaks([], allow_shared_scenes=True)


def test_too_many_rejected_frames_are_counted_by_split_and_reason():
    rejected = [Rejected(f"t{i}", "train", "missing file", f"{i}.png: gone") for i in range(7)]
    rejected += [Rejected("v", "val", "no valid depth", "640 zero")]
    check_rejected(rejected, 100, 0.08)
    with pytest.raises(InputError) as error:
        check_rejected(rejected, 100, 0.07)
    message = str(error.value)
    assert "8 of 100 frames cannot be used, max_rejected allows 7.0%" in message
    assert "7 of train: missing file" in message
    assert "1 of val: no valid depth" in message
    assert "t0: 0.png: gone" in message
