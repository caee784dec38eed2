"""A depth map in space: whose camera, where its points are, and what is in its files."""

import io
import json
import math
import struct
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import trimesh
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import IFD, Base

from mde import geometry
from mde.errors import InputError
from mde.pointcloud import (
    PointCloud,
    find_intrinsics,
    to_mesh,
    to_points,
    write_glb,
    write_ply,
    write_turntable,
)
from mde.pointcloud.turntable import BACKGROUND, draw_view
from mde.pointcloud.view import thin

SIZE = (240, 320)
K = np.array([[300.0, 0, 150], [0, 310, 110], [0, 0, 1]])
KITTI_P = "721.5 0 609.6 44.9 0 721.5 172.9 0.2 0 0 1 0.003"


def colored(size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(30, 256, (*size, 3), np.uint8)


def plane(normal: tuple[float, float, float], offset: float) -> NDArray[np.float32]:
    """Depth (H,W) of normal . point = offset as seen with K."""
    v, u = np.indices(SIZE)
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones(SIZE)], -1)
    return (offset / (rays @ np.array(normal))).astype(np.float32)


def photo(path: Path, size: tuple[int, int], orientation: int = 1, **tags: Any) -> Path:
    """A JPEG that is stored with `size` (width, height)."""
    exif = Image.Exif()
    exif[Base.Orientation] = orientation
    exif.get_ifd(IFD.Exif).update({Base[name].value: value for name, value in tags.items()})
    Image.new("RGB", size).save(path, exif=exif)
    return path


# Intrinsics


def test_a_35_mm_equivalent_has_the_same_diagonal_angle_of_view(tmp_path: Path) -> None:
    found = find_intrinsics(
        photo(tmp_path / "a.jpg", (400, 300), FocalLengthIn35mmFilm=26), (300, 400), None, None
    )
    focal = 26 / math.hypot(36, 24) * 500
    np.testing.assert_allclose(found.K, [[focal, 0, 199.5], [0, focal, 149.5], [0, 0, 1]])
    assert found.origin == "FocalLengthIn35mmFilm = 26 mm in the EXIF of a.jpg"


def test_a_photograph_that_was_turned_upright_keeps_its_focal_length(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.jpg", (400, 300), orientation=6, FocalLengthIn35mmFilm=26)
    found = find_intrinsics(path, (400, 300), None, None)
    assert found.K[0, 0] == found.K[1, 1] == pytest.approx(26 / math.hypot(36, 24) * 500)
    assert found.K[:2, 2].tolist() == [149.5, 199.5]


@pytest.mark.parametrize(("density", "unit"), [(10, 4), (100, 3), (254, 2), (254, None)])
def test_a_focal_length_counts_with_the_pixels_on_the_sensor(
    tmp_path: Path, density: float, unit: int | None
) -> None:
    # 10 px/mm: a full frame of 36 x 24 mm; the file was made smaller since.
    tags = {"ExifImageWidth": 360, "ExifImageHeight": 240, "FocalPlaneXResolution": density}
    tags |= {} if unit is None else {"FocalPlaneResolutionUnit": unit}
    path = photo(tmp_path / "a.jpg", (180, 120), FocalLength=50, FocalLengthIn35mmFilm=0, **tags)
    found = find_intrinsics(path, (120, 180), None, None)
    assert found.K[0, 0] == pytest.approx(250)
    assert "on a sensor of 43.3 mm" in found.origin


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({}, "no EXIF"),
        ({"FocalLengthIn35mmFilm": 0}, "FocalLengthIn35mmFilm = 0 mm means unknown"),
        ({"FocalLengthIn35mmFilm": 65535}, "65535 mm is beyond any lens"),
        ({"FocalLength": 4.2}, "FocalLength with FocalPlaneXResolution is missing"),
        ({"FocalLength": 4.2, "FocalPlaneXResolution": 72}, "sensor of 176 mm across"),
        ({"FocalLength": 900.0, "FocalPlaneXResolution": 2540}, "beyond any lens"),
        (
            {"FocalLengthIn35mmFilm": 26, "ExifImageWidth": 400, "ExifImageHeight": 400},
            "its EXIF is of 400x400 px, the file has 400x300 px: it was cropped",
        ),
    ],
)
def test_what_exif_cannot_mean_is_not_believed_and_the_reason_is_told(
    tmp_path: Path, tags: dict[str, Any], reason: str
) -> None:
    path = photo(tmp_path / "a.jpg", (400, 300), **tags)
    with pytest.raises(InputError, match=reason):
        find_intrinsics(path, (300, 400), None, None)


