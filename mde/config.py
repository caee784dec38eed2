"""`params.yaml` → the typed configuration of one stage.

Each configuration class stands beside what it configures and is a plain dataclass, so a box that
has only torch can use it. Here they are filled and checked: unknown keys, wrong types and wrong
values end in one `InputError` that names the key.
"""

import dataclasses
import difflib
import json
import typing
from pathlib import Path
from typing import Any, TypeVar

import pydantic
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from mde.errors import InputError
from mde.redact import without_password

T = TypeVar("T")

SECTIONS = ("sample", "datasets", "variants", "run", "promotion", "pictures", "cluster")


def load_params(path: Path) -> dict[str, Any]:
    """Read a params file (YAML 1.2, so `1e-4` is a number).

    Raises InputError when the file is missing, is not YAML, or has an unknown top-level key.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the params file with --params")
    try:
        # The C parser does not take {raw: s3://…}.
        params = YAML(typ="safe", pure=True).load(path)
    except YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(params, dict):
        raise InputError(f"{path}: expected a mapping with the keys {', '.join(SECTIONS)}")
    for key in params:
        if key not in SECTIONS:
            raise InputError(f"{path}: {unknown_key(str(key), SECTIONS)}")
    return params


def load_section(path: Path, key: str, kind: type[T], optional: bool = False) -> T:
    """Read the dotted `key` of a params file into `kind`.

    optional: a section that is not there has its defaults.
    Raises InputError when the key is absent or its content does not fit `kind`.
    """
    params = load_params(path)
    if optional and key not in params:
        return kind()
    return parse_section(path, key, find_section(params, path, key), kind)


def find_section(params: dict[str, Any], path: Path, key: str) -> dict[str, Any]:
    """Return the mapping at the dotted `key`; raises InputError that lists what is there."""
    node: Any = params
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            known = list(node) if isinstance(node, dict) else []
            raise InputError(f"{path}: {key}: {unknown_key(part, known)}")
        node = node[part]
    if not isinstance(node, dict):
        raise InputError(f"{path}: {key}: expected a mapping, found {node!r}")
    return node


def parse_section(path: Path, key: str, section: dict[str, Any], kind: type[T]) -> T:
    """Check `section` against the dataclass `kind`, strictly: a string is not a number."""
    try:
        # What JSON does not know, such as a date or NaN, becomes a text, which no number may be.
        plain = json.loads(json.dumps(section, default=str), parse_constant=str)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: {key}: a key that is no text, or an alias within itself: {error}"
        ) from error
    try:
        return pydantic.TypeAdapter(kind).validate_json(json.dumps(plain), strict=True)
    except pydantic.ValidationError as error:
        lines = [_explain(path, key, kind, item) for item in error.errors()]
        raise InputError("\n".join(lines)) from error


def unknown_key(name: str, known: typing.Iterable[str]) -> str:
    """Say that `name` is not known, which name is nearest, and which are allowed."""
    known = sorted(map(str, known))
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else "."
    return f"unknown key '{name}'{hint} Allowed: {', '.join(known) or 'none'}."


def _explain(path: Path, key: str, kind: type, item: Any) -> str:
    keys, found_class = _follow(kind, item["loc"])
    where = ".".join([key, *keys])
    if item["type"] == "unexpected_keyword_argument":
        known = [f.name for f in dataclasses.fields(found_class)]
        return f"{path}: {where}: {unknown_key(keys[-1], known)}"
    if item["type"] == "missing":
        return f"{path}: {where}: this key is required and is not there"
    shown = without_password(repr(item["input"]))
    found = "" if isinstance(item["input"], dict) else f", found {shown}"
    return f"{path}: {where}: {item['msg'].removeprefix('Value error, ')}{found}"


def _follow(kind: Any, loc: tuple[Any, ...]) -> tuple[list[str], Any]:
    """The keys of a place as they stand in the file, and the class that holds the last one."""
    keys, holder = [], kind
    for part in loc:
        if dataclasses.is_dataclass(kind):
            holder, kind = kind, typing.get_type_hints(kind).get(part)
        elif isinstance(part, int):
            kind = next(iter(typing.get_args(kind)), None)
        else:
            # Which alternative of a union was tried is pydantic's, not a key.
            continue
        keys.append(str(part))
    return keys, holder
