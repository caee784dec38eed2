"""ImageNet weights: the published files, in torch.hub's cache folder, read with torch alone."""

import os
import pickle
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen
from uuid import uuid4

import torch
from torch import Tensor

from mde.errors import InputError
from mde.files import file_sha256
from mde.models.encoders.backbone import Backbone

# For each step of a connection: a firewall that swallows packets shall not cost minutes.
TIMEOUT_S = 5.0
CLASSIFIERS = ("fc.", "classifier.")


def old_to_new_name(name: str) -> str:
    """The dots that DenseNet's files have in `norm.1` went out of the names in 2017."""
    return re.sub(r"\.(norm|relu|conv)\.([12])\.", r".\1\2.", name)


@dataclass(frozen=True)
class ImageNetFile:
    """A published file of weights.

    name: in the cache folder; ends with `.pth` or `.safetensors`.
    sha256: its first digits; "" when its publisher names none.
    rename: from a parameter's name in the file to that in the backbone.
    """

    name: str
    url: str
    sha256: str
    rename: Callable[[str], str] = old_to_new_name

    @property
    def path(self) -> Path:
        """Where it is looked for."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.name


def torchvision_file(name: str) -> ImageNetFile:
    """A file of torchvision, whose name ends with the first digits of its hash."""
    digits = name.removesuffix(".pth").rpartition("-")[2]
    return ImageNetFile(name, f"https://download.pytorch.org/models/{name}", digits)


def load_imagenet(backbone: Backbone, encoder: str, file: ImageNetFile) -> None:
    """Fill `backbone` from `file`, fetched when it is not there yet.

    The weights of the first convolution are repeated over the images that the backbone takes, and
    divided by their number. Raises InputError when the file cannot be had, is damaged, or is not
    of this network.
    """
    weights = read_weights(fetch(encoder, file))
    own = {file.rename(k): v for k, v in weights.items() if not k.startswith(CLASSIFIERS)}
    # The first convolution is registered first in every backbone.
    stem, expected = next(iter(backbone.state_dict().items()))
    if stem in own:
        num_images = expected.shape[1] // own[stem].shape[1]
        own[stem] = own[stem].repeat(1, num_images, 1, 1) / num_images
    try:
        backbone.load_state_dict(own)
    except RuntimeError as error:
        raise InputError(f"{file.path}: not the weights of '{encoder}': {error}") from error


def fetch(encoder: str, file: ImageNetFile) -> Path:
    """The path of `file`, downloaded if need be. Raises InputError when it is not to be had."""
    if file.path.is_file():
        check_hash(file.path, file)
        return file.path
    try:
        download(file)
    except (OSError, HTTPException) as error:
        raise InputError(
            f"the ImageNet weights of '{encoder}' are not at {file.path} and could not be fetched "
            f"({error}). Fetch {file.url} on a machine with a network and put it there under that "
            "name, or set `weights: scratch`"
        ) from error
    return file.path


def download(file: ImageNetFile) -> None:
    """Download `file`; it gets its name when it is whole, whoever else downloads it meanwhile."""
    file.path.parent.mkdir(parents=True, exist_ok=True)
    draft = file.path.with_name(f".{file.name}.{uuid4().hex}.partial")
    print(f"downloading {file.url} to {file.path}", file=sys.stderr)
    try:
        with open_url(file.url) as source, draft.open("wb") as target:
            shutil.copyfileobj(source, target, 2**20)
        check_hash(draft, file)
        os.replace(draft, file.path)
    finally:
        draft.unlink(missing_ok=True)


def open_url(url: str, method: str = "GET") -> Any:
    """Open `url` without retries. Raises OSError within seconds when it cannot be reached."""
    return urlopen(Request(url, method=method, headers={"User-Agent": "mde"}), timeout=TIMEOUT_S)


def check_hash(path: Path, file: ImageNetFile) -> None:
    """Raises InputError when the content of `path` is not that of `file`."""
    found = file_sha256(path)
    if not found.startswith(file.sha256):
        raise InputError(
            f"{path}: damaged: its SHA-256 starts with {found[: len(file.sha256)]}, not with "
            f"{file.sha256}. Delete it and fetch {file.url} again, or set `weights: scratch`"
        )


def read_weights(path: Path) -> dict[str, Tensor]:
    """Parameters by name. Raises InputError when they cannot be read; runs no pickled code."""
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise InputError(
            f"{path}: cannot be read as weights: {error}. Delete it and run again"
        ) from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    # Imported for such a file alone: networks are built where there is nothing but torch.
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise RuntimeError(str(error)) from error