def test_without_intrinsics_there_are_three_ways_and_no_guess(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"no picture")
    for image in (None, tmp_path / "clip.mp4"):
        with pytest.raises(InputError, match=r"camera\.yaml.*field of view.*EXIF"):
            find_intrinsics(image, SIZE, None, None)


def test_a_stated_field_of_view_reaches_from_edge_to_edge() -> None:
    found = find_intrinsics(None, SIZE, None, 90)
    np.testing.assert_allclose(found.K, [[160, 0, 159.5], [0, 160, 119.5], [0, 0, 1]])
    with pytest.raises(InputError, match="above 0° and below 175°, found 180°"):
        find_intrinsics(None, SIZE, None, 180)


def test_the_camera_of_a_file_is_scaled_to_the_depth_map(tmp_path: Path) -> None:
    camera = tmp_path / "camera.yaml"
    camera.write_text("{width: 640, height: 480, fx: 600, fy: 620, cx: 300.5, cy: 220.5}")
    found = find_intrinsics(None, SIZE, camera, None)
    # (300.5 + 0.5) / 2 - 0.5: edges stay on edges.
    np.testing.assert_allclose(found.K, [[300, 0, 150], [0, 310, 110], [0, 0, 1]])
    assert found.origin == "camera.yaml of 640x480 px"
    with pytest.raises(InputError, match=r"640x480 px, found one of 240x320 px.*cropped or turned"):
        find_intrinsics(None, (320, 240), camera, None)
    with pytest.raises(InputError, match="give one of them"):
        find_intrinsics(None, SIZE, camera, 60)


def test_calibrations_of_kitti_serve_as_they_are(tmp_path: Path) -> None:
    date, sequence = tmp_path / "calib_cam_to_cam.txt", tmp_path / "calib.txt"
    right = KITTI_P.replace("721.5", "700.5")
    date.write_text(
        f"S_rect_02: 1242 375\nP_rect_02: {KITTI_P}\nS_rect_03: 1242 375\nP_rect_03: {right}\n"
    )
    sequence.write_text(f"P2: {KITTI_P}\nP3: {right}\n")
    for file in (date, sequence):
        found = find_intrinsics(tmp_path / "image_02/data/0.png", (375, 1242), file, None)
        assert found.K[0].tolist() == [721.5, 0, 609.6]
        found = find_intrinsics(tmp_path / "image_03/data/0.png", (375, 1242), file, None)
        assert found.K[0, 0] == 700.5
    assert "camera 3, taken to be of 1242x375 px" in found.origin


def test_nine_numbers_are_of_the_image_itself(tmp_path: Path) -> None:
    text, array = tmp_path / "K.txt", tmp_path / "K.npy"
    np.savetxt(text, K)
    np.save(array, K)
    for file in (text, array):
        assert find_intrinsics(None, SIZE, file, None).K.tolist() == K.tolist()
        with pytest.raises(InputError, match="belongs to another size"):
            find_intrinsics(None, (60, 80), file, None)
    np.save(array, K.T)
    with pytest.raises(InputError, match=r"K\.npy: expected \[\[fx, 0, cx\]"):
        find_intrinsics(None, SIZE, array, None)
    for name in ("absent.yaml", "a.pdf"):
        (tmp_path / "a.pdf").touch()
        with pytest.raises(InputError, match=r"(no such file|not a camera); expected camera\.yaml"):
            find_intrinsics(None, SIZE, tmp_path / name, None)


# Points


def test_points_of_a_small_map_are_those_worked_out_by_hand() -> None:
    small = np.array([[2.0, 0, 0, 0], [0, 0, 0, 0.5]], np.float32)
    matrix = np.array([[2.0, 0, 1], [0, 4, 1], [0, 0, 1]])
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    cloud = to_points(small, image, matrix)
    # x = (u - 1) / 2 * z, y = (v - 1) / 4 * z
    assert cloud.points.tolist() == [[-1, -0.5, 2], [0.5, 0, 0.5]]
    assert cloud.colors.tolist() == [[0, 1, 2], [21, 22, 23]]
    assert (cloud.points.dtype, cloud.colors.dtype) == (np.float32, np.uint8)


