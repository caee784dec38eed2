"""Checks of Ray for `mde doctor`: token, versions, resources, and what each node sees."""

import os
import platform
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mde.cluster.security import ALLOW_OPEN, ask, token_place
from mde.cluster.session import ClusterConfig, check_resources, connect
from mde.config import load_section
from mde.doctor.examination import Finding, Scope
from mde.errors import InputError
from mde.storage import join_uri, open_storage

GIB = 2**30
NODE_LIMIT_S = 60
CLOCK_LIMIT_S = 2


@dataclass(frozen=True)
class NodeReport:
    """What a node says of itself. clock: seconds since 1970. error: why it cannot write."""

    clock: float
    python: str
    ray: str
    free: int
    temporary: str
    error: str = ""


def check_ray(scope: Scope) -> list[Finding]:
    """Connect as a training does, and ask every node; a local Ray is started for it."""
    try:
        config = load_section(scope.params, "cluster", ClusterConfig)
    except InputError as error:
        return [_explain("params", error)]
    try:
        connect()
    except InputError as error:
        return [_explain("ray", error)]
    try:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        findings = [_check_token(), _check_resources(config, len(nodes))]
        return findings + _check_nodes(nodes, scope.storage)
    finally:
        ray.shutdown()


def _explain(name: str, error: InputError) -> Finding:
    found, _, todo = str(error).partition("; ")
    return Finding(name, "fail", found, todo)


def _check_token() -> Finding:
    address = ray.get_runtime_context().gcs_address
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return Finding("ray token", "ok", "certificates are demanded (RAY_USE_TLS)")
    if ask(address).state == "refused":
        return Finding("ray token", "ok", f"demanded; ours is of {token_place()}")
    text = f"{address} lets everybody in who reaches it ({ALLOW_OPEN}=1 allows it)"
    return Finding("ray token", "warn", text, "restart Ray with RAY_AUTH_MODE=token")


def _check_resources(config: ClusterConfig, num_nodes: int) -> Finding:
    have = ray.cluster_resources()
    text = f"{have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs on {num_nodes} nodes"
    try:
        check_resources(config)
    except InputError as error:
        return _explain("ray resources", error)
    if config.placement == "STRICT_SPREAD" and config.num_workers > num_nodes:
        found = f"placement STRICT_SPREAD needs {config.num_workers} nodes; Ray has {num_nodes}"
        return Finding("ray resources", "fail", found, "set cluster.placement to SPREAD")
    return Finding("ray resources", "ok", f"{text}; {_workers(config.num_workers)}")


def _workers(number: int) -> str:
    return "1 worker fits" if number == 1 else f"{number} workers fit"


def _check_nodes(nodes: list[dict[str, Any]], storage: str) -> list[Finding]:
    """Each node writes a file; then each must see the files of all."""
    place = join_uri(storage, f"doctor-{secrets.token_hex(4)}")
    names = {node["NodeID"]: _name(node, nodes) for node in nodes}
    silent: dict[str, str] = {}
    written = _ask_nodes(list(names), write_report, place, silent)
    # Now each node has a worker process, so that the answer comes at once.
    skews = {node: _measure_skew(node, silent) for node in written}
    seen = _ask_nodes(list(written), look_around, place, silent)
    _ask_nodes(list(written)[:1], clean_up, place, {})
    findings = [
        Finding("node " + names[node], "fail", text, "its logs: ray logs cluster")
        for node, text in silent.items()
    ]
    findings += [_check_node(names[node], written[node], skews[node]) for node in written]
    blind = []
    for node, report in written.items():
        if report.error:
            blind.append(f"{names[node]} cannot write ({report.error})")
            continue
        missing = [
            names[other]
            for other in written
            if not written[other].error and other not in seen.get(node, [])
        ]
        if missing:
            blind.append(f"{names[node]} does not see what {', '.join(missing)} wrote")
    if blind:
        todo = "mount one folder on all nodes at the same path (NFS), or set run.storage to s3://…"
        findings.append(Finding("storage", "fail", f"{storage}: {'; '.join(blind)}", todo))
    elif written:
        findings.append(Finding("storage", "ok", f"{storage}: {len(written)} nodes write and read"))
    return findings


def _name(node: dict[str, Any], nodes: list[dict[str, Any]]) -> str:
    host: str = node["NodeManagerHostname"]
    alone = sum(other["NodeManagerHostname"] == host for other in nodes) == 1
    return host if alone else f"{host}/{node['NodeID'][:6]}"


def _ask_nodes(nodes: list[str], question: Any, place: str, silent: dict[str, str]) -> Any:
    """Node → answer; a node that does not answer goes to `silent` with the reason."""
    tasks = {node: _on(node, question).remote(place, node) for node in nodes}
    answers, until = {}, time.monotonic() + NODE_LIMIT_S
    for node, task in tasks.items():
        try:
            answers[node] = ray.get(task, timeout=max(0, until - time.monotonic()))
        except ray.exceptions.GetTimeoutError:
            silent[node] = f"no answer within {NODE_LIMIT_S} s"
        except ray.exceptions.RayError as error:
            silent[node] = str(error).strip().splitlines()[-1][:200]
    return answers


def _on(node: str, question: Any) -> Any:
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    task: Any = ray.remote(question)
    return task.options(num_cpus=0, max_retries=0, scheduling_strategy=strategy)


def write_report(place: str, node: str) -> NodeReport:
    """Runs on a node: write a file named after it."""
    temporary = Path(os.environ.get("RAY_TMPDIR", "/tmp"))
    error = ""
    try:
        open_storage(place).write(node, b"here")
    except Exception as found:
        # Whatever it is, it belongs into the report.
        error = f"{type(found).__name__}: {found}"[:200]
    free = shutil.disk_usage(temporary).free
    python = platform.python_version()
    return NodeReport(time.time(), python, ray.__version__, free, str(temporary), error)


def look_around(place: str, node: str) -> list[str]:
    """Runs on a node: names of the files that it can read."""
    storage = open_storage(place)
    return [name for name in storage.names() if storage.read(name) == b"here"]


def clean_up(place: str, node: str) -> None:
    """Runs on a node: take the files away."""
    storage = open_storage(place)
    for name in storage.names():
        storage.delete(name)
    storage.delete("")


def _tell_time(place: str, node: str) -> float:
    return time.time()


def _measure_skew(node: str, silent: dict[str, str]) -> float:
    """Seconds that a node's clock differs from ours, less what the way may account for."""
    before = time.time()
    answers = _ask_nodes([node], _tell_time, "", silent)
    after = time.time()
    if node not in answers:
        return 0
    return max(0, before - answers[node], answers[node] - after)


def _check_node(name: str, report: NodeReport, skew: float) -> Finding:
    ours = (platform.python_version(), ray.__version__)
    found = f"Python {report.python}, Ray {report.ray}, {report.free / GIB:.1f} GiB free at "
    found += report.temporary
    if (report.python, report.ray) != ours:
        todo = f"install Python {ours[0]} and Ray {ours[1]} on all nodes"
        return Finding(f"node {name}", "fail", found, todo)
    if skew > CLOCK_LIMIT_S:
        text = f"its clock is off by {skew:.0f} s: metrics would get wrong times"
        return Finding(f"node {name}", "warn", text, "set the clock by NTP")
    # Ray stops creating objects when the disk is 95 % full.
    if report.free < 5 * GIB:
        return Finding(f"node {name}", "warn", found, f"free some disk at {report.temporary}")
    return Finding(f"node {name}", "ok", found)
