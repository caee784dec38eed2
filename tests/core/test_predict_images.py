"""`mde predict` of images: which files there are, what is in them, and what goes wrong how."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

import mde
from mde.cli.predict import predict
from mde.errors import InputError
from mde.models import ModelConfig, build_model
from mde.predict.outputs import prepare_folder
from mde.train.checkpoint import save_model
from tests.core.predict_data import INFO, Brightness, grey, run, save

app = typer.Typer()
app.command()(predict)
MODEL = {"family": "fastdepth", "encoder": "mobilenet_v1", "weights": "scratch", "max_depth": 10.0}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    state = {"variant": {"name": "small", "model": MODEL}, "image_size": [32, 64]}
    save_model(folder, build_model(ModelConfig(**MODEL)), state)
    return folder


def depth_of(out: Path, name: str) -> np.ndarray:
    return np.load(out / "npy" / f"{name}.npy")


def test_each_kind_has_a_folder_and_the_record_says_what_numbers_mean(tmp_path: Path) -> None:
    save(tmp_path / "in/a b/ü.png", grey(40))
    out = tmp_path / "out"
    run([tmp_path / "in"], out, kinds=("mm", "kitti", "npy", "color"))
    files = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    made = ["color/a b/ü.png", "kitti/a b/ü.png", "mm/a b/ü.png", "npy/a b/ü.npy"]
    assert files == [*made, "predictions.json"]
    np.testing.assert_allclose(depth_of(out, "a b/ü"), 5)
    for kind, per_m in (("mm", 1000), ("kitti", 256)):
        codes = cv2.imread(str(out / kind / "a b/ü.png"), cv2.IMREAD_UNCHANGED)
        assert (codes.dtype, codes.shape) == (np.uint16, (48, 64))
        assert (codes == 5 * per_m).all()
    record = json.loads((out / "predictions.json").read_text())
    assert record["kinds"]["mm"]["codes_per_unit"] == 1000
    assert record["model"]["variant"] == "bright"
    (entry,) = record["predicted"]
    assert sorted(file["path"] for file in entry["files"]) == made
    assert all((out / f["path"]).stat().st_size == f["bytes"] for f in entry["files"])
    assert entry["size"] == [48, 64]


def test_of_a_model_up_to_scale_the_record_says_so(tmp_path: Path) -> None:
    save(tmp_path / "a.png", grey(40))
    predictor = Brightness(replace(INFO, is_metric=False))
    run([tmp_path / "a.png"], tmp_path / "out", predictor, kinds=("mm", "npy"))
    kinds = json.loads((tmp_path / "out/predictions.json").read_text())["kinds"]
    for kind in ("mm", "npy"):
        assert kinds[kind]["unit"] == "up to scale"
        assert "right up to one factor an image" in kinds[kind]["meaning"]


def test_images_of_all_sorts_are_predicted_at_their_own_size(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    save(folder / "grey.png", grey(40)[..., 0])
    save(folder / "bits16.png", grey(40)[..., 0].astype(np.uint16) * 257)
    save(folder / "alpha.png", np.concatenate([grey(40), grey(128)[..., :1]], -1))
    Image.fromarray(grey(40)).quantize(4).save(folder / "palette.png")
    Image.fromarray(grey(40)).convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    save(folder / "one.png", grey(40, (1, 1)))
    save(folder / "line.bmp", grey(40, (3, 501)))
    record = run([folder], tmp_path / "out", kinds=("npy", "color"))
    assert not record.failures
    for path in folder.iterdir():
        size = Image.open(path).size
        depth = depth_of(tmp_path / "out", path.stem)
        assert depth.shape == size[::-1]
        np.testing.assert_allclose(depth, 5, atol=0.3)
        assert Image.open(tmp_path / "out/color" / f"{path.stem}.png").width == size[0]


def test_a_turned_photo_is_predicted_upright(tmp_path: Path) -> None:
    image = grey(40, (40, 60))
    image[:, :20] = 200
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "phone.jpg", image, exif=exif, quality=95)
    run([tmp_path / "phone.jpg"], tmp_path / "out", kinds=("npy",))
    depth = depth_of(tmp_path / "out", "phone")
    assert depth.shape == (60, 40)
    np.testing.assert_allclose(depth[:18], 21, atol=0.5)
    np.testing.assert_allclose(depth[24:], 5, atol=0.5)


def test_unreadable_files_are_failures_and_the_rest_is_done(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    whole = save(folder / "b.png", grey(9)).read_bytes()
    (folder / "empty.jpg").touch()
    (folder / "cut.png").write_bytes(whole[:-20])
    (folder / "text.jpg").write_text("no image")
    save(folder / "c.png", grey(9))
    (folder / "gone.png").symlink_to("nowhere")
    record = run([folder], tmp_path / "out", kinds=("npy",))
    assert {Path(f["input"]).name for f in record.failures} == {
        "empty.jpg", "cut.png", "text.jpg", "gone.png"
    }  # fmt: skip
    assert not any(folder.name in failure["reason"] for failure in record.failures)
    assert sorted(p.name for p in (tmp_path / "out/npy").iterdir()) == ["b.npy", "c.npy"]


def test_images_of_one_size_go_through_the_network_together(tmp_path: Path) -> None:
    for i in range(11):
        save(tmp_path / f"in/{i:02d}.png", grey(i, (4, 4)))
    save(tmp_path / "in/wide.png", grey(99, (4, 8)))
    predictor = Brightness()
    run([tmp_path / "in"], tmp_path / "out", predictor, kinds=("npy",))
    assert predictor.batches == [8, 3, 1]
    for i in range(11):
        np.testing.assert_allclose(depth_of(tmp_path / "out", f"{i:02d}"), 1 + i / 10)


def test_points_need_a_camera_and_the_rest_is_written_without(tmp_path: Path) -> None:
    save(tmp_path / "a.png", grey(40))
    record = run([tmp_path / "a.png"], tmp_path / "no", kinds=("npy", "pointcloud"))
    assert "intrinsics" in record.failures[0]["reason"]
    assert [file.kind for file in record.entries[0].files] == ["npy"]
    record = run([tmp_path / "a.png"], tmp_path / "out", kinds=("pointcloud",), fov_x_deg=60.0)
    assert not record.failures
    made = sorted(path.name for path in (tmp_path / "out/pointcloud").iterdir())
    assert made == ["a.html", "a.ply"]
    assert record.entries[0].about["intrinsics"]["K"][0][0] > 0


def test_what_cannot_be_is_said_before_anything_runs(tmp_path: Path) -> None:
    image = save(tmp_path / "a.png", grey(40))
    far = Brightness(replace(INFO, max_depth=80.0))
    with pytest.raises(InputError, match=r"up to 80 m, its 16-bit codes end at 65\.5; .* kitti"):
        run([image], tmp_path / "out", far, kinds=("mm",))
    with pytest.raises(InputError, match="for videos and streams"):
        run([image], tmp_path / "out", kinds=("video",))
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_refused_and_overwriting_removes_what_was_written(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    run([save(tmp_path / "a.png", grey(1))], out, kinds=("npy",))
    (out / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="is there and not empty; give a new folder, or --over"):
        prepare_folder(out, overwrite=False)
    prepare_folder(out, overwrite=True)
    assert [path.name for path in out.rglob("*") if path.is_file()] == ["mine.txt"]
    with pytest.raises(InputError, match="is a file"):
        prepare_folder(out / "mine.txt", overwrite=True)


def test_an_edited_record_removes_nothing_elsewhere(tmp_path: Path) -> None:
    victim = save(tmp_path / "victim.png", grey(1))
    entry = {"files": [{"path": "../victim.png"}, {"path": str(victim)}]}
    (tmp_path / "out").mkdir()
    (tmp_path / "out/predictions.json").write_text(json.dumps({"predicted": [entry]}))
    prepare_folder(tmp_path / "out", overwrite=True)
    assert victim.exists()


def test_ctrl_c_keeps_what_is_whole_and_leaves_a_record(tmp_path: Path) -> None:
    class Interrupted(Brightness):
        def predict_batch(self, images: np.ndarray) -> np.ndarray:
            if len(self.batches) == 2:
                signal.raise_signal(signal.SIGINT)
            return super().predict_batch(images)

    for i in range(30):
        save(tmp_path / f"in/{i:02d}.png", grey(i, (4, 4 + i // 8)))
    record = run([tmp_path / "in"], tmp_path / "out", Interrupted(), kinds=("npy",))
    files = list((tmp_path / "out").rglob("*.npy"))
    assert record.interrupted
    assert record.files == len(files) <= 16
    assert all(np.load(path).shape[0] == 4 for path in files)
    assert not list((tmp_path / "out").rglob("*.partial*"))
    assert json.loads((tmp_path / "out/predictions.json").read_text())["interrupted"]


def test_the_command_predicts_with_a_checkpoint(tmp_path: Path, checkpoint: Path) -> None:
    save(tmp_path / "in/a.png", np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8))
    save(tmp_path / "in/dot.png", grey(7, (1, 1)))
    (tmp_path / "in/bad.jpg").touch()
    words = [str(checkpoint), str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--npy"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1
    assert "bad.jpg: not a readable image (0 bytes)" in result.stderr
    assert "2 files of 2 inputs, 1 failed; depth in m" in result.stdout
    same = mde.load(checkpoint, device="cpu").predict(tmp_path / "in/a.png")
    np.testing.assert_allclose(depth_of(tmp_path / "out", "a"), same.depth, rtol=1e-4)
    record = json.loads((tmp_path / "out/predictions.json").read_text())
    assert record["model"]["image_size"] == [32, 64]
    assert CliRunner().invoke(app, words).exit_code == 1
    (tmp_path / "in/bad.jpg").unlink()
    assert CliRunner().invoke(app, [*words, "--overwrite", "--size", "64x64"]).exit_code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--range", "10:1"], "--range 10:1: expected NEAR:FAR"),
        (["--size", "640"], "--size 640: expected HEIGHTxWIDTH"),
        (["--device", "gpu"], "--device gpu: "),
        (["--onnx", "--flip", "mean"], "--flip: an ONNX file has this built in"),
    ],
)
def test_wrong_options_are_one_message(
    tmp_path: Path, checkpoint: Path, words: list[str], message: str
) -> None:
    image = save(tmp_path / "a.png", grey(1))
    result = CliRunner().invoke(
        app, [str(checkpoint), str(image), "--out", str(tmp_path / "out"), *words]
    )
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_depth_map_saves_itself(tmp_path: Path, checkpoint: Path) -> None:
    found = mde.load(checkpoint, device="cpu").predict(grey(100))
    found.save(tmp_path / "room.png")
    found.save(tmp_path / "room.npy")
    codes = cv2.imread(str(tmp_path / "room.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_allclose(codes / 1000, found.depth, atol=0.0006)
    np.testing.assert_array_equal(np.load(tmp_path / "room.npy"), found.depth)
    with pytest.raises(InputError, match=r"room\.tiff: depth is written as \.npy"):
        found.save(tmp_path / "room.tiff")
    far = replace(found, depth=found.depth + 70)
    with pytest.raises(InputError, match=r"far\.png: a depth of .* has no code"):
        far.save(tmp_path / "far.png")
    far.save(tmp_path / "far.png", "kitti")