def test_points_are_those_of_training_and_project_to_their_pixels() -> None:
    depth = np.random.default_rng(0).uniform(1, 80, SIZE).astype(np.float32)
    cloud = to_points(depth, colored(), K, drop_edges=False)
    matrix, truth = torch.from_numpy(K)[None], torch.from_numpy(depth)[None, None]
    reference = geometry.backproject(truth.double(), matrix)
    np.testing.assert_allclose(cloud.points.T, reference[0], rtol=1e-6, atol=1e-5)
    points = torch.from_numpy(cloud.points.T)[None].double()
    pixels, z = geometry.project(points, matrix, torch.eye(4, dtype=torch.float64)[None])
    v, u = np.indices(SIZE)
    np.testing.assert_allclose(pixels[0], np.stack([u.ravel(), v.ravel()]), atol=1e-4)
    np.testing.assert_array_equal(z.ravel(), depth.ravel())


def test_a_floor_and_a_wall_are_flat_and_where_they_are() -> None:
    floor, wall = plane((0, 1, 0.05), 1.4), plane((0.6, 0, 0.8), 3)
    depth = np.where(floor > 0, np.minimum(floor, wall), wall)
    points = to_points(depth, colored(), K).points.astype(np.float64)
    off_floor = points @ [0, 1, 0.05] - 1.4
    off_wall = points @ [0.6, 0, 0.8] - 3
    assert np.minimum(abs(off_floor), abs(off_wall)).max() < 1e-5
    on_floor = points[abs(off_floor) < 1e-5]
    residuals = np.linalg.svd(on_floor - on_floor.mean(0), full_matrices=False)[1][-1]
    assert 1000 * residuals / math.sqrt(len(on_floor)) < 1e-3  # mm


def test_a_slanted_floor_is_no_edge_and_a_table_on_it_is() -> None:
    depth = plane((0, 0.8, 0.6), 2)
    assert len(to_points(depth, colored(), K).points) == depth.size
    depth[100:140, 100:200] *= 0.7
    # A network mixes the two depths in the pixels between.
    depth[100:140, 99] *= 0.85
    kept = to_points(depth, colored(), K)
    assert len(to_points(depth, colored(), K, drop_edges=False).points) == depth.size
    u = kept.points[:, 0] / kept.points[:, 2] * K[0, 0] + K[0, 2]
    v = kept.points[:, 1] / kept.points[:, 2] * K[1, 1] + K[1, 2]
    middle = (v > 110) & (v < 130)
    assert not (middle & (u > 97.5) & (u < 100.5)).any()
    assert (middle & (u > 101.5) & (u < 102.5)).any()
    assert (middle & (u > 96.5) & (u < 97.5)).any()


def test_depths_that_are_unknown_or_too_far_give_no_points() -> None:
    depth = np.full(SIZE, 5, np.float32)
    depth[0, :5] = [np.nan, np.inf, 0, -1, 30]
    assert len(to_points(depth, colored(), K, drop_edges=False, max_depth=10).points) == (
        depth.size - 5
    )
    # An unknown neighbour is no jump: only what is beside the 30 m is left out.
    assert len(to_points(depth, colored(), K).points) == depth.size - 4 - 1 - 1 - 3
    with pytest.raises(InputError, match="no point is left of the depth map of 320x240 px"):
        to_points(depth, colored(), K, max_depth=1)


def test_every_other_pixel_gives_a_quarter_of_the_points_at_the_same_places() -> None:
    depth = plane((0.1, 0.2, 1), 3)
    all_points = to_points(depth, colored(), K)
    some = to_points(depth, colored(), K, stride=2)
    grid = all_points.points.reshape(*SIZE, 3)[::2, ::2].reshape(-1, 3)
    np.testing.assert_array_equal(some.points, grid)
    assert some.pitch == 2 * all_points.pitch == 2 / 300


# Files


def test_other_programs_read_the_points(tmp_path: Path) -> None:
    cloud = to_points(plane((0, 0.8, 0.6), 2), colored(), K)
    write_ply(tmp_path / "new/a.ply", cloud)
    header = (tmp_path / "new/a.ply").read_bytes().split(b"end_header")[0].decode()
    assert "format binary_little_endian 1.0" in header
    assert "x right, y down, z forward" in header
    read: Any = trimesh.load(tmp_path / "new/a.ply", process=False)
    np.testing.assert_array_equal(read.vertices, cloud.points)
    np.testing.assert_array_equal(read.colors[:, :3], cloud.colors)


