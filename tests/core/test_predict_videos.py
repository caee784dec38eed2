"""`mde predict` of videos and cameras: every frame at its time, in colours that do not flicker."""

import itertools
import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mde.errors import InputError
from mde.film import SCALE_HEIGHT, color_range, draw_scale, tint
from mde.predict.clips import StreamClip
from mde.predict.inputs import find_inputs
from mde.predict.smoothing import Smoother
from mde.visualize import colorize
from tests.core.predict_data import INFO, Brightness, grey, read_film, run, save, write_video
from tests.core.test_video import set_matrix

LEVELS = [10 * i for i in range(20)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty frames, each brighter by ten levels."""
    return write_video(tmp_path_factory.mktemp("clip") / "a b.mp4", [grey(n) for n in LEVELS])


def maps(out: Path, name: str) -> list[np.ndarray]:
    return [np.load(path) for path in sorted((out / "npy" / name).iterdir())]


def right_half(frame: np.ndarray) -> np.ndarray:
    return frame[: -SCALE_HEIGHT - 8, frame.shape[1] // 2 + 8 : -8].mean((0, 1))


def test_a_film_shows_input_and_depth_beside_each_other(tmp_path: Path, clip: Path) -> None:
    run([clip], tmp_path / "out")
    frames, times = read_film(tmp_path / "out/video/a b.mp4")
    assert len(frames) == 20
    np.testing.assert_allclose(times, np.arange(20) / 10, atol=1e-3)
    assert frames[0].shape == (48 + SCALE_HEIGHT, 128, 3)
    for level, frame in zip(LEVELS, frames, strict=True):
        np.testing.assert_allclose(frame[4:44, 4:60].mean(), level, atol=3)


def test_one_range_of_colours_holds_for_the_whole_clip(tmp_path: Path) -> None:
    """The scene is dark first: a range of the first frame alone would clip all that follows."""
    levels = [0] * 5 + [100] * 5 + [0] * 5
    video = write_video(tmp_path / "v.mp4", [grey(n) for n in levels])
    record = run([video], tmp_path / "out", kinds=("video", "color"))
    frames, _ = read_film(tmp_path / "out/video/v.mp4")
    np.testing.assert_allclose(right_half(frames[0]), right_half(frames[14]), atol=2)
    assert np.abs(right_half(frames[0]) - right_half(frames[7])).max() > 80
    assert record.entries[0].about["colors"] == pytest.approx([1, 11], abs=0.2)
    pictures = [np.asarray(Image.open(p)) for p in sorted((tmp_path / "out/color/v").iterdir())]
    np.testing.assert_allclose(pictures[0], pictures[14], atol=2)
    stated = run([video], tmp_path / "stated", near_far=(2.0, 4.0)).entries[0].about["colors"]
    assert stated == pytest.approx([2, 4])


def test_each_frame_can_be_a_file(tmp_path: Path, clip: Path) -> None:
    record = run([clip], tmp_path / "out", kinds=("npy", "kitti"), max_frames=7)
    for level, depth in zip(LEVELS[:7], maps(tmp_path / "out", "a b"), strict=True):
        assert depth.shape == (48, 64)
        np.testing.assert_allclose(depth, 1 + level / 10, atol=0.25)
    assert record.entries[0].about["frames"] == 7
    assert not (tmp_path / "out/video").exists()


def test_frames_keep_their_times_when_those_are_uneven(tmp_path: Path) -> None:
    times = [0, 0.04, 0.5, 0.54, 2.0]
    video = write_video(tmp_path / "v.mkv", [grey(n) for n in range(5)], times)
    run([video], tmp_path / "out")
    np.testing.assert_allclose(read_film(tmp_path / "out/video/v.mp4")[1], times, atol=2e-3)


def test_odd_sizes_are_made_even_for_the_film_alone(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", [grey(n, (47, 63)) for n in range(3)])
    run([video], tmp_path / "out", kinds=("video", "npy"))
    assert maps(tmp_path / "out", "v")[0].shape == (47, 63)
    height, width = read_film(tmp_path / "out/video/v.mp4")[0][0].shape[:2]
    assert (height % 2, width % 2) == (0, 0)


def test_a_turned_video_is_predicted_upright(tmp_path: Path) -> None:
    image = grey(20)
    image[:, :16] = 150
    video = write_video(tmp_path / "v.mp4", [image] * 3)
    video.write_bytes(set_matrix(video.read_bytes(), (0, 1, -1, 0)))
    run([video], tmp_path / "out", kinds=("npy",))
    depth = maps(tmp_path / "out", "v")[0]
    assert depth.shape == (64, 48)
    np.testing.assert_allclose([depth[:14].mean(), depth[18:].mean()], [16, 3], atol=0.4)


def test_of_a_truncated_video_what_decodes_is_predicted_and_the_loss_reported(
    tmp_path: Path, clip: Path
) -> None:
    data = clip.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    (tmp_path / "empty.mp4").touch()
    record = run([tmp_path / "cut.mp4", tmp_path / "empty.mp4"], tmp_path / "out")
    frames, _ = read_film(tmp_path / "out/video/cut.mp4")
    assert 0 < len(frames) < 20
    reasons = {Path(failure["input"]).name: failure["reason"] for failure in record.failures}
    assert "truncated" in reasons["cut.mp4"]
    assert f"predicted {len(frames)} frames" in reasons["cut.mp4"]
    assert "not a readable video" in reasons["empty.mp4"]


def test_a_stream_is_predicted_frame_by_frame(tmp_path: Path, clip: Path) -> None:
    """A file stands in for the camera: OpenCV reads both through the same object."""
    predictor = Brightness()
    record = run([clip.as_uri().replace("%20", " ")], tmp_path / "out", predictor, max_frames=18)
    assert not record.failures
    frames, times = read_film(tmp_path / "out/video/a_b.mp4")
    assert len(frames) == 18
    assert all(after > before for before, after in itertools.pairwise(times))
    assert set(predictor.batches) == {1}
    # The range is that of the first sixteen.
    assert record.entries[0].about["colors"] == pytest.approx([1, 16], rel=0.05)


def test_a_camera_that_is_not_there_is_an_error() -> None:
    with pytest.raises(InputError, match="webcam:99: no camera or stream is there"):
        StreamClip(find_inputs(["webcam:99"], Path("out")).found[0])
    secret = "http://me:pass@127.0.0.1:9/x.mp4"
    with pytest.raises(InputError, match=r"^http://127\.0\.0\.1:9/x\.mp4: no camera"):
        StreamClip(find_inputs([secret], Path("out")).found[0])


def test_ctrl_c_leaves_a_whole_film_of_what_was_predicted(tmp_path: Path, clip: Path) -> None:
    class Interrupted(Brightness):
        def predict_batch(self, images: np.ndarray) -> np.ndarray:
            if len(self.batches) == 18:
                signal.raise_signal(signal.SIGINT)
            return super().predict_batch(images)

    later = write_video(tmp_path / "z.mp4", [grey(1)] * 3)
    record = run([clip, later], tmp_path / "out", Interrupted())
    assert record.interrupted
    frames, _ = read_film(tmp_path / "out/video/a b.mp4")
    assert 0 < len(frames) == record.entries[0].about["frames"] < 20
    assert [path.name for path in (tmp_path / "out/video").iterdir()] == ["a b.mp4"]
    assert json.loads((tmp_path / "out/predictions.json").read_text())["interrupted"]


def flicker(depths: list[np.ndarray]) -> float:
    return float(np.mean([np.abs(np.log(b / a)).mean() for a, b in itertools.pairwise(depths)]))


@pytest.mark.parametrize("aligned", [False, True])
def test_smoothing_makes_a_still_scene_flicker_less(aligned: bool) -> None:
    random = np.random.default_rng(0)
    scene, image = random.uniform(1, 10, (48, 64)), grey(90)
    noise = [np.exp(random.normal(0, 0.1, scene.shape)) for _ in range(20)]
    factors = np.exp(random.normal(0, 0.5, 20)) if aligned else np.ones(20)
    depths = [(scene * n * f).astype(np.float32) for n, f in zip(noise, factors, strict=True)]
    smoother = Smoother(0.8, aligned)
    smooth = [smoother(image, depth) for depth in depths]
    assert flicker(smooth) < 0.4 * flicker(depths)
    assert smooth[-1].dtype == np.float32
    relative = smooth[-1] / np.median(smooth[-1]) * np.median(scene)
    assert np.abs(relative / scene - 1).mean() < np.abs(depths[-1] / factors[-1] / scene - 1).mean()


def test_smoothing_does_not_reach_across_a_cut(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", [grey(20)] * 6 + [grey(180)] * 6)
    record = run([video], tmp_path / "out", kinds=("npy",), smooth=0.9)
    depths = [depth.mean() for depth in maps(tmp_path / "out", "v")]
    np.testing.assert_allclose(depths, [3] * 6 + [19] * 6, atol=0.3)
    assert record.entries[0].about["smooth"] == {"weight": 0.9, "cuts": 1}


def test_videos_have_no_points_and_images_no_film(tmp_path: Path, clip: Path) -> None:
    image = save(tmp_path / "a.png", grey(1))
    with pytest.raises(InputError, match="--pointcloud is for images"):
        run([clip, image], tmp_path / "out", kinds=("pointcloud",))
    record = run([clip, image], tmp_path / "out")
    kinds = [file.kind for entry in record.entries for file in entry.files]
    assert sorted(kinds) == ["color", "video"]


def test_fast_colours_are_those_of_all_other_pictures() -> None:
    depth = np.random.default_rng(0).uniform(0.5, 40, (60, 80)).astype(np.float32)
    norm = color_range([depth])
    difference = np.abs(tint(depth, norm).astype(int) - colorize(depth, norm))
    # A neighbouring colour where rounding decides.
    assert difference.max() <= 4
    assert (difference > 0).mean() < 0.01


def test_legends_of_depth_without_a_unit_name_none(tmp_path: Path) -> None:
    norm = color_range([np.linspace(1, 10, 100, dtype=np.float32)[None]])
    metres, scaled = draw_scale(norm, 640, "m"), draw_scale(norm, 640, "")
    assert metres.shape == scaled.shape == (SCALE_HEIGHT, 640, 3)
    assert (metres != scaled).any()
    assert draw_scale(norm, 30).shape == (SCALE_HEIGHT, 30, 3)
    up_to_scale = Brightness(replace(INFO, is_metric=False))
    run([save(tmp_path / "a.png", grey(1, (20, 640)))], tmp_path / "out", up_to_scale)
    assert Image.open(tmp_path / "out/color/a.png").size == (640, 20 + SCALE_HEIGHT)
