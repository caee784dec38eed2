"""Names of published tensors → the network's own, each of them, in the right shape."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mde.errors import InputError
from mde.models.weights.files import Source

LISTED = 10
# Files of PyTorch before 0.4.1 do not have it, and inference does not use it.
OPTIONAL = "num_batches_tracked"


class Part(NamedTuple):
    """A part of a network, and where its tensors are.

    own: prefix of its names in the network. source, prefix: its file, and the prefix there.
    rename: own name → published name, both without their prefixes.
    dropped: names that the file may hold and the network does without.
    """

    own: str
    source: Source
    prefix: str
    rename: Callable[[str], str] = str
    dropped: tuple[str, ...] = ()


def find_prefix(source: Source, anchors: Iterable[str], default: str) -> str:
    """What stands before `anchors`, names that are unique, in a file: `module.encoder.` or so."""
    for anchor in anchors:
        for name in source.tensors:
            if name == anchor or name.endswith("." + anchor):
                return name.removesuffix(anchor)
    return default


def fill(network: nn.Module, what: str, parts: list[Part]) -> None:
    """Load the tensors of all parts into `network` and put it into eval mode.

    what: the network, for messages. Raises InputError that lists names that are missing,
    unexpected or of another shape or type, and those with values that are not finite.
    """
    state = network.state_dict()
    for source in {id(part.source): part.source for part in parts}.values():
        here = [part for part in parts if part.source is source]
        names = {own: name for part in here for own, name in _names(part, state)}
        dropped = {name for part in here for name in part.dropped}
        _check(source, what, {name: state[own] for own, name in names.items()}, dropped)
        zero = torch.tensor(0)
        state |= {own: source.tensors.get(name, zero) for own, name in names.items()}
    network.load_state_dict(state)
    network.eval()


def _names(part: Part, state: dict[str, Tensor]) -> Iterable[tuple[str, str]]:
    for own in state:
        if own.startswith(part.own):
            yield own, part.prefix + part.rename(own.removeprefix(part.own))


def _check(source: Source, what: str, expected: dict[str, Tensor], dropped: set[str]) -> None:
    found = source.tensors
    missing = [
        f"{name} {_shape(tensor)}"
        for name, tensor in expected.items()
        if name not in found and not name.endswith(OPTIONAL)
    ]
    extra = [f"{n} {_shape(t)}" for n, t in found.items() if n not in expected and n not in dropped]
    wrong = [
        f"{name} is {_shape(found[name])}, expected {_shape(tensor)}"
        for name, tensor in expected.items()
        if name in found and _shape(found[name]) != _shape(tensor)
    ]
    bad = [name for name in expected if name in found and not found[name].isfinite().all()]
    titles = ("missing", "unexpected", "of another shape", "with values that are not finite")
    lists = dict(zip(titles, (missing, extra, wrong, bad), strict=True))
    if any(lists.values()):
        problems = [_listing(title, names) for title, names in lists.items() if names]
        raise InputError("\n".join([f"{source.path}: not the weights of {what}", *problems]))


def _shape(tensor: Tensor) -> str:
    shape = "x".join(map(str, tensor.shape)) or "one number"
    return shape if tensor.is_floating_point() else f"{shape} of integers"


def _listing(title: str, names: list[str]) -> str:
    more = f"\n    … and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"  {len(names)} {title}:\n    " + "\n    ".join(names[:LISTED]) + more
