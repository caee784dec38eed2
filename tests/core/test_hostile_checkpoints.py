"""Checkpoints that somebody else has made: data is read, code is refused and never run."""

import json
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mde.errors import InputError
from mde.files import file_sha256
from mde.train.checkpoint import load_checkpoint, load_model, read_state, save_checkpoint
from mde.train.foreign import (
    MLMODEL_LIMIT,
    is_own_mlmodel,
    refuse_foreign,
    refuse_foreign_names,
)

NETWORK = nn.ModuleDict({"model": nn.Linear(2, 2)})


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    optimizer = torch.optim.SGD(NETWORK.parameters(), lr=0.1, momentum=0.9)
    save_checkpoint(folder, NETWORK.state_dict(), {"sgd": optimizer.state_dict()}, {"epoch": 1})
    return folder


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """The file that hostile code makes when it is run."""
    return tmp_path / "was_run"


class Payload:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.trace,)


def sign(folder: Path) -> None:
    """Give every file its hash in state.json: who can replace a file can do that as well."""
    state = json.loads((folder / "state.json").read_text())
    files = [path for path in folder.iterdir() if path.is_file() and path.name != "state.json"]
    state["sha256"] = {path.name: file_sha256(path) for path in files}
    (folder / "state.json").write_text(json.dumps(state))


LOADERS: dict[str, Callable[[Path], object]] = {
    "read_state": read_state,
    "load_checkpoint": lambda folder: load_checkpoint(folder, NETWORK),
    "load_model": lambda folder: load_model(folder, NETWORK["model"]),
}


def write_code(folder: Path, trace: Path) -> None:
    (folder / "code").mkdir()
    (folder / "code/plugin.py").write_text(f"open({str(trace)!r}, 'w')")


def write_mlmodel(folder: Path, trace: Path) -> None:
    (folder / "plugin.py").write_text(f"open({str(trace)!r}, 'w')")
    (folder / "MLmodel").write_text("flavors:\n  python_function: {loader_module: plugin}\n")


def write_torch_pickle(name: str) -> Callable[[Path, Path], None]:
    return lambda folder, trace: torch.save(Payload(trace), folder / name)


def write_pickle(folder: Path, trace: Path) -> None:
    (folder / "data.pkl").write_bytes(pickle.dumps(Payload(trace)))


FOREIGN: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "code/": (write_code, "code/ (a folder of code)"),
    "MLmodel": (write_mlmodel, "MLmodel (an MLflow model, which names Python code to load)"),
    "a module beside it": (write_mlmodel, "plugin.py (code)"),
    "model.pt": (write_torch_pickle("model.pt"), "model.pt (a pickle, which can run code when it"),
    "in capitals": (write_torch_pickle("MODEL.PTH"), "MODEL.PTH (a pickle"),
    "of earlier versions": (write_torch_pickle("optimizer.pt"), "optimizer.pt (a pickle"),
    "packed": (write_torch_pickle("model.pth.tar"), "model.pth.tar (a pickle"),
    "a plain pickle": (write_pickle, "data.pkl (a pickle"),
    "pytorch_model.bin": (write_torch_pickle("pytorch_model.bin"), "pytorch_model.bin (a pickle"),
    "a folder": (lambda folder, _: (folder / "data").mkdir(), "data/ (a folder, of which"),
}


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_checkpoint_with_code_beside_it_is_refused_by_name(
    kind: str, load: str, checkpoint: Path, trace: Path
):
    write, message = FOREIGN[kind]
    write(checkpoint, trace)
    sign(checkpoint)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        LOADERS[load](checkpoint)
    assert str(caught.value).startswith(f"{checkpoint}: refused, and nothing of it was read")
    assert not trace.exists()


def test_every_foreign_file_is_listed(checkpoint: Path, trace: Path):
    write_code(checkpoint, trace)
    write_mlmodel(checkpoint, trace)
    with pytest.raises(InputError, match=r"MLmodel \(.*; code/ \(.*; plugin\.py \("):
        refuse_foreign(checkpoint)


