"""One thread a process: tests run side by side."""

import cv2
import torch

torch.set_num_threads(1)
cv2.setNumThreads(1)
