"""MLflow is killed, hung or away: training goes on, and MLflow has every point once in the end.

The server is a real one, killed and started again; the trainings are small processes that write
journals.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

import mlflow
import pytest
from click.testing import Result
from typer.testing import CliRunner

from mde.cli.track import track_app
from mde.errors import InputError
from mde.files import read_json, write_json
from mde.storage import open_storage
from mde.tracking.delivery import KEY_TAG, run_id_of
from mde.tracking.run_folder import RunFolder
from mde.train.journal import Journal, read_segment, segments
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.e2e

# Takes orders on its input, one a line, and confirms each.
TRAINING = """
import sys
from pathlib import Path
from mde.tracking.follow import follow
from mde.files import write_json
from mde.provenance import Provenance
from mde.storage import open_storage
from mde.train.journal import Journal

root, folder = Path(sys.argv[1]), Path(sys.argv[2])
variant = {"name": "toy", "dataset": "none", "model": {"family": "toy"}, "recipe": {"lr": 0.5}}
with follow(root, folder, Provenance(variant, "0" * 64, "0123abc", "1.0")) as run:
    journal = Journal(open_storage(folder))
    print(run.key, flush=True)
    for line in sys.stdin:
        order, *numbers = line.split()
        if order == "add":
            for step in range(int(numbers[0]), int(numbers[1])):
                journal.add(step, {"loss": 1 / step, "lr": 0.5, "odd": float("nan")})
            journal.flush()
        elif order == "finish":
            checkpoint = root / "models/toy/checkpoint"
            write_json(checkpoint / "state.json", {"run": run.key})
            run.finish(checkpoint)
            break
        elif order == "fail":
            raise ValueError("the loss is not finite")
        elif order == "interrupt":
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt as error:
                raise RuntimeError("a library was interrupted") from error
        print("done", flush=True)
write_json(root / "models/toy/run.json", run.receipt())
print("delivered" if run.delivered else "left", flush=True)
"""
PATIENCE = "MDE_TRACK_PATIENCE_S"


class Server:
    """An `mlflow server` that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder, self.uri = folder, f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self.process is not None:
            return
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "mlflow", "server", "--port", str(self.port)),
                    *("--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}"),
                    *("--artifacts-destination", str(self.folder / "artifacts"), "--workers", "1"),
                ],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        for _ in range(720):
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
                return
            except (URLError, OSError):
                time.sleep(0.25)
        raise AssertionError((self.folder / "server.log").read_text()[-2000:])

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        if self.process is not None:
            self.signal(signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def one_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("mlflow"))
    yield server
    server.kill()


@pytest.fixture
def server(one_server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Its address is in the environment; whether it runs is up to the test."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", one_server.uri)
    # Of this process; the training gives its courier what it needs.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return one_server


class Training:
    """A process that trains, as far as its journal is concerned."""

    def __init__(self, root: Path, patience_s: float = 20) -> None:
        self.root, self.folder = root, root / "checkpoints" / "toy-0123456789"
        checkpoint = root / "models/toy/checkpoint"
        checkpoint.mkdir(parents=True, exist_ok=True)
        (checkpoint / "model.safetensors").write_bytes(b"weights")
        self.errors = root / f"errors-{time.monotonic_ns()}.txt"
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", TRAINING, str(root), str(self.folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=REPOSITORY,
                env={**os.environ, PATIENCE: str(patience_s)},
            )
        self.key = self.answer()

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def order(self, line: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.answer()

    def end(self, line: str) -> str:
        """Order the end; returns the training's last word, after its process is gone."""
        answer = self.order(line)
        self.process.wait()
        return answer


def wait_until(condition: object) -> None:
    """Polls; the test's timeout is the limit."""
    while not condition():  # type: ignore[operator]
        time.sleep(0.2)


def kill_courier(folder: Path) -> None:
    """Its claim names its process."""
    (claim,) = (path for path in (folder / "claims").iterdir() if path.name[0] != ".")
    os.kill(int(claim.read_text().splitlines()[0].rsplit(" ", 1)[1]), signal.SIGKILL)


def journaled(folder: Path) -> dict[str, list[tuple[int, int, str]]]:
    storage = open_storage(folder)
    history = defaultdict(list)
    for name in segments(storage):
        for point in read_segment(storage, name):
            for key, value in point.values.items():
                history[key].append((point.step, point.time_ms, str(value)))
    return dict(history)


def in_mlflow(key: str) -> tuple[mlflow.entities.Run, dict[str, list[tuple[int, int, str]]]]:
    """The one run with a key, and all of its points."""
    client = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("mde")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], f"tags.`{KEY_TAG}` = '{key}'")
    assert len(found) == 1
    run = found[0]
    return run, {
        name: sorted(
            (m.step, m.timestamp, str(m.value))
            for m in client.get_metric_history(run.info.run_id, name)
        )
        for name in run.data.metrics
        # Use of the machine is not the training's, and comes by the clock.
        if not name.startswith("system/")
    }


