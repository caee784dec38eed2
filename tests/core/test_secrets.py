"""Passwords and keys: refused where they do not belong, hidden where they may be."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from mde import provenance
from mde.cli import app
from mde.data.raw.mirror import fetch_raw
from mde.doctor.examination import Scope
from mde.doctor.machine_checks import check_mlflow
from mde.errors import InputError, explained
from mde.provenance import Provenance
from mde.storage import open_storage
from mde.tracking import origin
from mde.tracking.delivery import run_id_of
from mde.tracking.lineage import find_lineage
from mde.tracking.store import connect
from tests.conftest import PARAMS

SECRET = "pl/anted+s3cret-9x"
URIS = (
    f"s3://KEYID:{SECRET}@bucket/raw",
    "s3://KEYID:12/planted@bucket/raw",
    "s3://KEYID:planted",
    f"s3://bucket/raw?access_key=KEYID&secret_key={SECRET}",
    f"s3://bucket/raw?region=x&session_token={SECRET}",
    "s3://planted@bucket/raw",
)


@pytest.mark.parametrize("uri", URIS)
def test_keys_in_a_uri_are_refused_and_not_repeated(uri: str, tmp_path: Path) -> None:
    for use in (open_storage, lambda place: fetch_raw(place, tmp_path, "mine")):
        with pytest.raises(InputError, match="keys do not belong into a URI") as caught:
            use(uri)
        assert "planted" not in str(caught.value)
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize("key", ["cluster", "run", "datasets.kitti"])
def test_mde_check_refuses_keys_in_params(key: str, tmp_path: Path) -> None:
    text = PARAMS.replace("raw: data/sample/kitti", f"raw: {URIS[0]}") if "kitti" in key else PARAMS
    if key == "cluster":
        text = text.replace("cluster: {", f"cluster: {{data: '{URIS[0]}', ")
    if key == "run":
        text += f"run: {{storage: '{URIS[3]}'}}\n"
    (tmp_path / "params.yaml").write_text(text)
    result = CliRunner().invoke(app, ["check", "--params", str(tmp_path / "params.yaml")])
    assert result.exit_code == 1
    assert f"params.yaml: {key}: s3://" in result.output
    assert "keys do not belong into a URI" in result.output
    assert SECRET not in result.output


def test_a_key_where_something_else_belongs_is_not_repeated(tmp_path: Path) -> None:
    text = PARAMS.replace("num_workers: 1", f"num_workers: '{URIS[0]}'")
    (tmp_path / "params.yaml").write_text(text)
    result = CliRunner().invoke(app, ["check", "--params", str(tmp_path / "params.yaml")])
    assert "cluster.num_workers" in result.output
    assert SECRET not in result.output


def test_no_message_for_people_has_a_password(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), explained(debug=False):
        raise InputError("GET http://ann:planted@host/api failed")
    assert capsys.readouterr().err == "error: GET http://ann:***@host/api failed\n"


def test_no_traceback_has_a_password(capsys: pytest.CaptureFixture[str]) -> None:
    for error, debug in ((OSError, False), (InputError, True)):
        address = "http://ann:" + "planted@host/api"
        with pytest.raises(SystemExit), explained(debug):
            raise error(address)
        shown = capsys.readouterr().err
        assert "Traceback" in shown
        assert f"{error.__name__}: http://ann:***@host/api" in shown
        assert "planted@" not in shown
    with pytest.raises(OSError, match="no address"), explained(debug=False):
        raise OSError("no address")


def test_messages_about_mlflow_do_not_have_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody listens to port 1.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:planted@127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "run.json").write_text('{"run_id": null, "key": "k", "folder": "checkpoints/x"}')
    for use in (
        lambda: connect(tmp_path),
        lambda: find_lineage(tmp_path, "models:/depth@champion"),
        lambda: run_id_of(tmp_path, tmp_path / "run.json"),
    ):
        with pytest.raises(InputError, match=r"ann:\*\*\*@127\.0\.0\.1") as caught:
            use()
        assert "planted" not in str(caught.value)
    (finding,) = check_mlflow(Scope(tmp_path, tmp_path / "params.yaml", ""))
    assert finding.state == "fail"
    assert "planted" not in finding.found + finding.todo
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://ann:planted@127.0.0.1:1/mlflow")
    (finding,) = check_mlflow(Scope(tmp_path, tmp_path / "params.yaml", ""))
    assert "planted" not in finding.found + finding.todo


def test_a_key_of_the_environment_in_params_stops_a_run_before_mlflow_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    params = tmp_path / "params.yaml"
    params.write_text(f"{PARAMS}# {SECRET}\n")
    made = Provenance({"dataset": "kitti"}, "0" * 64, "unknown", "0", None)
    with pytest.raises(InputError, match="the value of AWS_SECRET_ACCESS_KEY stands in it"):
        origin.origin_of(tmp_path, params, tmp_path, made, 1, "cpu")


def test_a_patch_with_a_key_of_the_environment_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = provenance.WorkingTree("https://host/mde.git", f"+key: {SECRET}\n".encode(), ())
    assert origin._code(tree)[1] == tree.patch
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    tags, patch = origin._code(tree)
    assert patch == b""
    assert tags[origin.STATE] == (
        "uncommitted changes are not kept: the value of MLFLOW_TRACKING_PASSWORD stands in them"
    )
