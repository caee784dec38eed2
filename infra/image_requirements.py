"""Split `infra/requirements.txt` into what pip installs, for an image with or without CUDA.

Runs while the image is built, before anything is installed: the standard library alone.

    python3 infra/image_requirements.py infra/requirements.txt FOLDER --device cuda
"""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

# Built from source by the packages that have no wheel, with this version and not a newer one.
_BUILD = ("setuptools",)
_TORCH = ("torch", "torchvision")


@dataclass(frozen=True)
class Plan:
    """Requirements of pip, in the order of installing.

    build: what builds a package without a wheel. packages: all others, with hashes. torch: those
    from the index of CPU wheels, of the same versions; their hashes are that index's own, and none
    is known here.
    """

    build: tuple[str, ...]
    packages: tuple[str, ...]
    torch: tuple[str, ...] = ()


def entries(text: str) -> tuple[str, ...]:
    """Each requirement with its marker and its hashes, as it stands in a requirements file."""
    blocks = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)
    return tuple(block.rstrip() for block in blocks[1:])


def name(entry: str) -> str:
    """The package that a requirement is about."""
    return re.split(r"[^A-Za-z0-9._-]", entry, maxsplit=1)[0]


def is_cuda(package: str) -> bool:
    """Whether torch needs a package for an NVIDIA GPU alone."""
    if package == "nvidia-ml-py":  # Asks for GPU figures, and copes with no GPU.
        return False
    return package == "triton" or package.startswith(("cuda-", "nvidia-"))


def plan(text: str, device: str, torch_index: str) -> Plan:
    """What to install for a device, `cuda` or `cpu`.

    Raises SystemExit, with what to do, for another device and for `cpu` without an index.
    """
    if device not in ("cuda", "cpu"):
        raise SystemExit(f"DEVICE={device}: an image is for cuda or for cpu")
    required = entries(text)
    build = tuple(entry for entry in required if name(entry) in _BUILD)
    others = tuple(entry for entry in required if name(entry) not in _BUILD)
    if device == "cuda":
        return Plan(build, others)
    if not torch_index:
        raise SystemExit(
            "DEVICE=cpu without TORCH_INDEX: PyPI has torch for Linux with CUDA only; "
            "pass --build-arg TORCH_INDEX=… with the index of CPU wheels that pytorch.org names"
        )
    packages = (entry for entry in others if not is_cuda(name(entry)) and name(entry) not in _TORCH)
    torch = (entry.split()[0] for entry in others if name(entry) in _TORCH)
    return Plan(build, tuple(packages), (f"--index-url {torch_index}", *torch))


def main() -> None:
    """Write build.txt, packages.txt and torch.txt into a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("requirements", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--torch-index", default="")
    given = parser.parse_args()
    planned = plan(given.requirements.read_text(), given.device, given.torch_index)
    for part in ("build", "packages", "torch"):
        lines = getattr(planned, part)
        (given.folder / f"{part}.txt").write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main()
