"""Files of published weights, read as tensors alone: code that lies in them is never run."""

import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from mde.errors import InputError
from mde.models.encoders.imagenet import old_to_new_name

SUFFIXES = (".pth", ".pt", ".tar", ".safetensors", ".bin", ".ckpt")
# Of the dicts that a file may hold beside each other, the one that is the network's.
WRAPPERS = ("state_dict", "model_state_dict", "model", "network", "net", "weights", "params")
# What monodepth2 saves among the tensors of its encoder.
FACTS = ("height", "width", "use_stereo")
EXPORT = (
    "If you trust the file, export its tensors with the code that wrote it: checkpoint = "
    "torch.load(FILE, weights_only=False); torch.save(checkpoint['model'].state_dict(), NEW) "
    "(checkpoint.state_dict() or checkpoint['state_dict'] where that is what it holds), and "
    "import NEW"
)


@dataclass(frozen=True)
class Source:
    """The tensors of a file under its own names, of any precision, and the `FACTS` among them."""

    path: Path
    tensors: dict[str, Tensor]
    facts: dict[str, int]


def read_file(path: Path) -> Source:
    """Read the one dict of tensors that a file holds, however it is wrapped.

    Raises InputError when there is no such file, or it is damaged, or holds anything but that.
    """
    return as_source(path, load_content(path))


def read_single(path: Path) -> Source:
    """Read a file, or the only file of weights in a folder."""
    if not path.is_dir():
        return read_file(path)
    files = [file for file in sorted(path.iterdir()) if file.suffix in SUFFIXES]
    if len(files) != 1:
        raise InputError(f"{path}: give one file of weights; there are {listing(files)}")
    return read_file(files[0])


def read_pair(path: Path, first: tuple[str, ...], second: tuple[str, ...]) -> tuple[Source, Source]:
    """Read the two files of a network from a folder.

    first, second: names that each of the two may have, without suffix; the published one first.
    The folder may lie below `path`. `path` may also be one of the files, or a single file that
    holds both dicts under these names, or the tensors of both.
    """
    if path.is_file() and bare_name(path) not in (*first, *second):
        content = load_content(path)
        parts = [_part(content, names) for names in (first, second)]
        if all(part is not None for part in parts):
            return as_source(path, parts[0]), as_source(path, parts[1])
        whole = as_source(path, content)
        return whole, whole
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    folder = find_folder(path.parent if path.is_file() else path, first)
    return read_file(find_file(folder, first)), read_file(find_file(folder, second))


def _part(content: Any, names: tuple[str, ...]) -> Any:
    if not isinstance(content, Mapping):
        return None
    return next((content[name] for name in names if holds_tensors(content.get(name))), None)


def find_folder(folder: Path, names: tuple[str, ...]) -> Path:
    """`folder`, or the only one below it, with a file of weights called one of `names`."""
    if weights_called(names, folder.iterdir()):
        return folder
    found = sorted({file.parent for file in weights_called(names, folder.rglob("*"))})
    if len(found) > 1:
        raise InputError(f"{folder}: several folders hold weights; give one of {listing(found)}")
    return found[0] if found else folder


def find_file(folder: Path, names: tuple[str, ...]) -> Path:
    """The file of weights called one of `names`; an InputError says what is there instead."""
    files = weights_called(names, folder.iterdir())
    if not files:
        others = [file for file in folder.iterdir() if file.suffix in SUFFIXES]
        raise InputError(
            f"{folder}: no {names[0]}.pth (nor {', '.join(names[1:]) or 'another name of it'}); "
            f"there are {listing(others)}"
        )
    if len(files) > 1:
        raise InputError(f"{folder}: keep one of {listing(files)}")
    return files[0]


def weights_called(names: tuple[str, ...], files: Iterable[Path]) -> list[Path]:
    """The files of weights with one of these names."""
    return sorted(f for f in files if f.suffix in SUFFIXES and bare_name(f) in names)


def bare_name(path: Path) -> str:
    """`encoder` of `encoder.pth.tar`."""
    while path.suffix in SUFFIXES:
        path = path.with_suffix("")
    return path.name


def listing(paths: Iterable[Path]) -> str:
    """Names for a message, at most ten."""
    names = [path.name for path in sorted(paths)]
    return ", ".join(names[:10]) + (f" … ({len(names)})" if len(names) > 10 else "") or "none"


def load_content(path: Path) -> Any:
    """What a file holds, of tensors and plain values. Raises InputError that says what it is."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files make torch raise whatever they like
        raise InputError(f"{path}: {explain(path, error)}") from error


def explain(path: Path, error: Exception) -> str:
    """Why torch would not read a file, and what to do."""
    if code := re.search(r"GLOBAL (\S+) (?:was|whose)", str(error)):
        return (
            f"it holds Python code ({code[1]}) and not tensors alone. Reading it would run that "
            f"code, so it is refused. {EXPORT}"
        )
    if "TorchScript" in str(error):
        return "it is a TorchScript program, code and weights in one, so it is refused. " + EXPORT
    with path.open("rb") as file:
        if file.read(64).lstrip().startswith(b"<"):
            return "it is a web page: the download gave that in place of the file; fetch it again"
    if zipfile.is_zipfile(path):
        names = zipfile.ZipFile(path).namelist()
        if not any(name.endswith("data.pkl") for name in names):
            return f"it is an archive of {listing(map(Path, names))}; unpack it and give the folder"
    reason = next(iter(str(error).splitlines()), "")
    return (
        "not a file of tensors, or damaged, or cut short by the download; fetch it again "
        f"({type(error).__name__}: {reason})"
    )


def as_source(path: Path, content: Any) -> Source:
    """The tensors and facts in what a file holds."""
    tensors: dict[str, Tensor] = {}
    facts: dict[str, int] = {}
    for key, value in find_tensors(path, content).items():
        name = old_to_new_name(str(key))
        if name in FACTS:
            facts[name] = int(value or 0)
        elif isinstance(value, Tensor):
            tensors[name] = value
    return Source(path, tensors, facts)


def find_tensors(path: Path, content: Any) -> Mapping[Any, Any]:
    """The dict of tensors in what a file holds, out of the dicts that it is wrapped in."""
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: it holds a {type(content).__name__}, not a dict of tensors")
    if any(isinstance(value, Tensor) and value.ndim for value in content.values()):
        return content
    inner = [key for key, value in content.items() if holds_tensors(value)]
    known = [key for key in WRAPPERS if key in inner]
    if not known and len(inner) != 1:
        raise InputError(
            f"{path}: no dict of tensors, alone or under {', '.join(WRAPPERS)}; its keys are "
            + (", ".join(map(str, list(content)[:10])) or "none")
        )
    return find_tensors(path, content[(known or inner)[0]])


def holds_tensors(value: Any) -> bool:
    """Whether a value is a dict of tensors by name, or such a dict is in it."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return False
    return any(isinstance(v, Tensor) or holds_tensors(v) for v in value.values())
