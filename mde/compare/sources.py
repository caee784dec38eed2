"""What the models of a comparison may be called, and where their checkpoints come from."""

import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mde.data.place import Place, resolve
from mde.errors import InputError
from mde.layout import Layout
from mde.model_source import KINDS, find_checkpoint
from mde.protocols import PROTOCOLS, Protocol
from mde.train.checkpoint import read_state


@dataclass(frozen=True)
class Contender:
    """A model to compare. label: its name in tables and pictures, unlike all others."""

    label: str
    source: str
    checkpoint: Path
    state: dict[str, Any]


def find_contenders(root: Path, sources: list[str], into: Path) -> list[Contender]:
    """Find the checkpoints of all sources; what lies in MLflow is downloaded below `into`.

    root: where models/ and the MLflow store are. Raises InputError for a source that is nothing of
    KINDS or not there, and when there are fewer than two.
    """
    if len(sources) < 2:
        raise InputError(f"found {len(sources)} model to compare, two are needed; each is {KINDS}")
    found = []
    for number, source in enumerate(sources):
        checkpoint = find_checkpoint(root, source, into / str(number))
        state = read_state(checkpoint)
        found.append(Contender(state["variant"]["name"], source, checkpoint, state))
    return _with_unique_labels(found)


def _with_unique_labels(found: list[Contender]) -> list[Contender]:
    """Variants' names; where several share one, with their source; then with their number."""
    names = Counter(one.label for one in found)
    found = [
        one if names[one.label] == 1 else replace(one, label=_long_label(one)) for one in found
    ]
    names, seen, labelled = Counter(one.label for one in found), Counter[str](), []
    for one in found:
        seen[one.label] += 1
        number = f" #{seen[one.label]}" if names[one.label] > 1 else ""
        labelled.append(replace(one, label=one.label + number))
    return labelled


def _long_label(one: Contender) -> str:
    name, source = one.label, one.source.rstrip("/")
    if source == name:
        return name
    if version := re.fullmatch(rf"models:/(?:mde-)?{re.escape(name)}(@.+|/\d+)", source):
        return f"{name} ({version[1].replace('/', 'version ')})"
    if run := re.fullmatch(r"(?:runs:/)?([0-9a-f]{8})[0-9a-f]{24}(?:/checkpoint)?", source):
        return f"{name} (run {run[1]})"
    return f"{name} ({source})"


def given_data(root: Path, data: str | None, first: Contender) -> Place:
    """The dataset to compare on: `data`, or else the one that the first model has seen.

    Raises InputError when its checkpoint does not say which.
    """
    if data is not None:
        return resolve(data)
    if name := first.state["variant"].get("dataset"):
        return Layout(root).shards(name)
    raise InputError(f"{first.source}: does not say which dataset it was trained on; give --data")


def given_protocol(name: str | None, first: Contender) -> Protocol:
    """The protocol of a name or an id, or else the first model's.

    Raises InputError when there is none of that name, or the checkpoint does not say which.
    """
    known = ", ".join(PROTOCOLS)
    wanted = name or first.state["variant"].get("protocol")
    if wanted is None:
        raise InputError(f"{first.source}: does not say its protocol; give --protocol: {known}")
    for protocol in PROTOCOLS.values():
        if wanted in (protocol.name, protocol.id):
            return protocol
    raise InputError(f"no protocol '{wanted}'; there are: {known}")
