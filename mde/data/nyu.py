"""What all NYU Depth v2 sources share."""

import numpy as np

SIZE = (480, 640)
"""(H, W) of the images, px."""
K_NYU = np.array([[518.8579, 0, 325.5824], [0, 519.4696, 253.7362], [0, 0, 1]])
"""Intrinsics of the RGB camera at SIZE, px, from the official toolbox."""
DEPTH_SCALE = 1e-3
"""Metres per code of stored depth."""
