"""The schema that a CustomResourceDefinition carries, as JSON schema that refuses unknown keys."""

from pathlib import Path
from typing import Any

from tests.core.manifests import read_yaml


def read_schemas(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """(apiVersion, kind) → schema, of all CRDs in the YAML files of a folder.

    A file may hold a List, as `kubectl get crd … -o yaml` prints it.
    """
    schemas = {}
    for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
        for document in read_yaml(path):
            for crd in document["items"] if document["kind"] == "List" else [document]:
                spec = crd["spec"]
                for version in spec["versions"]:
                    name = f"{spec['group']}/{version['name']}", spec["names"]["kind"]
                    schemas[name] = json_schema(version["schema"]["openAPIV3Schema"])
    return schemas


def json_schema(node: dict[str, Any]) -> dict[str, Any]:
    """What `kubectl apply` holds an object against; rules in CEL are left out."""
    done = dict(node)
    if node.get("x-kubernetes-int-or-string"):
        done.setdefault("anyOf", [{"type": "integer"}, {"type": "string"}])
    if "properties" in node:
        done["properties"] = {key: json_schema(value) for key, value in node["properties"].items()}
        if not node.get("x-kubernetes-preserve-unknown-fields"):
            done.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            done[key] = json_schema(node[key])
    if node.get("nullable"):
        return {"anyOf": [done, {"type": "null"}]}
    return done
