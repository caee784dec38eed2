"""Checks of what trains: torch with torchvision, GPUs, and a real all_reduce between processes."""

import tempfile
from pathlib import Path

from mde.doctor.examination import Finding, Scope

LIMIT_S = 40


def check_torch(scope: Scope) -> list[Finding]:
    """Torch and torchvision together, and the GPUs."""
    import torch

    try:
        import torchvision

        # A torchvision that was built for another torch imports, and has no operators.
        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except (ImportError, RuntimeError) as error:
        todo = "pip install -U torch torchvision, together"
        return [Finding("torch", "fail", f"{torch.__version__}: {error}", todo)]
    pair = f"{torch.__version__}, torchvision {torchvision.__version__}"
    return [Finding("torch", "ok", pair), _check_gpus()]


def _check_gpus() -> Finding:
    import torch
    from torch.distributed import is_nccl_available

    if not torch.cuda.is_available():
        if Path("/proc/driver/nvidia/version").exists():
            text = f"a driver is there, torch (for CUDA {torch.version.cuda}) finds no GPU"
            return Finding("gpus", "warn", text, "nvidia-smi; a newer driver or an older torch")
        return Finding("gpus", "ok", "none: CPU training")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    # A driver that is too old fails at the first kernel, not before.
    torch.ones(8, device="cuda").sum().item()
    text = f"{len(names)}: {', '.join(sorted(set(names)))}; CUDA {torch.version.cuda}"
    if len(names) > 1 and not is_nccl_available():
        return Finding("gpus", "fail", f"{text}; no NCCL", "install a torch with NCCL")
    return Finding("gpus", "ok", text)


def check_collectives(scope: Scope) -> list[Finding]:
    """A sum over two processes with gloo, and over up to two GPUs with NCCL."""
    import torch

    findings = [_reduce("gloo", 2)]
    if torch.cuda.is_available() and torch.distributed.is_nccl_available():
        findings.append(_reduce("nccl", min(2, torch.cuda.device_count())))
    return findings


def _reduce(backend: str, world_size: int) -> Finding:
    import torch.multiprocessing as processes

    with tempfile.TemporaryDirectory(prefix="mde-") as folder:
        meeting = (Path(folder) / "meeting").as_uri()
        try:
            processes.spawn(_add_up, (backend, world_size, meeting), nprocs=world_size)
        except Exception as error:
            reason = str(error).strip().splitlines()[-1]
            todo = "set GLOO_SOCKET_IFNAME (NCCL_SOCKET_IFNAME) to the network card to use"
            return Finding(backend, "fail", f"no all_reduce: {reason[:200]}", todo)
    return Finding(backend, "ok", f"all_reduce over {world_size} processes")


def _add_up(rank: int, backend: str, world_size: int, meeting: str) -> None:
    from datetime import timedelta

    import torch
    import torch.distributed as group

    group.init_process_group(
        backend,
        init_method=meeting,
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=LIMIT_S),
    )
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    value = torch.full((1000,), rank + 1.0, device=device)
    group.all_reduce(value)
    wanted = world_size * (world_size + 1) / 2
    if not (value == wanted).all():
        raise RuntimeError(f"the sum is {value[0].item()}, expected {wanted}")
    group.destroy_process_group()