def artifacts(run: mlflow.entities.Run) -> set[str]:
    client = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    return {file.path for file in client.list_artifacts(run.info.run_id, "checkpoint")}


def mde_track(command: str, root: Path) -> Result:
    return CliRunner().invoke(track_app, [command, "--root", str(root)])


WHOLE = {"checkpoint/model.safetensors", "checkpoint/state.json"}


def test_a_server_that_is_away_at_the_start_and_again_later_gets_every_point_once(
    server: Server, tmp_path: Path
) -> None:
    server.kill()
    training = Training(tmp_path)
    assert training.order("add 1 40") == "done"
    wait_until(lambda: "takes no metrics" in training.errors.read_text())
    server.start()
    wait_until(lambda: not RunFolder(open_storage(training.folder)).waiting())
    assert in_mlflow(training.key)[0].info.status == "RUNNING"
    server.kill()
    assert training.order("add 40 1500") == "done"
    wait_until(lambda: training.errors.read_text().count("takes no metrics") == 2)
    assert training.order("add 1500 1600") == "done"
    server.start()
    expected = journaled(training.folder)
    assert training.end("finish") == "delivered"
    run, found = in_mlflow(training.key)
    assert found == expected
    assert len(found["odd"]) == 1599
    assert run.info.status == "FINISHED"
    assert run.info.start_time == RunFolder(open_storage(training.folder)).record.created_ms
    assert (run.data.params["recipe.lr"], run.data.tags["family"]) == ("0.5", "toy")
    assert artifacts(run) == WHOLE
    errors = training.errors.read_text()
    assert errors.count("answers again") >= 1
    assert "Traceback" not in errors
    assert run_id_of(tmp_path, tmp_path / "models/toy/run.json") == run.info.run_id


def test_a_server_that_hangs_holds_up_nothing_but_the_end(server: Server, tmp_path: Path) -> None:
    server.start()
    training = Training(tmp_path, patience_s=1)
    wait_until(lambda: RunFolder(open_storage(training.folder)).delivered.run_id)
    server.signal(signal.SIGSTOP)
    try:
        for start in range(1, 1000, 100):
            assert training.order(f"add {start} {start + 100}") == "done"
        assert training.end("finish") == "left"
    finally:
        server.signal(signal.SIGCONT)
    assert "mde track sync" in training.errors.read_text()
    expected = journaled(training.folder)
    # A later stage brings it in order by itself.
    found_id = run_id_of(tmp_path, tmp_path / "models/toy/run.json")
    run, found = in_mlflow(training.key)
    assert found == expected
    assert (run.info.run_id, run.info.status) == (found_id, "FINISHED")
    assert artifacts(run) == WHOLE


