"""Sizes as people type them."""

import re

from mde.errors import InputError


def parse_size(text: str | None, option: str = "--size") -> tuple[int, int] | None:
    """`192x640` → (192, 640): (H, W) in px; None stays None. Raises InputError for other texts."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text, re.ASCII)
    if not found or not (int(found[1]) and int(found[2])):
        raise InputError(f"{option} {text}: expected HEIGHTxWIDTH in px, such as 192x640")
    return int(found[1]), int(found[2])