def test_files_that_are_only_data_are_no_fault(checkpoint: Path):
    for name in ("README.md", "metrics.json", ".DS_Store"):
        (checkpoint / name).write_text("{}")
    for load in LOADERS.values():
        load(checkpoint)


OWN = '{"flavors": {"python_function": {"loader_module": "mde.pyfunc"}}, "metadata": {}}'


@pytest.mark.parametrize("load", LOADERS)
def test_our_own_mlmodel_is_no_fault(load: str, checkpoint: Path):
    (checkpoint / "MLmodel").write_text(OWN)
    LOADERS[load](checkpoint)
    # But by name alone it could be anybody's.
    with pytest.raises(InputError, match=r"MLmodel \(an MLflow model"):
        refuse_foreign_names(["MLmodel"], "here")


ALMOST_OURS = {
    "another loader": OWN.replace("mde.pyfunc", "mde_pyfunc"),
    "code beside it": OWN.replace('"mde.pyfunc"', '"mde.pyfunc", "code": "code"'),
    "data elsewhere": OWN.replace('"mde.pyfunc"', '"mde.pyfunc", "data": "/etc"'),
    "an environment": OWN.replace('"mde.pyfunc"', '"mde.pyfunc", "env": "conda.yaml"'),
    "a loader that comes twice": OWN.replace(
        '"loader_module"', '"loader_module": "plugin", "loader_module"'
    ),
    "another flavour": OWN.replace('"python_function"', '"sklearn": {}, "python_function"'),
    "no flavour": '{"flavors": {}}',
    "another key": OWN.replace('"metadata"', '"resources"'),
    "YAML": "flavors:\n  python_function: {loader_module: mde.pyfunc}\n",
    "a tag of YAML": "!!python/object/apply:os.system ['true']",
    "no mapping": "[]",
    "nothing": "",
    "nested without end": "[" * 50000,
    "too long": OWN + " " * MLMODEL_LIMIT,
}


@pytest.mark.parametrize("kind", ALMOST_OURS)
def test_an_mlmodel_that_says_more_than_ours_is_refused(kind: str, checkpoint: Path):
    (checkpoint / "MLmodel").write_text(ALMOST_OURS[kind])
    with pytest.raises(InputError, match=r"MLmodel \(an MLflow model"):
        read_state(checkpoint)
    assert is_own_mlmodel(OWN.encode())


def test_a_folder_that_is_called_like_a_file_of_a_checkpoint_is_none():
    with pytest.raises(InputError, match=r"optimizer\.safetensors/ \(a folder"):
        refuse_foreign_names(["model.safetensors", "optimizer.safetensors/", "state.json"], "here")


