"""What people, logs and files get to see of a URI with a password in it."""

import pytest

from mde.redact import without_password


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://ann:s3cret@host:5000/x", "http://ann:***@host:5000/x"),
        ("postgresql+psycopg2://ann:s3c/ret@host/db", "postgresql+psycopg2://ann:***@host/db"),
        ("http://:s3cret@host", "http://:***@host"),
        ("s3://KEY:s3c+ret@bucket/raw?region=x", "s3://KEY:***@bucket/raw?region=x"),
        ("https://s3cret@host/repo.git", "https://***@host/repo.git"),
        ("https://ann:s3cret@host/repo.git", "https://ann:***@host/repo.git"),
        ("postgresql://host/db?password=s3cret&x=1", "postgresql://host/db?password=***&x=1"),
        ("s3://b/a?access_key=K&secret_key=s3cret", "s3://b/a?access_key=***&secret_key=***"),
        ("http://b/a?X-Amz-Signature=s3cret#x", "http://b/a?X-Amz-Signature=***#x"),
    ],
)
def test_a_password_is_hidden_and_all_else_stays(uri: str, shown: str) -> None:
    assert without_password(uri) == shown
    assert without_password(shown) == shown


@pytest.mark.parametrize(
    "uri",
    [
        "http://host:5000/models@champion",
        "http://127.0.0.1:5000",
        "http://host:5000?x=1",
        "sqlite:////data/mlflow.db",
        "models:/depth@champion",
        "ssh://git@host/repo.git",
        "git@host:team/repo.git",
        "s3://bucket/a@b?endpoint_override=minio:9000&scheme=http",
        "/data/a:b@c",
        "",
    ],
)
def test_what_holds_no_password_stays_as_it_is(uri: str) -> None:
    assert without_password(uri) == uri


def test_every_uri_in_a_text_is_looked_at() -> None:
    text = "GET 'http://ann:one@host/x' failed: (postgresql://bob:two@db:5432/mlflow) at 12:30"
    assert without_password(text) == (
        "GET 'http://ann:***@host/x' failed: (postgresql://bob:***@db:5432/mlflow) at 12:30"
    )
