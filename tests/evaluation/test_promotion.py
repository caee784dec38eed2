"""The gate: better on the same images, by more than chance."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mde.config import parse_section
from mde.errors import InputError
from mde.promotion import NotComparableError, PromotionConfig, compare, read_per_image

CONFIG = PromotionConfig()


def errors(mean: float, noise: float = 0.02, images: int = 200, seed: int = 0) -> dict[str, float]:
    """Of images of which some are harder than others; exactly `mean` on average."""
    random = np.random.default_rng(seed)
    hardness = 1 + 0.5 * np.sin(np.arange(images)) + noise * random.standard_normal(images)
    values = mean * hardness / hardness.mean()
    return {f"image-{number}": float(value) for number, value in enumerate(values)}


def test_a_small_gain_on_every_image_is_promoted_although_images_differ_by_far_more() -> None:
    verdict = compare(errors(0.196), errors(0.2), CONFIG, "version 3")
    assert verdict.promoted
    assert verdict.improvement == pytest.approx(0.02)
    assert verdict.images == 200
    assert verdict.reason.startswith(
        "abs_rel 0.1960, champion (version 3) 0.2000: better by 2.0 % (95 % bounds +"
    )


def test_a_worse_one_is_not_promoted_and_the_reason_says_by_how_much() -> None:
    verdict = compare(errors(0.23), errors(0.2, seed=1), CONFIG, "version 3")
    assert not verdict.promoted
    assert "worse by 15.0 % (95 % bounds -15." in verdict.reason


def test_a_gain_within_chance_is_not_promoted() -> None:
    verdict = compare(errors(0.1995, 0.3), errors(0.2, 0.3, seed=1), CONFIG, "version 3")
    assert verdict.improvement
    assert verdict.improvement > 0
    assert not verdict.promoted
    assert "better by 0.3 %, not surely by 0 %" in verdict.reason


def test_the_same_model_is_not_promoted_over_itself() -> None:
    verdict = compare(errors(0.2), errors(0.2), CONFIG, "version 3")
    assert not verdict.promoted
    assert "as good" in verdict.reason


def test_a_margin_asks_for_more() -> None:
    new, old = errors(0.196), errors(0.2, seed=1)
    assert compare(new, old, PromotionConfig(margin=0.01), "version 3").promoted
    refused = compare(new, old, PromotionConfig(margin=0.05), "version 3")
    assert not refused.promoted
    assert "better by 2.0 %, not surely by 5 %" in refused.reason


def test_of_a_share_of_good_pixels_more_is_better() -> None:
    config = PromotionConfig(metric="a1")
    assert compare(errors(0.9), errors(0.8), config, "version 3").promoted
    assert not compare(errors(0.8), errors(0.9), config, "version 3").promoted


def test_the_bounds_cover_the_true_gain_as_often_as_they_promise() -> None:
    config, random, below = PromotionConfig(resamples=1000), np.random.default_rng(5), 0
    for _ in range(200):
        gains = random.exponential(1.0, 60) - 1
        old = {f"image-{n}": 10.0 for n in range(60)}
        new = {name: 10.0 - gain for name, gain in zip(old, gains, strict=True)}
        verdict = compare(new, old, config, "version 3")
        assert verdict.bounds
        below += verdict.bounds[0] > 0
    # No true gain: promoted by chance about once in twenty times.
    assert below <= 20


def test_the_order_of_the_images_does_not_matter_and_chance_is_fixed() -> None:
    new, old = errors(0.19), errors(0.2, seed=1)
    shuffled = dict(reversed(old.items()))
    assert compare(new, shuffled, CONFIG, "version 3") == compare(new, old, CONFIG, "version 3")


def test_a_champion_without_any_error_can_be_met() -> None:
    perfect = dict.fromkeys(errors(0.2), 0.0)
    assert not compare(perfect, perfect, CONFIG, "version 3").promoted
    assert not compare(errors(0.2), perfect, CONFIG, "version 3").promoted


@pytest.mark.parametrize(
    ("new", "old", "message"),
    [
        ({"a": 1.0, "b": 1.0}, {"a": 1.0, "c": 1.0}, "2 images are scored for one of the two only"),
        ({}, {}, "no image is scored"),
        ({"a": float("nan")}, {"a": 1.0}, "abs_rel of 1 images is no number, as of a"),
        ({"a": 1.0}, {"a": float("inf")}, "abs_rel of 1 images is no number, as of a"),
    ],
)
def test_what_is_not_of_the_same_images_is_not_compared(
    new: dict[str, float], old: dict[str, float], message: str
) -> None:
    with pytest.raises(NotComparableError, match=message):
        compare(new, old, CONFIG, "version 3")


def write_table(path: Path, about: object, **columns: object) -> Path:
    rows = {"sample_id": ["a", "b"], "skipped": [None, "no depth"], "abs_rel": [0.5, None]}
    table = pa.table({**rows, **columns}).replace_schema_metadata({"mde": json.dumps(about)})
    pq.write_table(table, path)
    return path


def test_a_table_gives_the_scored_images_of_its_own_test_set_only(tmp_path: Path) -> None:
    about = {"protocol": "nyu@1", "test_sha256": "cd"}
    path = write_table(tmp_path / "table.parquet", about)
    assert read_per_image(path, "abs_rel", "nyu@1", "cd") == {"a": 0.5}
    for protocol, sha256, metric, message in (
        ("nyu@2", "cd", "abs_rel", "its protocol is nyu@1, expected nyu@2"),
        ("nyu@1", "ef", "abs_rel", "its test_sha256 is cd, expected ef"),
        ("nyu@1", "cd", "rmse", "it cannot be read.*rmse"),
    ):
        with pytest.raises(NotComparableError, match=f"(?s){message}"):
            read_per_image(path, metric, protocol, sha256)
    write_table(path, about, sample_id=["a", "a"], skipped=pa.nulls(2), abs_rel=[0.5, 0.5])
    with pytest.raises(NotComparableError, match="1 images are in it more than once"):
        read_per_image(path, "abs_rel", "nyu@1", "cd")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(NotComparableError, match="it cannot be read"):
        read_per_image(path, "abs_rel", "nyu@1", "cd")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"metric": "accuracy"}, "metric must be one of abs_rel, "),
        ({"margin": -0.1}, "margin must be at least 0 and below 1"),
        ({"margin": "1 %"}, "margin: .*number"),
        ({"confidence": 95.0}, "confidence must be at least 0.5, below 1"),
        ({"resamples": 10}, "resamples must be 1000 to 1000000"),
        ({"margins": 0.1}, "unknown key 'margins'; did you mean 'margin'"),
    ],
)
def test_a_wrong_setting_is_named(section: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=rf"params.yaml: promotion.*{message}"):
        parse_section(Path("params.yaml"), "promotion", section, PromotionConfig)
