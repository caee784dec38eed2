"""The one error that is written for people."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Something the person at the keyboard can mend: a file, a key, a setting.

    The message names the file or key, what was found, what is allowed and what to do. Stages and
    the `mde` command print it alone and exit with 1; a traceback comes with `--debug` only.
    """


@contextmanager
def explained(debug: bool) -> Iterator[None]:
    """Print an InputError as one message on standard error and exit with 1.

    debug: let it through, with its traceback.
    """
    try:
        yield
    except InputError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
