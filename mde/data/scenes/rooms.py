"""Indoor rooms: four walls, furniture by kind of room, and cameras standing in them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mde.data.scenes import furniture, openings
from mde.data.scenes.mesh import LIGHT_TOP, Mesh, box, join, panel
from mde.data.scenes.raycast import Camera, Frame, render, start_light_map
from mde.data.scenes.room_light import LIGHT_PX, Footprint, contact_shadows, irradiance
from mde.data.scenes.viewpoints import choose_cameras

KINDS = ("living_room", "bedroom", "kitchen", "office", "dining_room")
_WALLPAPERS = ((0.95, 0.92, 0.84), (0.82, 0.87, 0.90), (0.88, 0.90, 0.80), (0.94, 0.84, 0.78),
               (0.96, 0.95, 0.93), (0.80, 0.78, 0.74))  # fmt: skip
_FLOORS = (("planks", (1, 1, 1), 1.6), ("planks", (0.62, 0.55, 0.5), 1.4),
           ("tiles", (0.92, 0.9, 0.86), 1.6), ("carpet", (0.70, 0.62, 0.52), 1.2),
           ("carpet", (0.48, 0.52, 0.58), 1.2))  # fmt: skip
_WOODY = (("tiles", (0.92, 0.9, 0.86), 1.3), ("planks", (0.9, 0.85, 0.8), 1.6),
          ("tiles", (0.75, 0.6, 0.5), 1.3))  # fmt: skip


class Room:
    """One furnished room, x in [0, width], y in [0, depth]. Same (seed, index), same room."""

    def __init__(self, seed: int, index: int) -> None:
        """Build walls and furniture."""
        self.rng = np.random.default_rng([seed, 1, index])
        rng = self.rng
        self.kind = KINDS[index % len(KINDS)]
        self.name = f"{self.kind}_{index:04d}"
        self.width, self.depth = (float(v) for v in rng.uniform((3.6, 3.4), (6.2, 5.6)))
        self.height = float(rng.uniform(2.45, 2.85))
        self.footprints: list[Footprint] = []
        self.parts: list[Mesh] = []
        self.free = {wall: [(0.05, self._length(wall) - 0.05)] for wall in range(4)}
        self._openings()
        self._furnish()
        lamp = np.array([self.width * rng.uniform(0.35, 0.65), self.depth * rng.uniform(0.35, 0.65),
                         self.height - 0.35])  # fmt: skip
        self.light_map = start_light_map(LIGHT_PX * 6, LIGHT_PX)
        shell = self._shell(lamp)
        inside = self._lit(join(self.parts), lamp)
        self.mesh = join([shell, inside, self._ceiling_lamp(lamp)])

    def view(self, camera: Camera) -> Frame:
        """Render what a camera sees of the room."""
        return render(self.mesh, self.light_map, camera)

    def _length(self, wall: int) -> float:
        return self.width if wall % 2 == 0 else self.depth

    def _against(
        self, item: Mesh, wall: int, along: float, out: float = 0.0, z: float = 0.0
    ) -> Mesh:
        """Place an item with its back to a wall, `along` metres from the wall's left end."""
        w, d = self.width, self.depth
        # Walls 0..3 stand at y = d, x = w, y = 0, x = 0; seen from inside, left to right.
        x, y, heading = (
            (along, d - out, 0.0), (w - out, d - along, -np.pi / 2),
            (w - along, out, np.pi), (out, along, np.pi / 2),
        )[wall]  # fmt: skip
        return item.placed(x, y, z, heading)

    def _claim(self, wall: int, length: float) -> float | None:
        """Reserve a free stretch of a wall; the middle of it, or None where there is none."""
        runs = [run for run in self.free[wall] if run[1] - run[0] >= length]
        if not runs:
            return None
        low, high = runs[self.rng.integers(len(runs))]
        start = float(self.rng.uniform(low, high - length))
        self.free[wall].remove((low, high))
        self.free[wall] += [(low, start - 0.08), (start + length + 0.08, high)]
        return start + length / 2

    def _add(self, item: Mesh, gap: float = 0.04) -> bool:
        """Keep an item unless it would stand in another one or in a wall."""
        points = np.concatenate([item.origin, item.origin + item.e1, item.origin + item.e2])
        (x0, y0, _), (x1, y1, z1) = points.min(0), points.max(0)
        spot = Footprint(x0, y0, x1, y1, z1)
        if x0 < -0.05 or y0 < -0.05 or x1 > self.width + 0.05 or y1 > self.depth + 0.05:
            return False
        if any(spot.overlaps(other, gap) for other in self.footprints):
            return False
        self.footprints.append(spot)
        self.parts.append(item)
        return True

    def _openings(self) -> None:
        """A door, one or two windows with curtains, and pictures."""
        rng = self.rng
        door_wall = int(rng.integers(4))
        along = self._claim(door_wall, 1.0)
        if along is not None:
            self.parts.append(self._against(openings.door(rng), door_wall, along))
        others = [wall for wall in range(4) if wall != door_wall]
        for wall in rng.permutation(others)[: rng.integers(1, 3)].tolist():
            width = float(rng.uniform(1.1, 1.9))
            along = rng.uniform(0.6 + width / 2, self._length(wall) - 0.6 - width / 2)
            self.parts.append(self._against(openings.window(rng, width), wall, along))
            others.remove(wall)
        for wall in others:
            for along in np.arange(0.8, self._length(wall) - 0.8, 1.4):
                if rng.uniform() < 0.7:
                    at = along + rng.uniform(0, 0.4)
                    self.parts.append(self._against(openings.picture(rng), wall, at))

    def _furnish(self) -> None:
        """Large pieces along the walls, then a group in the middle, then small things."""
        rng = self.rng
        for build, length in _WALL_PIECES[self.kind]:
            for wall in rng.permutation(4):
                along = self._claim(int(wall), length)
                if along is not None and self._add(
                    self._against(build(rng), int(wall), along, 0.03)
                ):
                    break
        self._middle()
        small = [furniture.plant, furniture.floor_lamp, furniture.carton, furniture.carton,
                 lambda r: furniture.chair(r, furniture.pick(r, furniture.WOODS))]  # fmt: skip
        for _ in range(6):
            wall = int(rng.integers(4))
            along = self._claim(wall, 0.6)
            if along is not None:
                self._add(self._against(small[rng.integers(len(small))](rng), wall, along, 0.05))

    def _middle(self) -> None:
        """A rug, and a table group on it by kind of room."""
        rng, x, y = self.rng, self.width / 2, self.depth / 2
        turn = float(rng.choice([0, np.pi / 2]) + rng.uniform(-0.15, 0.15))
        if self.kind != "kitchen" and rng.uniform() < 0.8:
            size = rng.uniform((1.8, 1.3), (2.6, 1.9))
            rug = box((*size, 0.012), (0, 0, 0), "carpet", (0.6, 0.5, 0.45), 1.0, {"top": "rug"})
            tint = furniture.muted(rng) * 1.5
            self.parts.append(rug.tinted(tint.tolist()).placed(x, y, 0, turn))
        if self.kind in ("dining_room", "kitchen"):
            self._dining(x, y, turn)
        elif self.kind == "living_room":
            self._add(furniture.table(rng, 1.1, 0.6, 0.42).placed(x, y, 0.012, turn), 0.2)
        elif self.kind == "office":
            chair = furniture.chair(rng, np.array([0.25, 0.25, 0.26]))
            self._add(chair.placed(x, y, 0.012, rng.uniform(0, 6)), 0.1)

    def _dining(self, x: float, y: float, turn: float) -> None:
        """A table with chairs around it."""
        rng = self.rng
        width = float(rng.uniform(1.2, 1.7) if self.kind == "dining_room" else 1.0)
        wood = furniture.pick(rng, furniture.WOODS)
        group = [furniture.table(rng, width, 0.85, 0.75).placed(0, 0.425)]
        spots = [(sx * width * 0.26, sy) for sx in (-1, 1) for sy in (-1, 1)]
        for sx, sy in spots if width > 1.1 else [(0.0, -1), (0.0, 1)]:
            if rng.uniform() < 0.85:
                pull = 0.62 + rng.uniform(0, 0.2)
                group.append(
                    furniture.chair(rng, wood).placed(sx, sy * pull, 0, 0 if sy > 0 else np.pi)
                )
        self._add(join(group).placed(x, y, 0.012, turn), 0.1)

    def _shell(self, lamp: NDArray[np.float64]) -> Mesh:
        """Floor, ceiling and walls, with their light baked into the light map."""
        rng, w, d, h = self.rng, self.width, self.depth, self.height
        floors = _WOODY if self.kind == "kitchen" else _FLOORS
        floor, floor_color, tile_m = floors[rng.integers(len(floors))]
        paper = str(rng.choice(["plaster", "plaster", "stripes", "damask"]))
        color = furniture.pick(rng, _WALLPAPERS).tolist()
        surfaces: list[tuple] = [
            ((0, d, 0), (w, 0, 0), (0, -d, 0), floor, floor_color, tile_m),
            ((0, 0, h), (w, 0, 0), (0, d, 0), "plaster", (0.97, 0.97, 0.96), 2.0),
        ]
        starts = ((0, d, h), (w, d, h), (w, 0, h), (0, 0, h))
        runs = ((w, 0, 0), (0, -d, 0), (-w, 0, 0), (0, d, 0))
        surfaces += [
            (start, run, (0, 0, -h), paper, color, 0.9)
            for start, run in zip(starts, runs, strict=True)
        ]
        parts = []
        for index, (origin, e1, e2, texture, tone, tile) in enumerate(surfaces):
            patch = irradiance(np.array(origin, float), np.array(e1), np.array(e2), lamp)
            if index == 0:
                patch *= contact_shadows(self.footprints, self.width, self.depth)
            left = index * LIGHT_PX
            self.light_map[LIGHT_TOP:, left : left + LIGHT_PX] = patch
            span = LIGHT_PX - 1
            light = np.array([[span, 0, left], [0, span, LIGHT_TOP]], float)
            parts.append(panel(origin, e1, e2, texture, tone, tile, light))
        for wall in range(4):
            size = (self._length(wall), 0.015, 0.08)
            skirting = box(size, (0, -0.008, 0), "wood", (0.9, 0.88, 0.85))
            parts.append(self._against(skirting, wall, self._length(wall) / 2))
        return join(parts)

    def _lit(self, mesh: Mesh, lamp: NDArray[np.float64]) -> Mesh:
        """Shade furniture by the lamp above the middle of the room."""
        toward = lamp - np.array([self.width / 2, self.depth / 2, 0.5]) + (0.4, -0.3, 0.6)
        return mesh.lit(toward, 0.66, 0.36)

    def _ceiling_lamp(self, lamp: NDArray[np.float64]) -> Mesh:
        glow = (1.3, 1.25, 1.1)
        return join([
            box((0.42, 0.42, 0.1), (lamp[0], lamp[1], lamp[2] - 0.02), "white", glow),
            box((0.03, 0.03, 0.3), (lamp[0], lamp[1], lamp[2] + 0.06), "metal", (0.5, 0.5, 0.5)),
        ])  # fmt: skip


