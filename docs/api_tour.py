"""From a model and a photograph to numbers, pictures and a point cloud.

python docs/api_tour.py resfpn-resnet18 photo.jpg out
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

import mde
from mde.pointcloud import find_intrinsics, to_points, write_ply

# --8<-- [start:tour]
source, photo, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
out.mkdir(parents=True, exist_ok=True)

# A checkpoint folder, a trained variant's name, or models:/mde-resfpn-resnet18@champion.
model = mde.load(source)
info = model.info
print(f"{info.variant}: depth from {info.min_depth} to {info.max_depth}, {info.unit}")

# Images of any size, as a file or as an array (H,W,3) of uint8, RGB.
found = model.predict(photo)
depth = found.depth  # (H,W) float32, of the size of the image
near, middle, far = np.percentile(depth, (5, 50, 95))
print(f"{depth.shape}: {near:.2f} near, {middle:.2f} in the middle, {far:.2f} far")

# Depth as numbers, for programs, and as a picture, for people.
found.save(out / "depth.npy")
found.save(out / "depth.png")  # 16 bits: millimetres
Image.fromarray(found.colorize()).save(out / "colours.png")

# Points need the camera: a camera.yaml, EXIF, or its horizontal field of view in degrees.
camera = find_intrinsics(photo, depth.shape, camera=None, fov_x_deg=65)
points = to_points(depth, found.image, camera.K)
write_ply(out / "points.ply", points)
print(f"{len(points.points)} points; camera: {camera.origin}")
# --8<-- [end:tour]
