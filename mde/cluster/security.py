"""Keep strangers out of Ray: who reaches one without a token runs code as its user.

What Ray 2.60 does on Linux: a local `ray.init` binds its dashboard to 127.0.0.1, but the control
service (GCS) and the raylets to all interfaces, whatever it is told; so the token is the only lock.
It is demanded by default, unless RAY_AUTH_MODE says otherwise. `ray start` demands one only if one
exists or RAY_AUTH_MODE=token is set.
"""

import json
import os
import re
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from mde.errors import InputError
from mde.redact import SECRET_KEY, without_password

ALLOW_OPEN = "MDE_ALLOW_OPEN_RAY"
"""Environment variable that allows a Ray without a token.

Not a key of params.yaml: whether a network is trusted is a property of the place, and what is
committed for one place would open all others.
"""

PLACES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
"""Where Ray looks for the token before ~/.ray/auth_token."""

JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Environment of a Ray job: its runtime_env and its metadata, as JSON."""


@dataclass(frozen=True)
class Answer:
    """What Ray's control service says to a call. state: `in`, `refused` or `nobody`."""

    state: str
    details: str = ""


def ask(address: str, token: str | None = None, timeout_s: float = 10) -> Answer:
    """Call the control service at `host:port` as a client with this token, or with none."""
    metadata = [("authorization", f"Bearer {token}")] if token else []
    options = [("grpc.enable_http_proxy", 0)]
    try:
        with grpc.insecure_channel(address, options=options) as channel:
            # An empty request is valid; the answer's content does not matter.
            call = channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")
            call(b"", timeout=timeout_s, metadata=metadata)
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNAUTHENTICATED:
            return Answer("refused")
        return Answer("nobody", f"{error.code().name.lower()} within {timeout_s:g} s")
    return Answer("in")


def prepare_local() -> None:
    """Before a Ray is started on this machine: it must have a token, that only its user can read.

    Raises InputError when RAY_AUTH_MODE switches the token off and ALLOW_OPEN is not set, or when
    the token cannot be kept.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "token")
    if mode.lower() == "token":
        if find_token() is None:
            _make_token()
        return
    _refuse_or_note(f"RAY_AUTH_MODE={mode} starts a Ray", "unset RAY_AUTH_MODE")


def find_address(address: str) -> str:
    """The host:port of `auto`, the Ray that was started on this machine; others as they are.

    Raises InputError when none was started.
    """
    if address != "auto":
        return address
    # `ray.init("auto")` finds it too, but waits for minutes for a Ray that has died.
    from ray._private.services import canonicalize_bootstrap_address

    try:
        found = canonicalize_bootstrap_address(address)
    except ConnectionError:
        found = None
    if found is None:
        raise InputError(
            "RAY_ADDRESS=auto: no Ray was started on this machine; start one with "
            "RAY_AUTH_MODE=token ray start --head, or unset RAY_ADDRESS"
        )
    if "RAY_AUTH_MODE" not in os.environ and find_token() is not None:
        # As `ray.init("auto")` does.
        os.environ["RAY_AUTH_MODE"] = "token"
    return found


def check_cluster(address: str) -> None:
    """Before joining the Ray at `host:port`: it must be there, demand a token, and accept ours.

    Raises InputError otherwise; one that lets everybody in is refused unless ALLOW_OPEN is set.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise InputError(
            f"RAY_ADDRESS={address}: expected host:port, 'auto' or 'local'; a dashboard's address "
            "(http://…) belongs to `ray job submit --address`, and Ray Client (ray://…) is not used"
        )
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        # Then Ray demands a certificate of each client, and does not answer calls in the clear.
        return
    stranger = ask(address)
    if stranger.state == "nobody":
        raise InputError(
            f"RAY_ADDRESS={address}: no Ray answers there ({stranger.details}); start one with "
            "RAY_AUTH_MODE=token ray start --head, mend RAY_ADDRESS, or unset it for a Ray on this "
            "machine alone"
        )
    if stranger.state == "in":
        todo = "restart its nodes with RAY_AUTH_MODE=token and the same token"
        _refuse_or_note(f"RAY_ADDRESS={address} is a Ray", todo)
        return
    token = find_token()
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token" or token is None:
        raise InputError(
            f"RAY_ADDRESS={address} demands a token: set RAY_AUTH_MODE=token, and put the "
            "cluster's token into ~/.ray/auth_token (or the file of RAY_AUTH_TOKEN_PATH)"
        )
    if ask(address, token).state != "in":
        raise InputError(
            f"RAY_ADDRESS={address} does not take the token of {token_place()}; get the cluster's "
            "token from its head node: ray get-auth-token"
        )


