"""Docstrings as the site shows them: one line a parameter, with its name as code.

In the source a docstring says `pred, target: (B,1,H,W) depth in m. valid: (B,1,H,W) bool.` in
running text, which is good to read in an editor. mkdocstrings calls the class below.
"""

import re
from collections.abc import Iterable
from typing import Any

import griffe

# Sentences that stand on their own.
APART = re.compile(r"(?<=[.;:)]) +(?=Raises |Returns |Source: )")
# H*W, which Markdown would take for the begin of something emphasized; code is as it stands.
STAR = re.compile(r"(`[^`]*`)|(?<=[\w,])\*(?=\w)")


class ParametersAsLists(griffe.Extension):
    """Turns the parameters that a docstring tells of into a list."""

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """The parameters of a function."""
        self._rewrite(func, (parameter.name for parameter in func.parameters))

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """The fields of a class, or what makes one."""
        init = cls.members.get("__init__")
        given = [p.name for p in init.parameters] if isinstance(init, griffe.Function) else []
        self._rewrite(cls, [*cls.members, *given])

    def _rewrite(self, documented: griffe.Object, names: Iterable[str]) -> None:
        if documented.docstring:
            documented.docstring.value = as_list(documented.docstring.value, set(names))


def as_list(text: str, names: set[str]) -> str:
    """The text of a docstring, with `name: …` of these names as items of a list."""
    text = "\n\n".join(" ".join(part.split("\n")) for part in text.split("\n\n"))
    text = STAR.sub(lambda found: found[1] or r"\*", APART.sub("\n\n", text))
    if not names:
        return text
    name = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    start = re.compile(rf"(?:^|(?<=[.;:)]) )((?:{name})(?:, (?:{name}))*): ", re.M)

    def item(found: re.Match[str]) -> str:
        shown = ", ".join(f"`{one}`" for one in found[1].split(", "))
        return f"\n- {shown}: "

    return re.sub(r"\n(- [^\n]*)\n(?!- |\n)", r"\n\1\n\n", start.sub(item, text))
