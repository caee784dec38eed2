"""Object stores by URI: `s3://bucket/folder`, on AWS or any server that speaks S3.

Who we are comes from the environment, as all AWS tools take it, and the server's address from
`AWS_ENDPOINT_URL`: neither is part of a URI, which gets into files, logs and pages.
"""

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from mde.errors import InputError
from mde.redact import hides_password

OPTIONS = ("endpoint_override", "region", "scheme")
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""Variables that name another server than AWS; the first that is set counts."""


@dataclass(frozen=True)
class BucketPlace:
    """A prefix of an object store. path: bucket/folder. endpoint: of the server; None: of AWS."""

    path: str
    endpoint: str | None
    region: str | None


def check_place(uri: str) -> None:
    """Refuse a path or URI that holds a password. Raises InputError."""
    scheme, _, rest = uri.partition("://")
    server = urlsplit(uri).netloc
    if not rest or not ("@" in server or hides_password(uri) or (scheme == "s3" and ":" in server)):
        return
    # A secret key may hold slashes, so that it reaches into what looks like the path.
    before, at, behind = rest.rpartition("@")
    shown = f"{scheme}://{'***@' if before else ''}{behind.partition('?')[0] if at else '…'}"
    raise InputError(
        f"{shown}: keys do not belong into a URI, which gets into git, logs and pages: take them "
        "out, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE) in the "
        "environment; what others may have seen, replace"
    )


def parse_bucket(uri: str) -> BucketPlace:
    """An s3:// URI, with the server's address from the environment when it names none itself.

    Raises InputError for another scheme, a password, and options that are not known.
    """
    check_place(uri)
    parts = urlsplit(uri)
    options = dict(parse_qsl(parts.query))
    if parts.scheme != "s3" or not parts.netloc:
        found = f"{parts.scheme}:// is not known" if parts.scheme != "s3" else "it has no bucket"
        raise InputError(
            f"storage {uri!r}: {found}; allowed are a path, file://… and s3://bucket/folder"
        )
    if unknown := sorted(options.keys() - set(OPTIONS)):
        raise InputError(
            f"storage {uri!r}: unknown option {unknown[0]!r}; allowed: {', '.join(OPTIONS)}"
        )
    endpoint = next((url for name in ENDPOINTS if (url := os.environ.get(name))), None)
    if override := options.get("endpoint_override"):
        endpoint = (
            override if "://" in override else f"{options.get('scheme', 'https')}://{override}"
        )
    path = f"{parts.netloc}/{unquote(parts.path).strip('/')}".rstrip("/")
    return BucketPlace(path, endpoint, options.get("region"))


def open_bucket(place: BucketPlace) -> Any:
    """The `s3fs.S3FileSystem` of a place, one for each identity and server in this process.

    Raises InputError without the library.
    """
    # Tests, and people in notebooks, change them within a process.
    identity = tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith("AWS_")))
    return _open(place.endpoint, place.region, identity, os.getpid())


@functools.lru_cache(maxsize=8)
def _open(endpoint: str | None, region: str | None, identity: Any, pid: int) -> Any:
    try:
        import s3fs
    except ModuleNotFoundError as error:
        raise InputError(
            f"s3:// needs a library that is not installed ({error.name}): pip install 'mde[s3]'"
        ) from error
    # Servers other than AWS stumble over the checksums that AWS has added.
    names = ("request_checksum_calculation", "response_checksum_validation")
    asked = {name: "when_required" for name in names if f"AWS_{name.upper()}" not in os.environ}
    return s3fs.S3FileSystem(
        endpoint_url=endpoint,
        client_kwargs={"region_name": region} if region else {},
        config_kwargs=asked if endpoint else {},
        # Others write too.
        use_listings_cache=False,
        skip_instance_cache=True,
    )


@contextmanager
def bucket_errors() -> Iterator[None]:
    """Let what the client raises without a connection, credentials or bucket be an OSError.

    It is a FileNotFoundError for an object that is not there, and nothing else.
    """
    try:
        yield
    except FileNotFoundError as error:
        answer = getattr(error.__cause__, "response", {}).get("Error", {})
        if answer.get("Code") == "NoSuchBucket":
            raise OSError("there is no such bucket; make it, or mend its name") from error
        raise
    except OSError:
        raise
    except Exception as error:
        # By its place: without the library nothing of it is raised.
        if type(error).__module__.partition(".")[0] not in ("botocore", "aiobotocore"):
            raise
        raise OSError(f"{type(error).__name__}: {error}") from error
