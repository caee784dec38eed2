"""The sides of `benchmarks.metadata` do what training does, at a size that is over at once."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import typer

from benchmarks import frame_costs, metadata
from benchmarks.timing import alone
from mde.data.shards import read_manifest


def test_every_side_counts_what_it_has_handled(tmp_path: Path) -> None:
    groups = 40 * metadata.ROWS // metadata.ROWS_PER_GROUP
    assert metadata.write_side(tmp_path, 40)["samples"] == 40
    assert read_manifest(tmp_path).counts["train"] == 40 * metadata.ROWS
    assert metadata.read_side(tmp_path, 40)["samples"] == 40
    assert metadata.json_side(tmp_path, 40)["samples"] == 40
    assert metadata.epoch_side(40)["samples"] == metadata.permutation_side(40)["samples"] == groups
    assert metadata.worker_side(tmp_path, 40)["samples"] == 40


def test_memory_of_a_side_is_what_it_adds() -> None:
    # 8 bytes for each of 6.4 million row groups.
    assert 45 <= alone(metadata.permutation_side, 100_000)["peak_mib"] <= 80


def test_the_bounds_are_those_of_a_start() -> None:
    run = {"cpu_ms_per_sample": 1000.0, "samples": 30, "peak_mib": 3000.0}
    found = metadata.figures_of({"driver": [run], "worker": [run], "read_manifest": [run]}, 10)
    assert {figure.name: figure.met for figure in found} == {
        "manifest": None,
        "driver: CPU": True,
        "driver: memory": True,
        "worker: CPU": True,
        "worker: memory": False,
        "read_manifest: CPU": None,
        "read_manifest: memory": None,
    }


def test_a_frame_is_stored_and_decoded_at_a_size() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    file = cv2.imencode(".png", noise)[1].tobytes()
    found = frame_costs.measure_size([file] * 3, (20, 30), 1)
    figures = {figure["name"]: figure["value"] for figure in found["figures"]}
    assert figures["raw file"] == len(file)
    assert 0 < figures["stored"] < len(file)
    assert found["settings"] == {"frames": 3, "height": 20, "width": 30}


def test_a_folder_without_frames_is_told(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="no PNG files"):
        frame_costs.main(tmp_path)