def test_a_server_that_is_away_to_the_end_gets_it_all_by_sync(
    server: Server, tmp_path: Path
) -> None:
    server.kill()
    training = Training(tmp_path, patience_s=1)
    training.order("add 1 300")
    assert training.end("finish") == "left"
    assert training.process.returncode == 0
    assert "897 points wait" in training.errors.read_text()
    assert read_json(tmp_path / "models/toy/run.json")["run_id"] is None
    with pytest.raises(InputError, match="mde track sync"):
        run_id_of(tmp_path, tmp_path / "models/toy/run.json")
    assert "897 values, checkpoint" in mde_track("status", tmp_path).output
    refused = mde_track("sync", tmp_path)
    assert (refused.exit_code, "does not answer" in refused.output) == (1, True), refused.output
    expected = journaled(training.folder)
    server.start()
    synced = mde_track("sync", tmp_path)
    assert synced.exit_code == 0, synced.output
    assert "897 values delivered; FINISHED" in synced.output
    run, found = in_mlflow(training.key)
    assert found == expected
    assert artifacts(run) == WHOLE
    assert "nothing waits" in mde_track("status", tmp_path).output
    assert run_id_of(tmp_path, tmp_path / "models/toy/run.json") == run.info.run_id


def test_a_killed_training_is_shown_as_killed_and_goes_on_as_the_same_run(
    server: Server, tmp_path: Path
) -> None:
    server.start()
    killed = Training(tmp_path)
    killed.order("add 1 200")
    killed.process.kill()
    killed.process.wait()
    wait_until(lambda: RunFolder(open_storage(killed.folder)).settled)
    run, found = in_mlflow(killed.key)
    assert (run.info.status, found) == ("KILLED", journaled(killed.folder))
    resumed = Training(tmp_path)
    assert resumed.key == killed.key
    wait_until(lambda: in_mlflow(killed.key)[0].info.status == "RUNNING")
    resumed.order("add 150 260")
    expected = journaled(killed.folder)
    assert resumed.end("finish") == "delivered"
    run, found = in_mlflow(killed.key)
    assert (run.info.status, found) == ("FINISHED", expected)
    assert [step for step, _, _ in found["loss"]] == list(range(1, 260))


@pytest.mark.parametrize(("order", "status"), [("fail", "FAILED"), ("interrupt", "KILLED")])
def test_an_exception_ends_the_run_by_its_kind(
    server: Server, tmp_path: Path, order: str, status: str
) -> None:
    server.start()
    training = Training(tmp_path)
    training.order("add 1 10")
    training.end(order)
    assert training.process.returncode == 1
    run, found = in_mlflow(training.key)
    assert (run.info.status, found) == (status, journaled(training.folder))


def test_sync_ends_a_run_whose_courier_was_killed_too_and_leaves_one_that_trains(
    server: Server, tmp_path: Path
) -> None:
    server.start()
    training = Training(tmp_path)
    training.order("add 1 50")
    wait_until(lambda: RunFolder(open_storage(training.folder)).delivered.status == "RUNNING")
    assert "left to training" in mde_track("sync", tmp_path).output
    assert in_mlflow(training.key)[0].info.status == "RUNNING"
    kill_courier(training.folder)
    training.order("add 50 90")
    training.process.kill()
    training.process.wait()
    assert "KILLED" in mde_track("sync", tmp_path).output
    run, found = in_mlflow(training.key)
    assert (run.info.status, found) == ("KILLED", journaled(training.folder))


def test_a_courier_that_is_killed_is_replaced_at_the_end(server: Server, tmp_path: Path) -> None:
    server.start()
    training = Training(tmp_path)
    wait_until(lambda: RunFolder(open_storage(training.folder)).delivered.status == "RUNNING")
    kill_courier(training.folder)
    training.order("add 1 90")
    assert training.end("finish") == "delivered"
    run, found = in_mlflow(training.key)
    assert (run.info.status, len(found["loss"])) == ("FINISHED", 89)


# Dies at the moment when MLflow has something that is not yet remembered.
DYING = """
import os, signal, sys
from pathlib import Path
from mde.tracking.delivery import Delivery
from mde.tracking.run_folder import RunFolder
from mde.storage import open_storage

class Dying(RunFolder):
    left = int(sys.argv[3])
    def write_delivered(self, delivered):
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1
        super().write_delivered(delivered)

Delivery(Path(sys.argv[1]), Dying(open_storage(sys.argv[2]))).deliver()
"""


