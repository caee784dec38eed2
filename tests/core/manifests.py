"""The objects that `kubectl apply -k` would send, read without kubectl."""

import copy
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

Object = dict[str, Any]

LOCAL = "config.kubernetes.io/local-config"
"""Annotation of what kustomize reads and does not put out."""
CLUSTER_WIDE = ("Namespace",)


def read_objects(folder: Path) -> list[Object]:
    """Those of a folder with a `kustomization.yaml`, which may use what the two here use."""
    return copy.deepcopy(_build_out(folder))


def one(objects: list[Object], kind: str, name: str = "mde") -> Object:
    """The object of a kind and a name."""
    (found,) = [o for o in objects if (o["kind"], o["metadata"]["name"]) == (kind, name)]
    return found


def read_yaml(path: Path) -> list[Any]:
    """The documents of a file."""
    return list(YAML(typ="safe").load_all(path))


def pod_templates(node: Any, path: str = "") -> Iterator[tuple[str, Object]]:
    """Where each pod template is, and the template, in an object or a list of objects."""
    if isinstance(node, list):
        for index, item in enumerate(node):
            yield from pod_templates(item, f"{path}.{index}" if path else str(index))
    elif isinstance(node, dict):
        if "containers" in node.get("spec", {}) and node.get("kind") is None:
            yield path, node
        else:
            for key, value in node.items():
                yield from pod_templates(value, f"{path}.{key}" if path else key)


def ray_clusters(objects: list[Object]) -> list[tuple[str, Object]]:
    """Name and spec of each Ray cluster, also of one that a RayJob starts."""
    found = []
    for item in objects:
        if item["kind"] == "RayCluster":
            found.append((item["metadata"]["name"], item["spec"]))
        elif item["kind"] == "RayJob":
            found.append((item["metadata"]["name"], item["spec"]["rayClusterSpec"]))
    return found


def references(node: Any) -> set[tuple[str, str]]:
    """(secret, key) of what is taken from secrets; an empty key for all of one."""
    if isinstance(node, list):
        return set().union(*map(references, node))
    if not isinstance(node, dict):
        return set()
    found = set().union(*map(references, node.values()))
    if "secretKeyRef" in node:
        found.add((node["secretKeyRef"]["name"], node["secretKeyRef"]["key"]))
    if "secretRef" in node:
        found.add((node["secretRef"]["name"], ""))
    return found


def get(node: Any, path: str) -> Any:
    """What is at a path such as `spec.containers.0.image`; KeyError or IndexError without it."""
    for step in path.split("."):
        node = node[int(step)] if isinstance(node, list) else node[step]
    return node


def put(node: Any, path: str, value: Any) -> None:
    """Set what is at a path; its parent must be there."""
    parent, _, last = path.rpartition(".")
    holder = get(node, parent) if parent else node
    holder[int(last) if isinstance(holder, list) else last] = value


@cache
def _build_out(folder: Path) -> list[Object]:
    return [o for o in _build(folder) if LOCAL not in o["metadata"].get("annotations", {})]


def _build(folder: Path) -> list[Object]:
    (rules,) = read_yaml(folder / "kustomization.yaml")
    objects: list[Object] = []
    for name in rules["resources"]:
        path = folder / name
        # Anchors make shared parts of a file one object in memory; here each is changed alone.
        found = _build(path) if path.is_dir() else read_yaml(path)
        objects += [_unshared(item) for item in found]
    for item in objects:
        if item["kind"] not in CLUSTER_WIDE:
            item["metadata"]["namespace"] = rules["namespace"]
    for image in rules.get("images", []):
        for _, template in pod_templates(objects):
            for container in template["spec"]["containers"]:
                if container["image"] == image["name"]:
                    container["image"] = f"{image['newName']}:{image['newTag']}"
    for patch in rules.get("patches", []):
        (steps,) = YAML(typ="safe").load_all(patch["patch"])
        for step in steps:
            assert step["op"] == "add", step
            put(_one(objects, patch["target"]), step["path"][1:].replace("/", "."), step["value"])
    for rule in rules.get("replacements", []):
        value = get(_one(objects, rule["source"]), rule["source"]["fieldPath"])
        for target in rule["targets"]:
            for path in target["fieldPaths"]:
                put(_one(objects, target["select"]), path, copy.deepcopy(value))
    return objects


def _one(objects: list[Object], wanted: dict[str, str]) -> Object:
    (found,) = [item for item in objects if item["kind"] == wanted["kind"]]
    return found


def _unshared(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _unshared(value) for key, value in node.items()}
    return [_unshared(value) for value in node] if isinstance(node, list) else node
