"""Edit a YAML file as text: what is not touched stays as it was, to the letter.

Positions come from the parser; whoever edits checks that the outcome says what it should.
"""

import io
import json
import re
import textwrap
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError

from mde.errors import InputError

SCALAR = re.compile(r"""'[^']*'|"[^"]*"|[^\s,{}\[\]]+""")
PLAIN = re.compile(r"[\w./~-]+")


def parse_yaml(text: str) -> Any:
    """Plain values of a YAML text."""
    return YAML(typ="safe", pure=True).load(io.StringIO(text))


def get_entry(text: str, section: str, name: str) -> str:
    """The lines of `section.name` of a YAML text, with their comments, at no indentation.

    Raises InputError when they do not stand in lines of their own.
    """
    lines = text.splitlines()
    start, end = _place(lines, _block(_parse(text), section), name)
    return textwrap.dedent("\n".join(lines[start:end])) + "\n"


def put_entry(text: str, section: str, name: str, entry: str) -> str:
    """Put `entry`, lines of `name` and its value, into a section of a YAML text.

    It takes the place of the entry of that name, or becomes the section's last one.
    Raises InputError when the section does not stand in lines of its own.
    """
    lines = text.splitlines()
    data = _parse(text)
    if section not in data:
        gap = [""] if lines and lines[-1].strip() else []
        new = [f"{section}:", *textwrap.indent(entry, "  ").splitlines()]
        return "\n".join([*lines, *gap, *new]) + "\n"
    block = _block(data, section)
    names = list(block)
    indented = textwrap.indent(entry, " " * block.lc.key(names[0])[1]).splitlines()
    if name in block:
        start, end = _place(lines, block, name)
    else:
        last, end = _place(lines, block, names[-1])
        start = end
        if len(names) > 1 and not lines[_above(lines, last) - 1].strip():
            indented = ["", *indented]
    return "\n".join([*lines[:start], *indented, *lines[end:]]) + "\n"


def set_value(text: str, keys: list[str], value: str | int) -> str:
    """Set a number or a word at nested `keys`; the last one may be new in a block of lines.

    Raises InputError when there is no such place.
    """
    lines = text.splitlines()
    node = _parse(text)
    for key in keys[:-1]:
        node = node.get(key) if isinstance(node, CommentedMap) else None
    if not isinstance(node, CommentedMap) or not node:
        raise InputError(f"no mapping {'.'.join(keys[:-1])} to set {keys[-1]} in")
    word = str(value) if PLAIN.fullmatch(str(value)) else json.dumps(value)
    if keys[-1] in node:
        row, column = node.lc.value(keys[-1])
        line = lines[row]
        lines[row] = line[:column] + SCALAR.sub(lambda _: word, line[column:], count=1)
    elif node.fa.flow_style():
        raise InputError(f"{'.'.join(keys)} is not there, and is best added by hand")
    else:
        row, column = node.lc.key(next(iter(node)))
        lines.insert(row, f"{' ' * column}{keys[-1]}: {word}")
    return "\n".join(lines) + "\n"


def _parse(text: str) -> CommentedMap:
    try:
        data = YAML().load(io.StringIO(text))
    except YAMLError as error:
        raise InputError(f"not valid YAML: {error}") from error
    return data if isinstance(data, CommentedMap) else CommentedMap()


def _block(data: CommentedMap, section: str) -> CommentedMap:
    block = data.get(section)
    if not isinstance(block, CommentedMap) or not block or block.fa.flow_style():
        raise InputError(
            f"{section}: expected a block of indented lines, one entry after the other"
        )
    return block


def _place(lines: list[str], block: CommentedMap, name: str) -> tuple[int, int]:
    # First line, and the one after the last. A comment that is not deeper belongs to what follows.
    start, indent = block.lc.key(name)
    end = start + 1
    for i in range(start + 1, len(lines)):
        depth = len(lines[i]) - len(lines[i].lstrip())
        if lines[i].strip() and depth <= indent:
            break
        if lines[i].strip():
            end = i + 1
    return start, end


def _above(lines: list[str], row: int) -> int:
    # The first line of the comment above an entry.
    while row > 0 and lines[row - 1].lstrip().startswith("#"):
        row -= 1
    return row