def waiting_run(root: Path, steps: int) -> tuple[Path, str]:
    """A killed run of which MLflow has nothing, in many segments."""
    folder = root / "checkpoints" / "toy-0123456789"
    record = RunFolder(open_storage(folder)).begin("toy", {"lr": "0.5"}, {"variant": "toy"})
    journal = Journal(open_storage(folder))
    for step in range(1, steps):
        journal.add(step, {f"m{number}": step / number for number in range(1, 9)})
        if step % 20 == 0:
            journal.flush()
    journal.flush()
    return folder, record.key


def test_nothing_is_doubled_when_delivery_is_killed_before_it_remembers(
    server: Server, tmp_path: Path
) -> None:
    server.start()
    folder, key = waiting_run(tmp_path, 400)
    # After the run was created, after a request, and later again: each time by another process.
    for writes in (0, 1, 2):
        command = [sys.executable, "-c", DYING, str(tmp_path), str(folder), str(writes)]
        died = subprocess.run(command, cwd=REPOSITORY, check=False)
        assert died.returncode == -signal.SIGKILL
    # Before the run was remembered, and then twice after requests of which one was.
    assert len(RunFolder(open_storage(folder)).delivered.segments) > 0
    assert "KILLED" in mde_track("sync", tmp_path).output
    run, found = in_mlflow(key)
    assert (run.info.status, found) == ("KILLED", journaled(folder))
    assert run.data.params == {"lr": "0.5"}


def test_two_syncs_at_once_double_nothing(server: Server, tmp_path: Path) -> None:
    server.start()
    folder, key = waiting_run(tmp_path, 400)
    command = [sys.executable, "-c", "from mde.cli.track import track_app; track_app()", "sync"]
    both = [subprocess.Popen([*command, "--root", str(tmp_path)], cwd=REPOSITORY) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    run, found = in_mlflow(key)
    assert (run.info.status, found) == ("KILLED", journaled(folder))


def test_an_emptied_store_gets_everything_anew(server: Server, tmp_path: Path) -> None:
    server.start()
    folder, key = waiting_run(tmp_path, 30)
    mde_track("sync", tmp_path)
    delivered = RunFolder(open_storage(folder)).delivered
    assert delivered.run_id == in_mlflow(key)[0].info.run_id
    mlflow.MlflowClient(server.uri).delete_run(delivered.run_id)
    # As of a server that never had it.
    write_json(folder / "delivered.json", {"run_id": "0" * 32, "segments": [], "status": None})
    mde_track("sync", tmp_path)
    run, found = in_mlflow(key)
    assert run.info.run_id != delivered.run_id
    assert found == journaled(folder)


def test_a_damaged_segment_is_named_and_the_others_are_delivered(
    server: Server, tmp_path: Path
) -> None:
    server.start()
    folder, key = waiting_run(tmp_path, 50)
    damaged = sorted((folder / "journal").iterdir())[1]
    damaged.write_bytes(damaged.read_bytes()[:-9])
    synced = mde_track("sync", tmp_path)
    assert (synced.exit_code, damaged.name in synced.output) == (1, True), synced.output
    found = in_mlflow(key)[1]
    assert [step for step, _, _ in found["m1"]] == [*range(1, 21), *range(41, 50)]


def test_training_again_before_sync_is_another_run(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.start()
    # Nobody listens there.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    first = Training(tmp_path, patience_s=1)
    first.order("add 1 30")
    assert first.end("finish") == "left"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    second = Training(tmp_path)
    assert second.key != first.key
    second.order("add 1 20")
    assert second.end("finish") == "delivered"
    assert "a later training has replaced it" in mde_track("sync", tmp_path).output
    assert len(in_mlflow(first.key)[1]["loss"]) == 29
    assert len(in_mlflow(second.key)[1]["loss"]) == 19
