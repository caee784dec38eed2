"""The one error that is written for people."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from mde.redact import without_password


class InputError(ValueError):
    """Something the person at the keyboard can mend: a file, a key, a setting.

    The message names the file or key, what was found, what is allowed and what to do. Stages and
    the `mde` command print it alone and exit with 1; a traceback comes with `--debug` only.
    """


@contextmanager
def explained(debug: bool) -> Iterator[None]:
    """Print an InputError as one message on standard error and exit with 1.

    debug: let it through, with its traceback. Passwords in addresses are hidden in either.
    """
    try:
        yield
    except Exception as error:
        text = "".join(traceback.format_exception(error))
        if isinstance(error, InputError) and not debug:
            text = f"error: {error}"
        elif without_password(text) == text:
            raise
        # Libraries repeat the address that they asked, such as MLflow's.
        print(without_password(text), file=sys.stderr)
        raise SystemExit(1) from None
