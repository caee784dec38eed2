"""What the tests of `mde predict` share: a predictor that is easily checked, videos, images."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from mde.predict.clips import StreamClip
from mde.predict.inputs import find_inputs
from mde.predict.job import predict_all
from mde.predict.outputs import Options, prepare_folder
from mde.predict.record import Record
from mde.predictor import ModelInfo, Predictor

INFO = ModelInfo("bright", True, 0.5, 20.0, None, "0" * 40, "1" * 64)


class Brightness(Predictor):
    """Depth is 1 m where the green of an image is 0, and 0.1 m more for each level."""

    def __init__(self, info: ModelInfo = INFO) -> None:
        super().__init__(info)
        self.batches: list[int] = []

    def predict_batch(self, images: np.ndarray) -> np.ndarray:
        self.batches.append(len(images))
        return (1 + images[..., 1] / 10).astype(np.float32)


def run(sources: list[Path | str], out: Path, predictor: Predictor | None = None, **options: Any):
    """What the command does between the model and the messages."""
    wanted = Options(**options)
    found = find_inputs([str(source) for source in sources], out)
    wanted.check_inputs(found)
    streams = {item.source: StreamClip(item) for item in found.of("stream")}
    predictor = predictor or Brightness()
    wanted.check_model(predictor.info)
    prepare_folder(out, overwrite=False)
    record: Record = predict_all(predictor, found, streams, out, wanted, {"source": "test"})
    return record


def grey(level: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """(H,W,3) of one level."""
    return np.full((*size, 3), level, np.uint8)


def save(path: Path, image: np.ndarray, **options: Any) -> Path:
    """Write an image, and the folders that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)
    return path


def write_video(
    path: Path, images: list[np.ndarray], times: list[float] | None = None, codec: str = "libx264"
) -> Path:
    """Write frames, lossless for H.264, shown at these times in s; else 10 in a second."""
    faststart = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", container_options=faststart) as container:
        stream = container.add_stream(codec, rate=10, options={"crf": "0", "preset": "ultrafast"})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv444p" if codec == "libx264" else "yuv420p"
        stream.bit_rate = 4_000_000
        stream.codec_context.gop_size = 5
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if times:
                frame.time_base, frame.pts = Fraction(1, 1000), round(times[i] * 1000)
            else:
                frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def read_film(path: Path) -> tuple[list[np.ndarray], list[float]]:
    """Frames, and their times in s."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [frame.to_ndarray(format="rgb24") for frame in frames], [f.time for f in frames]