def test_a_surface_is_cut_where_the_depth_jumps() -> None:
    depth = np.full(SIZE, 2, np.float32)
    depth[:, 160:] = 3
    depth[0, 0] = 0
    mesh = to_mesh(depth, colored(), K)
    # Of 239 rows of 319 cells: the column of the jump, and the cell with the unknown corner.
    assert len(mesh.faces) == 2 * (239 * 318 - 1)
    assert len(mesh.points) == depth.size - 1
    corners = mesh.points[mesh.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert (normals[:, 2] < 0).all(), "the front of a surface looks at the camera"
    with pytest.raises(InputError, match="no surface is left"):
        to_mesh(depth, colored(), K, max_depth=1)


def test_a_surface_stands_upright_in_gltf_and_wears_the_image(tmp_path: Path) -> None:
    image = np.full((*SIZE, 3), 200, np.uint8)
    image[:120] = [255, 0, 0]
    write_glb(tmp_path / "a.glb", to_mesh(plane((0, 0.5, 1), 3), image, K, stride=4))
    content = (tmp_path / "a.glb").read_bytes()
    (length,) = struct.unpack_from("<I", content, 12)
    scene, binary = json.loads(content[20 : 20 + length]), content[28 + length :]

    def view(number: int) -> bytes:
        found = scene["bufferViews"][number]
        return binary[found["byteOffset"] :][: found["byteLength"]]

    attributes = scene["meshes"][0]["primitives"][0]["attributes"]
    accessors = {name: scene["accessors"][i]["bufferView"] for name, i in attributes.items()}
    points = np.frombuffer(view(accessors["POSITION"]), "<f4").reshape(-1, 3)
    places = np.frombuffer(view(accessors["TEXCOORD_0"]), "<f4").reshape(-1, 2)
    assert (points[:, 2] < 0).all()
    top = points[:, 1] > 0.01
    # glTF counts v from the top of the picture.
    assert places[top, 1].max() < places[~top, 1].min()
    picture = Image.open(io.BytesIO(view(scene["images"][0]["bufferView"])))
    np.testing.assert_allclose(picture.getpixel((10, 10)), [255, 0, 0], atol=4)


def test_the_unmoved_camera_sees_the_image_and_the_nearer_of_two_points() -> None:
    depth, image = np.full(SIZE, 2, np.float32), np.full((*SIZE, 3), 90, np.uint8)
    depth[100:140, 100:140], image[100:140, 100:140] = 1, [250, 60, 10]
    cloud = to_points(depth, image, K, drop_edges=False)
    ahead, from_right, from_above = (
        draw_view(cloud, yaw, pitch) for yaw, pitch in ((0, 0), (0.2, 0), (0, 0.2))
    )

    def red_place(frame: NDArray[np.uint8]) -> NDArray[np.float64]:
        return np.argwhere((frame == [250, 60, 10]).all(-1)).mean(0)

    def hidden(frame: NDArray[np.uint8]) -> int:
        return int((frame[100:300, 150:450] == BACKGROUND).all(-1).sum())

    assert ahead.shape == (472, 640, 3)
    assert hidden(ahead) == 0
    assert hidden(from_right) > 100
    # What is near moves to the left of a camera that moves to the right, and down when it rises.
    assert red_place(from_right)[1] < red_place(ahead)[1] - 20
    assert red_place(from_above)[0] > red_place(ahead)[0] + 20


def test_a_turntable_is_a_film_that_loops(tmp_path: Path) -> None:
    cloud = to_points(plane((0.1, 0.2, 1), 3), colored(), K, stride=8)
    write_turntable(tmp_path / "a.mp4", cloud, long_side=96)
    with av.open(str(tmp_path / "a.mp4")) as film:
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in film.decode(video=0)]
    assert len(frames) == 60
    assert frames[0].shape[0] % 2 == frames[0].shape[1] % 2 == 0
    steps = [abs(a - b).mean() for a, b in zip(frames, frames[1:] + frames[:1], strict=True)]
    assert 0 < steps[-1] < 2 * max(steps[:-1])


def test_fewer_points_are_larger_and_fill_the_same_area() -> None:
    cloud = PointCloud(np.ones((1000, 3), np.float32), np.zeros((1000, 3), np.uint8), 0.01)
    small = thin(cloud, 250)
    assert (len(small.points), small.pitch) == (250, 0.02)
    assert thin(cloud, 1000) is cloud
