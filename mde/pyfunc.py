"""A registered version for MLflow's tools: `mlflow.pyfunc.load_model` and `mlflow models serve`.

`MLmodel` beside the checkpoint names this module. It reads what `mde` itself reads of a checkpoint,
safetensors and JSON. No schema of MLflow's takes arrays as well as text, so MLflow leaves the input
alone (`is_signature_from_type_hint` in `MLmodel`), and all of it is checked here.
"""

import base64
import io
import json
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import PIL.Image
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from numpy.typing import NDArray

from mde.data.codecs import RAW_FORMATS, CodecError, decode_raw_image
from mde.errors import InputError
from mde.predictor import Predictor, load_predictor

COLUMN = "image"
"""Of a DataFrame."""
BASE64_OF = {"PNG": "iVBORw0KGgo", "JPEG": "/9j/", "WEBP": "UklGR"}
"""Format → what base64 of such a file begins with."""
PATHS = "MDE_IMAGE_PATHS"
"""Environment variable: `true` or `false`, whether text may be the path of a file."""
SERVING = "_MLFLOW_IS_IN_SERVING_ENVIRONMENT"
"""Environment variable that MLflow's server sets."""
MAX_SERVED_PIXELS = 2**24
"""Of the images of a request together: a reply takes 20 bytes a pixel, and more to make."""
MAX_SERVED_SIDE = 2**13
"""Pixels: images of one row have few pixels, and a network sees 32 rows at least."""
MAX_SERVED_TEXT = 2**26
"""Characters of an image in base64."""


class RefusedInputError(MlflowException, InputError):
    """An input that is refused; a server answers 400 and the reason.

    And that alone: MLflow would put the whole request in front of it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason, error_code=INVALID_PARAMETER_VALUE)
        self.reason = reason

    def serialize_as_json(self) -> str:
        """Body of the reply."""
        return json.dumps({"error_code": self.error_code, "message": self.reason})


@dataclass(frozen=True)
class Limits:
    """What is taken from whom.

    paths: text may be the path of a file. pixels: of all images together; side: of one; text:
    characters of one in base64.
    """

    paths: bool = True
    pixels: float = math.inf
    side: float = math.inf
    text: float = math.inf

    @classmethod
    def here(cls) -> "Limits":
        """Those of this process: whoever can reach a server is not to read the files of its host.

        Raises InputError when MDE_IMAGE_PATHS is neither true nor false.
        """
        served = os.environ.get(SERVING) == "true"
        word = os.environ.get(PATHS, "false" if served else "true")
        if word not in ("true", "false"):
            raise InputError(f"{PATHS} is '{word}'; it must be true or false")
        if not served:
            return cls(word == "true")
        return cls(word == "true", MAX_SERVED_PIXELS, MAX_SERVED_SIDE, MAX_SERVED_TEXT)


class DepthFunction:
    """The depth model of a checkpoint folder, on a GPU when there is one."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def predict(
        self, images: Any, params: dict[str, Any] | None = None
    ) -> NDArray[np.float32] | list[NDArray[np.float32]]:
        """Images → depth (N,H,W), in m, or up to scale when the model is; N is 1 for one image.

        A list of N (H,W) when the images differ in size. images: (N,H,W,3) or (H,W,3) uint8, RGB;
        a file's path; a PNG, JPEG or WebP file in base64; a list of such; a DataFrame or dict with
        them as `image`. params: of MLflow; there are none.
        Raises RefusedInputError for anything else, and beyond what `Limits` allow here.
        """
        found = read_images(images, Limits.here())
        if isinstance(found, list) and len({image.shape for image in found}) > 1:
            return [self.predictor.predict_batch(image[None])[0] for image in found]
        return self.predictor.predict_batch(np.asarray(found))


def read_images(value: Any, limits: Limits) -> NDArray[np.uint8] | list[NDArray[np.uint8]]:
    """What `DepthFunction.predict` takes, as (N,H,W,3) or N times (H,W,3).

    Raises RefusedInputError for anything else.
    """
    if isinstance(value, pd.DataFrame | dict):
        value = _column(value)
    if isinstance(value, pd.Series) or (isinstance(value, np.ndarray) and value.dtype.kind in "OU"):
        value = value.tolist()
    if isinstance(value, np.ndarray) and value.ndim == 4:
        # As many as there are, and none is no fault of those who call this in a loop.
        return _checked(value, "(N,H,W,3)", limits)
    if isinstance(value, str | Path | np.ndarray) or _nesting(value) == 3:
        value = [value]
    if not isinstance(value, list | tuple):
        _refuse(f"expected images, found {type(value).__name__}")
    if not value:
        _refuse("expected images, found an empty list")
    images, left = [], limits.pixels
    for number, source in enumerate(value):
        try:
            image = _read_image(source, replace(limits, pixels=left))
        except RefusedInputError as error:
            _refuse(f"image {number}: {error.reason}")
        images.append(image)
        left -= image.shape[0] * image.shape[1]
    return images


