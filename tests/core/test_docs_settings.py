"""Settings that the documentation shows are accepted as they stand there."""

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from mde.cluster.session import ClusterConfig
from mde.config import parse_section
from mde.data.curated import PicturesConfig
from mde.data.sources import get_source
from mde.data.sources.folder.camera_file import CameraFile
from mde.errors import InputError
from mde.promotion import PromotionConfig
from mde.train.checkpoints import RunConfig
from mde.train.objectives import OBJECTIVES
from tests.core.test_docs import PAGES, blocks

SECTIONS = {"run": RunConfig, "promotion": PromotionConfig, "cluster": ClusterConfig}
KITTI = {"source": "kitti", "raw": "data/raw/kitti", "height": 192, "width": 640}
SHOWN = [
    pytest.param(block, id=f"{page.name}-{i}")
    for page in PAGES
    for i, block in enumerate(blocks(page, "yaml"))
]


def accept(block: str) -> int:
    """Parse everything in a block; the number of sections. Raises InputError as `mde check`."""
    if "# camera.yaml" in block:
        check("camera", CameraFile, YAML(typ="safe").load(block))
        return 1
    # A page may show several values of one key.
    chunks = [c for c in re.split(r"^(?=[^\s#])", block, flags=re.M) if c and c[0] not in "# \n"]
    for chunk in chunks:
        content = YAML(typ="safe").load(chunk)
        if chunk.startswith("{"):
            content = {"datasets": {"kitti": KITTI | content}}
        ((key, section),) = content.items()
        accept_section(key, section)
    return len(chunks)


def accept_section(key: str, section: Any) -> None:
    if key == "datasets":
        for name, dataset in section.items():
            check(name, get_source(dataset["source"]).Config, dataset)
    elif key == "pictures":
        for name, pictures in section.items():
            check(name, PicturesConfig, pictures)
    elif key == "objective":
        check(key, OBJECTIVES[section["kind"]][0], section)
    else:
        check(key, SECTIONS[key], section)


def check(key: str, kind: type, section: dict[str, Any]) -> None:
    parse_section(Path("page"), key, section, kind)


@pytest.mark.parametrize("block", SHOWN)
def test_settings_in_a_page_are_accepted(block: str) -> None:
    assert accept(block) > 0


@pytest.mark.parametrize(
    "wrong",
    ["run: {keep: 2}", "cluster: {num_workers: two}", "objective: {kind: supervised, los: l1}"],
)
def test_wrong_settings_would_be_found(wrong: str) -> None:
    with pytest.raises(InputError):
        accept(wrong)
