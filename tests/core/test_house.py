"""The rules of the house: who may import whom, and that DVC knows what each stage is made of."""

import ast
from functools import cache
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("mde/**/*.py"), *ROOT.glob("pipelines/*.py")])

# Rooms from left to right: a module may import its own room and the rooms before it.
ROOMS = [
    [
        "mde.errors",
        "mde.redact",
        "mde.files",
        "mde.bucket",
        "mde.storage",
        "mde.layout",
        "mde.schema",
    ],
    [
        "mde.intrinsics",
        "mde.geometry",
        "mde.trajectory",
        "mde.config",
        "mde.provenance",
        "mde.yaml_edit",
    ],
    [
        "mde.losses",
        "mde.photometric",
        "mde.metrics",
        "mde.structure",
        "mde.crops",
        "mde.protocols",
        "mde.protocol_words",
        "mde.models",
    ],
    [
        "mde.data",
        "mde.train",
        "mde.visualize",
        "mde.film",
        "mde.depth_files",
        "mde.pointcloud",
        "mde.contact_sheet",
        "mde.picture_grid",
        "mde.training_pictures",
    ],
    ["mde.variants", "mde.doctor"],
    ["mde.recipes", "mde.predictor"],
    ["mde.inference", "mde.scoring", "mde.cost", "mde.pyfunc", "mde.predictions"],
    ["mde.evaluate", "mde.score", "mde.odometry", "mde.cluster", "mde.tracking"],
    ["mde.promotion", "mde.succession", "mde.rivals", "mde.registry", "mde.reproduce"],
    ["mde.model_source", "mde.report", "mde.export"],
    ["mde.compare", "mde.bench", "mde.predict", "mde.demo"],
    ["mde.cli", "pipelines"],
]
# Side by side: these may not import each other although they share a level.
STRANGERS = [("mde.train", "mde.data"), ("mde.train", "mde.models"), ("mde.data", "mde.train")]
ONLY_IN = {
    "ray": ["mde.cluster"],
    "mlflow": ["mde.tracking", "mde.registry", "mde.succession", "mde.rivals", "mde.pyfunc"],
    "timm": ["mde.models.encoders"],
    "onnx": ["mde.export"],
    "onnxruntime": ["mde.export"],
    "openvino": ["mde.export"],
    "gradio": ["mde.demo"],
    "trimesh": ["mde.pointcloud"],
    "h5py": ["mde.data.sources", "mde.data.sample", "mde.data.raw.hdf5"],
    "s3fs": ["mde.bucket"],
    "dvc": [],
}
# Needs torch (and safetensors for files) alone, so it runs on a box that has nothing else of ours.
TORCH_ONLY = [
    "mde.schema", "mde.geometry", "mde.losses", "mde.photometric", "mde.metrics",
    "mde.structure", "mde.crops", "mde.protocols", "mde.models", "mde.train",
]  # fmt: skip
# Draws what a training sees, and changes no weight: DVC is not to train again for its sake. And
# the front door, through which no stage goes.
ASIDE = ["mde.cluster.painter", "mde"]
# Decode tasks: half a gigabyte lighter without torch.
NO_TORCH = ["mde.data", "mde.intrinsics", "mde.config", "mde.schema", "mde.cluster.decode"]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def inside(name: str, room: str) -> bool:
    return name == room or name.startswith(room + ".")


def level(name: str) -> int:
    return next(i for i, rooms in enumerate(ROOMS) if any(inside(name, room) for room in rooms))


@cache
def imports(path: Path) -> frozenset[str]:
    """Every module that a file imports, wherever in the file; not what only type checkers see."""
    tree = ast.parse(path.read_text())
    hidden = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


def module_file(name: str) -> Path | None:
    base = ROOT.joinpath(*name.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


def own_imports(path: Path) -> set[Path]:
    names = [name for name in imports(path) if name.split(".")[0] in ("mde", "pipelines")]
    # A package's own file runs before its modules.
    parents = {".".join(n.split(".")[:i]) for n in names for i in range(1, n.count(".") + 2)}
    return {file for name in parents if (file := module_file(name))}


def closure(path: Path) -> set[Path]:
    found, pending = set(), [path, path.parent / "__init__.py"]
    while pending:
        file = pending.pop()
        if file not in found and module_name(file) not in ASIDE:
            found.add(file)
            pending += own_imports(file)
    # An empty-handed package file changes nothing.
    return {file for file in found if len(ast.parse(file.read_text()).body) > 1}


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_point_left(path: Path) -> None:
    name = module_name(path)
    if name == "mde":
        return
    for other in own_imports(path):
        target = module_name(other)
        if target in ("mde", "pipelines"):
            continue
        assert level(target) <= level(name), f"{name} must not import {target}"
        for left, right in STRANGERS:
            assert not (inside(name, left) and inside(target, right)), f"{name} imports {target}"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_libraries_stay_in_their_rooms(path: Path) -> None:
    name = module_name(path)
    for imported in imports(path):
        rooms = ONLY_IN.get(imported.split(".")[0])
        if rooms is not None:
            assert any(inside(name, room) for room in rooms), f"{name} imports {imported}"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_core_needs_torch_alone_and_decoding_needs_none(path: Path) -> None:
    name = module_name(path)
    libraries = {module.split(".")[0] for module in imports(path)} - {"mde"}
    foreign = libraries & {"pydantic", "ray", "mlflow", "pyarrow", "cv2", "h5py", "rich", "numpy"}
    if any(inside(name, room) for room in TORCH_ONLY):
        assert not foreign, f"{name} imports {foreign}"
    if any(inside(name, room) for room in NO_TORCH):
        assert "torch" not in libraries, f"{name} imports torch"


def shared_by_sources() -> set[Path]:
    """What sources import from outside their folders; the folder is picked by its name."""
    folders = {path.parent for path in ROOT.glob("mde/data/sources/*/__init__.py")}
    files = {file for folder in folders for file in closure(folder / "__init__.py")}
    return {file for file in files if file.parent not in folders}


def test_every_source_is_a_folder_so_that_dvc_can_name_it() -> None:
    modules = {path.name for path in (ROOT / "mde/data/sources").glob("*.py")}
    assert modules == {"__init__.py"}
    convert = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]["convert"]["do"]
    assert "mde/data/sources/${item.source}" in convert["deps"]


def stages() -> dict[str, tuple[str, set[Path]]]:
    content = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    bodies = {name: stage.get("do", stage) for name, stage in content.items()}
    return {
        name: (body["cmd"], {ROOT / dep for dep in body["deps"] if str(dep).endswith(".py")})
        for name, body in bodies.items()
    }


@pytest.mark.parametrize("name", stages())
def test_a_stage_depends_on_exactly_the_code_that_it_imports(name: str) -> None:
    command, deps = stages()[name]
    needed = closure(ROOT / (command.split()[2].replace(".", "/") + ".py"))
    if name == "convert":
        needed |= shared_by_sources()

    def listing(files: set[Path]) -> str:
        return "\n".join(f"      - {path.relative_to(ROOT)}" for path in sorted(files))

    assert deps == needed, f"dvc.yaml, stage {name}: its deps should be\n{listing(needed)}"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 320