def token_place() -> str:
    """Where the token comes from, for people."""
    return next((name for name in PLACES if os.environ.get(name)), "~/.ray/auth_token")


def token_file() -> Path | None:
    """The file of the token, whether it is there or not; None when it comes from RAY_AUTH_TOKEN."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return None
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return Path(path) if path else Path.home() / ".ray/auth_token"


def find_token() -> str | None:
    """Ray's token, in Ray's order of places; its file is made readable to its owner alone.

    None when there is none yet. Raises InputError when the file is somebody else's and all can
    read it, or cannot be read.
    """
    path = token_file()
    if path is None:
        return os.environ["RAY_AUTH_TOKEN"].strip()
    try:
        found = path.stat()
        if found.st_mode & 0o077 and found.st_uid == os.geteuid():
            # Ray writes it with the umask's permissions: 0644 as a rule.
            path.chmod(0o600)
            _note(f"{path}: others could read Ray's token; it is now readable to you alone (0600)")
        elif found.st_mode & 0o007:
            raise InputError(
                f"{path}: everybody can read Ray's token (mode {found.st_mode & 0o777:04o}), and "
                "the file is not yours; ask its owner for chmod o= or use a token of your own with "
                "RAY_AUTH_TOKEN_PATH"
            )
        return path.read_text().strip() or None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path}: Ray's token cannot be read: {error.strerror}") from error


def job_config() -> dict[str, Any]:
    """What Ray says of the job that this process belongs to; empty outside of one."""
    config: dict[str, Any] = json.loads(os.environ.get(JOB_CONFIG) or "{}")
    return config


def note_secrets_of_job() -> None:
    """Say which secrets stand in this job's runtime_env: all who may list jobs can read them."""
    variables = (job_config().get("runtime_env") or {}).get("env_vars") or {}
    shown = [name for name, value in sorted(variables.items()) if _is_secret(name, value)]
    if shown:
        _note(
            f"{', '.join(shown)}: in the job's runtime_env, where the dashboard and ray job list "
            "show it to all who have the token; put it into the environment of the nodes"
        )


def _is_secret(name: str, value: str) -> bool:
    named = re.fullmatch(SECRET_KEY, name, re.IGNORECASE)
    # A place where a secret lies is none.
    placed = name.upper().endswith(("_FILE", "_PATH"))
    return bool(named and not placed) or without_password(value) != value


def _make_token() -> None:
    path = token_file()
    assert path is not None, "RAY_AUTH_TOKEN is set: there is a token"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Ray would make one that others can read.
        with open(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    except OSError as error:
        raise InputError(
            f"{path}: Ray's token cannot be written: {error.strerror}; name a file that you may "
            "write with RAY_AUTH_TOKEN_PATH"
        ) from error


def _refuse_or_note(found: str, todo: str) -> None:
    meaning = (
        f"{found} without a token, which listens on all interfaces: whoever reaches this machine "
        "could run code as its user"
    )
    if os.environ.get(ALLOW_OPEN) == "1":
        _note(f"{meaning}; {ALLOW_OPEN}=1 allows it")
        return
    raise InputError(
        f"{meaning}; {todo}, or set {ALLOW_OPEN}=1 if the network and all users are trusted"
    )


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr, flush=True)