def _refuse(reason: str) -> NoReturn:
    raise RefusedInputError(reason) from None


def _column(value: pd.DataFrame | dict[str, Any]) -> Any:
    names = [str(name) for name in value]
    if names != [COLUMN]:
        _refuse(f"expected '{COLUMN}' alone, found {', '.join(names)[:200] or 'nothing'}")
    return value[COLUMN]


def _nesting(value: Any) -> int:
    """How deep lists are nested, going by their first elements; at most 5."""
    depth = 0
    while isinstance(value, list | tuple) and value and depth < 5:
        value, depth = value[0], depth + 1
    return depth


def _read_image(source: Any, limits: Limits) -> NDArray[np.uint8]:
    if isinstance(source, str | Path):
        return _decode(_file(source, limits), limits)
    if isinstance(source, list | tuple):
        source = _numbers(source)
    if not isinstance(source, np.ndarray):
        _refuse(f"expected an image, found {type(source).__name__}")
    return _checked(source, "(H,W,3)", limits)


def _numbers(source: list[Any] | tuple[Any, ...]) -> NDArray[np.uint8]:
    try:
        array = np.asarray(source)
    except (ValueError, OverflowError):
        _refuse("its rows differ in length")
    if array.dtype.kind not in "iu" or (array.size and (array.min() < 0 or array.max() > 255)):
        _refuse(f"expected whole numbers from 0 to 255 (uint8), found {_described(array)}")
    return array.astype(np.uint8)


def _described(array: NDArray[Any]) -> str:
    if array.dtype.kind in "iu" and array.size:
        return f"numbers from {array.min()} to {array.max()}"
    return f"{array.shape} of {array.dtype}"


def _checked(array: NDArray[Any], axes: str, limits: Limits) -> NDArray[np.uint8]:
    is_image = array.dtype == np.uint8 and array.ndim == axes.count(",") + 1
    if not is_image or array.shape[-1] != 3 or not math.prod(array.shape[-3:]):
        _refuse(f"expected {axes} of uint8, RGB; found {array.shape} of {array.dtype}")
    height, width = array.shape[-3:-1]
    _check_size(height, width, limits, math.prod(array.shape[:-3]))
    return array


def _check_size(height: int, width: int, limits: Limits, count: int = 1) -> None:
    if max(height, width) > limits.side:
        _refuse(f"{width}x{height} px, and a side may have {limits.side} px")
    if count * height * width > limits.pixels:
        _refuse(
            f"{width}x{height} px is too much: the images of a request may have "
            f"{MAX_SERVED_PIXELS} px together"
        )


def _file(source: str | Path, limits: Limits) -> bytes:
    """Content of an image file that is given in base64 or, where that is allowed, by its path."""
    text = str(source)
    if text.startswith(tuple(BASE64_OF.values())):
        if len(text) > limits.text:
            _refuse(f"{len(text)} characters of base64, and {limits.text} are allowed")
        try:
            return base64.b64decode(text, validate=True)
        except ValueError as error:
            _refuse(f"not valid base64: {error}")
    if not limits.paths:
        _refuse(
            "expected a PNG, JPEG or WebP file in base64, found other text; "
            "files are not read by their path here"
        )
    try:
        return Path(text).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        _refuse(f"{text[:200]}: {reason}; expected a file's path, or its content in base64")


def _decode(data: bytes, limits: Limits) -> NDArray[np.uint8]:
    try:
        with PIL.Image.open(io.BytesIO(data), formats=RAW_FORMATS) as image:
            width, height = image.size
        _check_size(height, width, limits)
        return decode_raw_image(data)
    except RefusedInputError:
        raise
    except PIL.Image.DecompressionBombError as error:
        _refuse(str(error))
    except PIL.UnidentifiedImageError:
        _refuse(f"not a readable image ({len(data)} bytes)")
    except CodecError as error:
        _refuse(str(error))
    except Exception as error:  # damaged files make decoders raise whatever they like
        _refuse(f"not a readable image ({len(data)} bytes): {error}")


def _load_pyfunc(path: str) -> DepthFunction:
    """What MLflow calls. path: a local copy of the version's files.

    Raises InputError when a file of the checkpoint differs from its SHA-256, or one runs code, and
    when MDE_IMAGE_PATHS is neither true nor false.
    """
    Limits.here()
    return DepthFunction(load_predictor(Path(path)))
