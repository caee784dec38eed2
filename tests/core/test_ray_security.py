"""What is refused before Ray starts: an open Ray, a token that all can read, a wrong address."""

import os
import socket
from pathlib import Path

import pytest

from mde.cluster.security import ALLOW_OPEN, ask, check_cluster, find_token, prepare_local
from mde.errors import InputError


@pytest.fixture(autouse=True)
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a token that is not there yet; nothing else says anything of Ray."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_USE_TLS", "RAY_ADDRESS", ALLOW_OPEN):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "ray" / "token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    return path


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_token_is_made_that_its_user_alone_can_read(token: Path) -> None:
    before = os.umask(0o022)
    try:
        prepare_local()
    finally:
        os.umask(before)
    assert mode(token) == 0o600
    assert len(find_token() or "") == 64


def test_a_token_stays_as_it_is_when_ray_starts_again(token: Path) -> None:
    prepare_local()
    made = token.read_text()
    prepare_local()
    assert token.read_text() == made


def test_an_own_token_that_others_could_read_is_closed_and_that_is_said(
    token: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare_local()
    token.chmod(0o644)
    prepare_local()
    assert mode(token) == 0o600
    assert f"{token}: others could read Ray's token" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_foreign_token_that_all_can_read_is_refused(token: Path) -> None:
    prepare_local()
    token.chmod(0o644)
    os.chown(token, 12345, 12345)
    with pytest.raises(InputError, match="everybody can read Ray's token"):
        prepare_local()
    token.chmod(0o640)
    assert find_token()


def test_a_place_that_takes_no_token_is_named(token: Path) -> None:
    token.parent.write_text("a file where a folder should be")
    with pytest.raises(InputError, match=r"cannot be (read|written).*|RAY_AUTH_TOKEN_PATH"):
        prepare_local()


def test_a_local_ray_without_a_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(InputError, match="RAY_AUTH_MODE=disabled starts a Ray without a token"):
        prepare_local()


def test_an_open_local_ray_is_noted_when_it_is_allowed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], token: Path
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv(ALLOW_OPEN, "1")
    prepare_local()
    assert "could run code as its user" in capsys.readouterr().err
    assert not token.exists()


def test_an_address_where_nobody_listens_is_named() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        assert ask(address).state == "nobody"
        with pytest.raises(InputError, match=f"RAY_ADDRESS={address}: no Ray answers there"):
            check_cluster(address)


def test_a_listener_that_says_nothing_is_given_up() -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        answer = ask(f"127.0.0.1:{mute.getsockname()[1]}", timeout_s=0.5)
    assert answer.state == "nobody"


@pytest.mark.parametrize("address", ["head", "ray://head:10001", "http://head:8265", "head:port"])
def test_an_address_of_another_kind_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="expected host:port"):
        check_cluster(address)
