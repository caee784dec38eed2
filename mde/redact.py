"""Passwords out of URIs, before a person, a log or a file gets to see them."""

import os
import re

SECRET_KEY = r"[\w.-]*(?:passw|pwd|secret|token|access_?key|api_?key|credential|signature)[\w.-]*"
"""Names of the options of a URI whose values are nobody's business, such as `X-Amz-Signature`."""

SHORTEST = 8
"""Characters of a secret that is looked for in files; shorter ones are found by chance."""

# SQLAlchemy takes a password with a slash in it; digits before one are a port.
_PASSWORD = re.compile(r"(://[^\s/?#@:]*):(?!\d*(?:[/?#\s]|$))(?:[^\s/?#]*|[^\s@]*)@")
# `https://TOKEN@host/repository.git`, as code hosts hand them out.
_TOKEN = re.compile(r"(https?://)[^\s/?#@:*]+@", re.IGNORECASE)
_OPTION = re.compile(rf"([?&;]{SECRET_KEY}=)[^\s&;#'\")]*", re.IGNORECASE)


def without_password(text: str) -> str:
    """A URI, or a text with URIs in it, with `***` for every password.

    `scheme://user:password@host` → `scheme://user:***@host`; `https://token@host` →
    `https://***@host`; the value of an option such as `?password=` or `&secret_key=`. All else
    stays as it is.
    """
    text = _PASSWORD.sub(r"\1:***@", text)
    text = _TOKEN.sub(r"\1***@", text)
    return _OPTION.sub(r"\1***", text)


def hides_password(text: str) -> bool:
    """Whether `without_password` has something to hide."""
    return without_password(text) != text


def secret_in(content: bytes) -> str | None:
    """Name of a variable of the environment, such as a password's, whose value is in `content`."""
    named = re.compile(SECRET_KEY, re.IGNORECASE)
    for name, value in sorted(os.environ.items()):
        # A place where a secret lies is none.
        placed = name.upper().endswith(("_FILE", "_PATH")) or os.path.exists(value)
        looked_for = named.fullmatch(name) and not placed and len(value) >= SHORTEST
        if looked_for and value.encode(errors="surrogateescape") in content:
            return name
    return None
