"""What people hold of a model: images of any size in, depth of that size out."""

import io
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import mde
from mde.data.augment import Augment
from mde.errors import InputError
from mde.models import ModelConfig, build_model
from mde.predictor import BATCH_SIZE, TorchPredictor, load_predictor
from mde.train.checkpoint import save_model

MODEL = {"family": "fastdepth", "encoder": "mobilenet_v1", "weights": "scratch", "min_depth": 0.1}
SIZE = (64, 96)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    checkpoint = root / "models" / "small" / "checkpoint"
    checkpoint.mkdir(parents=True)
    torch.manual_seed(0)
    state = {
        "variant": {"name": "small", "model": MODEL},
        "image_size": SIZE,
        "git_commit": "0123abc",
        "data_sha256": "ab" * 32,
    }
    save_model(checkpoint, build_model(ModelConfig(**MODEL)), state)
    return root


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def seen_by(predictor: TorchPredictor, images: NDArray[np.uint8]) -> list[tuple[int, ...]]:
    """Shapes of what the network is given."""
    seen: list[tuple[int, ...]] = []

    def note(_: object, inputs: tuple[Tensor, ...]) -> None:
        seen.append(tuple(inputs[0].shape))

    with predictor.model.register_forward_pre_hook(note):
        predictor.predict_batch(images)
    return seen


def test_the_network_sees_the_size_of_its_training_and_depth_has_that_of_the_image(
    root: Path,
) -> None:
    predictor = mde.load("small", root=root)
    images = noise(2, 50, 131, 3)
    assert seen_by(predictor, images) == [(2, 3, *SIZE)]
    assert predictor.predict_batch(images).shape == (2, 50, 131)
    other = mde.load("small", root=root, image_size=(33, 70))
    assert seen_by(other, images) == [(2, 3, 32, 64)]
    assert other.info.image_size == (33, 70)


def test_how_many_images_come_at_a_time_changes_nothing(root: Path) -> None:
    predictor = mde.load("small", root=root)
    images = noise(BATCH_SIZE + 1, 20, 30, 3)
    together = predictor.predict_batch(images)
    alone = [predictor.predict(image).depth for image in images]
    np.testing.assert_allclose(together, alone, rtol=1e-4)
    assert predictor.predict_batch(images[:0]).shape == (0, 20, 30)


def test_options_of_speed_keep_the_depth(root: Path) -> None:
    image = noise(40, 60, 3)
    plain = mde.load("small", root=root).predict(image).depth
    last = mde.load("small", root=root, channels_last=True).predict(image).depth
    np.testing.assert_allclose(last, plain, rtol=1e-4)
    half = mde.load("small", root=root, precision="bf16").predict(image).depth
    np.testing.assert_allclose(half, plain, rtol=0.1)
    assert not np.array_equal(half, plain)
    mean = mde.load("small", root=root, flip="mean").predict(image).depth
    mirrored = mde.load("small", root=root).predict(image[:, ::-1]).depth[:, ::-1]
    np.testing.assert_allclose(mean, (plain + mirrored) / 2, rtol=1e-4)


def test_a_file_is_an_image_too_and_its_turn_is_applied(root: Path, tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[274] = 6
    image = PIL.Image.fromarray(noise(30, 50, 3))
    image.save(tmp_path / "turned.jpg", exif=exif)
    found = mde.load("small", root=root).predict(tmp_path / "turned.jpg")
    assert found.depth.shape == (50, 30)
    assert found.image.shape == (50, 30, 3)
    assert found.colorize().shape == (50, 30, 3)
    about = found.info.as_dict()
    assert (about["variant"], about["unit"], about["git_commit"]) == ("small", "m", "0123abc")


def test_what_is_no_image_is_refused(root: Path, tmp_path: Path) -> None:
    predictor, bad = mde.load("small", root=root), tmp_path / "bad.png"
    with pytest.raises(InputError, match=r"bad\.png: No such file"):
        predictor.predict(bad)
    with pytest.raises(InputError, match="Is a directory"):
        predictor.predict(tmp_path)
    whole = io.BytesIO()
    PIL.Image.fromarray(noise(30, 50, 3)).save(whole, "PNG")
    bad.write_bytes(whole.getvalue()[:-20])
    with pytest.raises(InputError, match=r"bad\.png: truncated PNG"):
        predictor.predict(bad)
    for array in (noise(5, 5), np.zeros((5, 5, 3)), noise(0, 5, 3), noise(1, 5, 5, 3)):
        with pytest.raises(InputError, match=r"expected an image \(H,W,3\) of uint8"):
            predictor.predict(array)


def test_a_model_is_found_by_folder_and_by_name_or_said_not_to_be_there(
    root: Path, tmp_path: Path
) -> None:
    image = noise(20, 30, 3)
    by_name = mde.load("small", root=root).predict(image).depth
    folder = root / "models" / "small"
    for source in (folder, folder / "checkpoint", str(folder)):
        np.testing.assert_array_equal(mde.load(source).predict(image).depth, by_name)
    with pytest.raises(InputError, match=r"large: no model is there; .*Trained below .*: small"):
        mde.load("large", root=root)


def test_a_checkpoint_that_was_changed_is_refused(root: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(root / "models" / "small" / "checkpoint", tmp_path / "changed")
    with (changed / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    with pytest.raises(InputError, match=r"model\.safetensors: missing or changed"):
        load_predictor(changed)


def test_a_training_that_cuts_the_borders_off_sees_whole_images_larger() -> None:
    assert Augment().whole_size((120, 160)) == (120, 160)
    assert Augment(crop=0.8).whole_size((120, 160)) == (150, 200)
    assert Augment(height=224, width=224, crop=0.5).whole_size((120, 160)) == (448, 448)
    assert Augment().whole_size(None) is None