Builder = Callable[[np.random.Generator], Mesh]
_CASE: tuple[Builder, float] = (lambda r: furniture.bookcase(r, 0.95, r.uniform(1.5, 2.1)), 1.0)
_CHEST: tuple[Builder, float] = (lambda r: furniture.cabinet(r, 1.1, 0.85, "drawers"), 1.15)
_WARDROBE: tuple[Builder, float] = (lambda r: furniture.cabinet(r, 1.5, 2.0, "cupboard"), 1.55)
_ARMCHAIR: tuple[Builder, float] = (lambda r: furniture.sofa(r, 1), 1.05)
_WALL_PIECES: dict[str, list[tuple[Builder, float]]] = {
    "living_room": [(lambda r: furniture.sofa(r, 3), 2.3), (furniture.television, 1.55), _CASE,
                    _ARMCHAIR, _CHEST],
    "bedroom": [(lambda r: furniture.bed(r, r.choice([1.0, 1.5])), 1.6), _WARDROBE, _CHEST,
                (lambda r: furniture.table(r, 0.5, 0.4, 0.5), 0.6), _CASE],
    "kitchen": [(lambda r: furniture.kitchen(r, 3.0), 3.05), _CHEST, (_CASE[0], 1.0)],
    "office": [(furniture.desk, 1.45), _CASE, (furniture.desk, 1.45), _CASE, _CHEST],
    "dining_room": [(lambda r: furniture.cabinet(r, 1.6, 0.9, "cupboard"), 1.65), _CASE, _CHEST,
                    _ARMCHAIR],
}  # fmt: skip


def room_views(seed: int, index: int, num_views: int) -> tuple[str, list[Frame]]:
    """Name of one room, and `num_views` views of it: image, exact depth and camera of each."""
    room = Room(seed, index)
    cameras = choose_cameras(room.mesh, room.width, room.depth, room.rng, num_views)
    return room.name, [room.view(camera) for camera in cameras]