def torch_script(path: Path, _: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(str(path))


def cut(path: Path, _: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def archive(path: Path, _: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("data.pkl", "nothing")


def write_tree(path: Path, tree: str) -> None:
    save_file({"a": torch.zeros(2)}, path, metadata={"tree": tree})


HOSTILE_OPTIMIZERS: dict[str, Callable[[Path, Path], object]] = {
    "code in the format of torch": lambda path, trace: torch.save(Payload(trace), path),
    "code in the old format of torch": lambda path, trace: torch.save(
        Payload(trace), path, _use_new_zipfile_serialization=False
    ),
    "code in a plain pickle": lambda p, trace: p.write_bytes(pickle.dumps(Payload(trace))),
    "code in a pickle of protocol 0": lambda p, t: p.write_bytes(pickle.dumps(Payload(t), 0)),
    "code among tensors": lambda path, trace: torch.save(
        {"sgd": {"state": {0: torch.zeros(2)}, "more": Payload(trace)}}, path
    ),
    "nothing": lambda path, _: path.write_bytes(b""),
    "text": lambda path, _: path.write_text("hello there, this is text"),
    "a page": lambda path, _: path.write_text("<!DOCTYPE html><html>quota exceeded"),
    "half a file": cut,
    "an archive": archive,
    "tensors alone": lambda path, _: save_file({"a": torch.zeros(2)}, path),
    "a list": lambda path, _: write_tree(path, "[1, 2]"),
    "a number": lambda path, _: write_tree(path, "7"),
    "no JSON": lambda path, _: write_tree(path, "{"),
    "a tensor that is not there": lambda path, _: write_tree(path, '{"tensor": "none"}'),
    "another object": lambda path, _: write_tree(path, '{"module": "os"}'),
    "two objects in one": lambda path, _: write_tree(path, '{"dict": [], "tuple": []}'),
    "a key that is a list": lambda path, _: write_tree(path, '{"dict": [[[], 1]]}'),
    "nested without end": lambda path, _: write_tree(path, "[" * 50000),
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", HOSTILE_OPTIMIZERS)
def test_an_optimizer_that_is_not_plain_values_is_refused(kind: str, checkpoint: Path, trace: Path):
    HOSTILE_OPTIMIZERS[kind](checkpoint / "optimizer.safetensors", trace)
    sign(checkpoint)
    before = {name: tensor.clone() for name, tensor in NETWORK.state_dict().items()}
    with pytest.raises(
        InputError, match=rf"^{checkpoint / 'optimizer.safetensors'}: not the state"
    ):
        load_checkpoint(checkpoint, NETWORK)
    assert not trace.exists()
    torch.testing.assert_close(dict(NETWORK.state_dict()), before, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore")
def test_a_torchscript_program_is_no_optimizer(checkpoint: Path, trace: Path):
    torch_script(checkpoint / "optimizer.safetensors", trace)
    sign(checkpoint)
    with pytest.raises(InputError, match=r"optimizer\.safetensors: not the state"):
        load_checkpoint(checkpoint, NETWORK)


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 64, b"\xff" * 64, b"hello there, this is text"],
    ids=["nothing", "zeros", "ones", "text"],
)
@pytest.mark.parametrize("load", ["load_checkpoint", "load_model"])
def test_weights_that_are_no_safetensors_are_refused(load: str, content: bytes, checkpoint: Path):
    (checkpoint / "model.safetensors").write_bytes(content)
    sign(checkpoint)
    with pytest.raises(InputError, match=r"model\.safetensors"):
        LOADERS[load](checkpoint)


def test_a_pickle_under_the_name_of_the_weights_is_not_run(checkpoint: Path, trace: Path):
    torch.save(Payload(trace), checkpoint / "model.safetensors")
    sign(checkpoint)
    with pytest.raises(InputError, match=r"model\.safetensors"):
        load_model(checkpoint, NETWORK["model"])
    assert not trace.exists()


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize(
    "table",
    [
        {},
        {"optimizer.safetensors": "0"},
        {"model.safetensors": None},
        [],
        None,
        {"../secret": "0"},
        {"/etc/hostname": "0"},
    ],
)
def test_a_state_that_vouches_for_the_wrong_files_is_refused(
    load: str, table: object, checkpoint: Path
):
    path = checkpoint / "state.json"
    state = json.loads(path.read_text())
    (checkpoint.parent / "secret").write_text("x")
    if isinstance(table, dict) and any("/" in name for name in table):
        table = {name: file_sha256(checkpoint / name) for name in table} | state["sha256"]
    path.write_text(json.dumps(state | {"sha256": table}))
    with pytest.raises(InputError, match=re.escape(str(checkpoint))):
        LOADERS[load](checkpoint)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", '{"format": 2', "\x00", '{"format": 1, "sha256": {}}'],
)
def test_a_state_that_is_none_is_refused(text: str, checkpoint: Path):
    (checkpoint / "state.json").write_text(text)
    with pytest.raises(InputError, match=r"state\.json"):
        read_state(checkpoint)


def test_a_link_to_another_place_is_read_as_what_it_leads_to(checkpoint: Path, tmp_path: Path):
    # Stores with hard or symbolic links (DVC's cache) are in order: the hashes decide.
    elsewhere = shutil.move(checkpoint / "model.safetensors", tmp_path / "blob")
    (checkpoint / "model.safetensors").symlink_to(elsewhere)
    load_model(checkpoint, NETWORK["model"])
