"""Street drives: a curved road with all that stands beside it, driven by the sensor car."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from mde.data.scenes import roadside, vehicle
from mde.data.scenes.atlas import load_atlas
from mde.data.scenes.lidar import cast_lidar
from mde.data.scenes.mesh import LIGHT_TOP, Mesh, join, panel
from mde.data.scenes.raycast import Camera, Frame, render, start_light_map
from mde.data.scenes.road import CURB_M, Road, RoadSurface

PERIOD_S = 0.1035
_BEHIND_M, _AHEAD_M = 70.0, 130.0
_LIGHT_PX_PER_M = 6.0


@dataclass(frozen=True)
class CarState:
    """The sensor car at one frame: T_world_imu (4,4), speed (m/s), yaw (rad), yaw rate (rad/s)."""

    T_world_imu: NDArray[np.float64]
    speed: float
    yaw: float
    yaw_rate: float


class Drive:
    """One drive through its own street. The same (seed, index) gives the same drive.

    All frames share one static world; only a few oncoming cars move.
    """

    def __init__(self, seed: int, index: int, num_frames: int) -> None:
        """Lay out the street and the car's motion."""
        self.num_frames = num_frames
        self.rng = np.random.default_rng([seed, 2, index])
        bend = self.rng.choice([-1, 1]) * self.rng.uniform(1 / 420, 1 / 220)
        self.length_m = num_frames * 1.1 + _AHEAD_M
        self._curve = Road(bend, -_BEHIND_M, self.length_m)
        self.half_road = float(self.rng.uniform(6.8, 7.8))
        self.speed = float(self.rng.uniform(8.2, 11.5))
        self._wobble = self.rng.uniform(0, 2 * np.pi, 2)
        self._sun = np.array([*self.rng.uniform(-1, 1, 2), 1.1])
        self._oncoming = [
            (float(self.rng.uniform(45, 150)), str(self.rng.choice(["sedan", "wagon"])),
             roadside.CAR_COLORS[self.rng.integers(8)])
            for _ in range(2)
        ]  # fmt: skip

    def state(self, frame: int) -> CarState:
        """Where the car is at a frame, and how it moves."""
        time = frame * PERIOD_S
        s = self.speed * time + 0.35 * np.sin(0.7 * time + self._wobble[0])
        speed = self.speed + 0.245 * np.cos(0.7 * time + self._wobble[0])
        lateral = -1.6 + 0.12 * np.sin(0.5 * time + self._wobble[1])
        drift = 0.06 * np.cos(0.5 * time + self._wobble[1]) / speed
        x, y, heading = self._curve.at(s, lateral)
        yaw = heading + drift
        T_world_imu = vehicle.world_from_imu((x, y, vehicle.IMU_HEIGHT_M), yaw)
        return CarState(T_world_imu, speed, yaw, speed * self._curve.bend_at(s))

    def camera(self, frame: int, camera: str) -> Camera:
        """The rectified camera "image_02" (left) or "image_03" (right) at a frame."""
        T_cam_world = vehicle.camera_from_world(self.state(frame).T_world_imu, camera)
        return Camera(vehicle.intrinsics(), T_cam_world, vehicle.IMAGE_WIDTH, vehicle.IMAGE_HEIGHT)

    def frame(self, frame: int, camera: str) -> Frame:
        """Image, exact depth and camera of a frame."""
        return render(self.world(frame), self._light_map, self.camera(frame, camera))

    def scan(self, frame: int) -> NDArray[np.float32]:
        """LiDAR points (N,4) float32: x forward, y left, z up in m, reflectance 0..1."""
        T_velo_world = vehicle.lidar_from_world(self.state(frame).T_world_imu)
        rng = np.random.default_rng([int(self._wobble[0] * 1e6), 3, frame])
        return cast_lidar(self.world(frame), T_velo_world, rng)

    def world(self, frame: int) -> Mesh:
        """The lit street with its moving cars where they are at a frame."""
        cars = []
        for start, kind, color in self._oncoming:
            s = start - 9.0 * frame * PERIOD_S
            x, y, heading = self._curve.at(s, 1.75)
            cars.append(roadside.car(kind, color).placed(x, y, 0, heading + np.pi))
        moving = join(cars).lit(self._sun, 0.62, 0.5)
        return join([self._static, moving])

    @cached_property
    def _light_of_world(self) -> NDArray[np.float64]:
        scale = _LIGHT_PX_PER_M
        low = self._curve.points[:, :2].min(0) - 60
        return np.array([[scale, 0, -low[0] * scale], [0, scale, LIGHT_TOP - low[1] * scale]])

    @cached_property
    def _static(self) -> Mesh:
        rng = self.rng
        surface = RoadSurface(
            self._curve, self.half_road, (-_BEHIND_M, self.length_m), self._light_of_world
        )
        parts = [*surface.ground(), *surface.markings()]
        for side in (-1, 1):
            parts += self._roadside(rng, side)
        parts += self._far_end(rng)
        return join(parts).lit(self._sun, 0.62, 0.5)

    def _roadside(self, rng: np.random.Generator, side: int) -> list[Mesh]:
        """Everything on one side of the street, in the order it is met."""
        turn = 0.0 if side > 0 else np.pi
        parts = []
        setback = self.half_road + rng.uniform(3.2, 6.5)
        s = -_BEHIND_M + 5
        while s < self.length_m - 32:
            width = float(rng.uniform(9, 17))
            building = roadside.house(rng, width, int(rng.integers(1, 4)))
            parts.append(self._put(building, s + width / 2, side * setback, turn))
            gap = float(rng.choice([0.6, 3.0, 6.0]))
            if setback > self.half_road + 4.4:
                parts.append(self._put(self._border(rng, width), s + width / 2,
                                       side * (self.half_road + 3.2), turn))  # fmt: skip
            s += width + gap
        parts += self._parked(rng, side)
        parts += self._furniture(rng, side, turn)
        return parts

    def _border(self, rng: np.random.Generator, length: float) -> Mesh:
        kind = rng.integers(4)
        if kind == 0:
            return roadside.hedge(length * 0.7, float(rng.uniform(0.9, 1.5)))
        if kind == 1:
            return roadside.fence(length * 0.8)
        return roadside.wall(length * 0.7, float(rng.uniform(0.6, 1.1)),
                             str(rng.choice(["bricks", "concrete"])))  # fmt: skip

    def _parked(self, rng: np.random.Generator, side: int) -> list[Mesh]:
        """Parked cars with gaps between them."""
        parts, s = [], -_BEHIND_M + 8
        lateral = side * (self.half_road - 1.05)
        while s < self.length_m - 35:
            if rng.uniform() < 0.4:
                kind = str(rng.choice(["sedan", "wagon", "wagon", "van"]))
                color = roadside.CAR_COLORS[rng.integers(len(roadside.CAR_COLORS))]
                turn = 0.0 if side < 0 else np.pi
                parts.append(self._put(roadside.car(kind, color), s, lateral, turn, z=0.0))
            s += float(rng.uniform(5.6, 8.5))
        return parts

    def _furniture(self, rng: np.random.Generator, side: int, turn: float) -> list[Mesh]:
        """Trees, lamps, signs and bins on the pavement."""
        parts, s = [], -_BEHIND_M + float(rng.uniform(4, 10))
        lateral = side * (self.half_road + 0.75)
        while s < self.length_m - 30:
            kind = rng.choice(4, p=[0.55, 0.17, 0.16, 0.12])
            if kind == 0:
                # Crowns that stay far away can be coarse.
                near = -25 < s < self.length_m - _AHEAD_M + 45
                item = roadside.tree(rng, float(rng.uniform(5.5, 9.0)), 28 if near else 10)
            elif kind == 1:
                item = roadside.street_lamp(float(rng.uniform(6, 7.5)))
            elif kind == 2:
                names = ["sign_limit", "sign_blue", "sign_warning", "sign_board"]
                item = roadside.sign_post(str(rng.choice(names)))
            else:
                item = roadside.bin_box(((0.25, 0.4, 0.3), (0.3, 0.3, 0.32))[rng.integers(2)])
            parts.append(self._put(item, s, lateral, 0.0 if kind == 2 and side < 0 else turn))
            s += float(rng.uniform(6, 12))
        return parts

    def _far_end(self, rng: np.random.Generator) -> list[Mesh]:
        """Houses across the end of the street and woods all around close the horizon."""
        parts = []
        for lateral in np.arange(-34, 35, 13.0):
            building = roadside.house(rng, 12.0, int(rng.integers(2, 4)))
            parts.append(self._put(building, self.length_m - 8, lateral, -np.pi / 2))
        for s in np.arange(-_BEHIND_M, self.length_m, 20.0):
            for side in (-1, 1):
                woods = panel((-12, 0, 11), (24, 0, 0), (0, 0, -11), "treeline", (0.8, 0.85, 0.8),
                              two_sided=True)  # fmt: skip
                parts.append(self._put(woods, s, side * 30.0, 0.0))
        for end in (-_BEHIND_M + 2, self.length_m + 6):
            woods = panel((0, 70, 14), (0, -140, 0), (0, 0, -14), "treeline", (0.8, 0.85, 0.8),
                          two_sided=True)  # fmt: skip
            woods.uv[:, 0, 0] = 4
            parts.append(self._put(woods, end, 0.0, 0.0))
        return parts

    def _put(
        self, item: Mesh, s: float, lateral: float, turn: float, z: float = CURB_M - 0.01
    ) -> Mesh:
        """Place an item beside the road, turned against the road's direction."""
        x, y, heading = self._curve.at(s, lateral)
        return item.placed(x, y, z, heading + turn)

    @cached_property
    def _light_map(self) -> NDArray[np.float32]:
        """Shadows on the ground: every panel above it, dropped along the sun's rays and blurred."""
        extent = self._curve.points[:, :2].max(0) - self._curve.points[:, :2].min(0) + 120
        width, height = (extent * _LIGHT_PX_PER_M).astype(int) + 1
        light = start_light_map(width, height)
        shadow = np.zeros((LIGHT_TOP + height, width), np.uint8)
        mesh = self._static
        corners = np.stack([mesh.origin, mesh.origin + mesh.e1, mesh.origin + mesh.e1 + mesh.e2,
                            mesh.origin + mesh.e2], 1)  # fmt: skip
        tall = corners[..., 2].max(1) > 0.3
        drop = corners[tall, :, :2] - corners[tall, :, 2:] * (self._sun[:2] / self._sun[2])
        pixels = drop @ self._light_of_world[:, :2].T + self._light_of_world[:, 2]
        leafy = load_atlas().cutout[mesh.texture[tall]]
        for polygon, is_leafy in zip(pixels, leafy, strict=True):
            if is_leafy:
                polygon = polygon.mean(0) + (polygon - polygon.mean(0)) * 0.7
            cv2.fillPoly(shadow, [polygon.round().astype(np.int32)], 255)
        soft = cv2.GaussianBlur(shadow, (0, 0), 1.0)[LIGHT_TOP:].astype(np.float32) / 255
        light[LIGHT_TOP:, :width] = 1 - 0.5 * soft
        return light
