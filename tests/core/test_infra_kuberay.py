"""The manifests for Kubernetes are of the right form, and one with the rest of the project.

No Kubernetes is needed. KUBERAY_CRDS names a folder with KubeRay's own definitions, which are not
part of this repository; docs/kubernetes.md says how to get them.
"""

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr,
)
from ruamel.yaml import YAML

from tests.core.crd_schema import json_schema, read_schemas
from tests.core.manifests import (
    Object,
    one,
    pod_templates,
    put,
    ray_clusters,
    read_objects,
    read_yaml,
    references,
)
from tests.core.ray_facts import ROOT, project_version

FOLDERS = ("infra/kuberay", "infra/rayjob")
SCHEMA = kubernetes_validate.latest_version()
CRDS = os.environ.get("KUBERAY_CRDS", "")


@pytest.fixture(params=FOLDERS)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    return read_objects(ROOT / request.param)


def order(item: Object) -> tuple[str, str]:
    return item["kind"], item["metadata"]["name"]


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
@pytest.mark.parametrize("folder", FOLDERS)
def test_what_is_checked_here_is_what_kubectl_would_apply(folder: str) -> None:
    command = ["kubectl", "kustomize", str(ROOT / folder)]
    built = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    theirs = list(YAML(typ="safe").load_all(built))
    assert sorted(theirs, key=order) == sorted(read_objects(ROOT / folder), key=order)


def check_kubernetes(item: Object) -> None:
    kubernetes_validate.validate(item, SCHEMA, strict=True)


def as_pod(template: Object) -> Object:
    metadata = {"name": "pod", **template.get("metadata", {})}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def test_all_is_of_the_form_that_kubernetes_takes(objects: list[Object]) -> None:
    plain = [item for item in objects if not item["apiVersion"].startswith("ray.io/")]
    templates = list(pod_templates(objects))
    assert len(plain) >= 7
    assert len(templates) >= 4
    for item in [*plain, *(as_pod(template) for _, template in templates)]:
        check_kubernetes(item)


@pytest.mark.parametrize(
    ("kind", "name", "path", "key"),
    [
        ("NetworkPolicy", "ray", "spec", "ingres"),
        ("PersistentVolumeClaim", "mde", "spec", "accessMode"),
        ("StatefulSet", "redis", "spec.template.spec.containers.0", "livenesProbe"),
    ],
)
def test_a_misspelt_key_would_be_found(kind: str, name: str, path: str, key: str) -> None:
    item = one(read_objects(ROOT / "infra/kuberay"), kind, name)
    check_kubernetes(item)
    put(item, f"{path}.{key}", {})
    with pytest.raises(kubernetes_validate.ValidationError):
        check_kubernetes(item)


def test_a_misspelt_key_of_a_ray_pod_would_be_found() -> None:
    cluster = one(read_objects(ROOT / "infra/kuberay"), "RayCluster")
    for _, template in pod_templates(cluster):
        put(template, "spec.containers.0.resource", {})
        with pytest.raises(kubernetes_validate.ValidationError):
            check_kubernetes(as_pod(template))


def test_the_image_is_named_once_with_the_version_of_the_project() -> None:
    (rules,) = read_yaml(ROOT / "infra/kuberay/kustomization.yaml")
    assert [image["newTag"] for image in rules["images"]] == [project_version()]
    named = [p for f in FOLDERS for p in (ROOT / f).iterdir() if "registry." in p.read_text()]
    assert [path.name for path in named] == ["kustomization.yaml"]


def test_a_job_runs_a_module_that_is_there_with_the_code_of_the_image() -> None:
    spec = one(read_objects(ROOT / "infra/rayjob"), "RayJob", "mde-repro")["spec"]
    module = re.fullmatch(r"python -m (\S+)", spec["entrypoint"])
    assert module
    assert ROOT.joinpath(*module[1].split(".")).with_suffix(".py").is_file()
    environment = YAML(typ="safe").load(spec["runtimeEnvYAML"])
    dockerfile = (ROOT / "infra/Dockerfile").read_text()
    assert f"WORKDIR {environment['working_dir']}\n" in dockerfile


def test_a_job_gets_the_cluster_that_stands() -> None:
    ((_, stands),) = ray_clusters(read_objects(ROOT / "infra/kuberay"))
    ((_, own),) = ray_clusters(read_objects(ROOT / "infra/rayjob"))
    assert own == stands


def test_rays_autoscaler_reads_what_the_groups_have(objects: list[Object]) -> None:
    """The program beside the head makes its plan from the object, with this function."""
    ((name, spec),) = ray_clusters(objects)
    cluster = {"metadata": {"name": name, "namespace": "mde"}, "spec": spec}
    plan = _derive_autoscaling_config_from_ray_cr(cluster)
    groups = {name: dict(group) for name, group in plan["available_node_types"].items()}
    found = {name: (g["resources"], g["max_workers"]) for name, g in groups.items()}
    gib = 2**30
    assert found == {
        "headgroup": ({"CPU": 0, "memory": 16 * gib}, 0),
        "cpu": ({"CPU": 8, "memory": 32 * gib}, 8),
        "gpu": ({"CPU": 8, "GPU": 1, "memory": 64 * gib}, 4),
    }
    assert plan["idle_timeout_minutes"] == 5


def test_the_example_shows_every_secret_and_holds_none(objects: list[Object]) -> None:
    shown = {}
    for secret in read_yaml(ROOT / "infra/kuberay/secrets.example.yaml"):
        check_kubernetes(secret)
        assert set(secret["stringData"].values()) == {"CHANGE-ME"}
        shown[secret["metadata"]["name"]] = {*secret["stringData"], ""}
    needed = references(objects)
    assert len(needed) == 2
    for name, key in needed:
        assert key in shown[name], f"{name}: {key}"
    page = (ROOT / "docs/kubernetes.md").read_text()
    assert all(f"create secret generic {name} " in page for name in shown)


@cache
def crds() -> dict[tuple[str, str], dict[str, Any]]:
    return read_schemas(Path(CRDS))


def check_ray(item: Object, schemas: dict[tuple[str, str], dict[str, Any]]) -> None:
    jsonschema.validate(item, schemas[item["apiVersion"], item["kind"]])


@pytest.mark.skipif(not CRDS, reason="KUBERAY_CRDS names no folder with KubeRay's definitions")
def test_kuberay_takes_the_ray_objects(objects: list[Object]) -> None:
    ours = [item for item in objects if item["apiVersion"].startswith("ray.io/")]
    assert len(ours) == 1
    for item in ours:
        check_ray(item, crds())


WRONG: dict[str, Any] = {
    "spec.authOption": {"mode": "token"},
    "spec.authOptions.mode": "tokens",
    "spec.autoscalerOptions.idleTimeout": 60,
    "spec.autoscalerOptions.resources.limits.memory": "1 GB",
    "spec.gcsFaultToleranceOptions.redisAdress": "redis:6379",
    "spec.headGroupSpec.rayStartParams.num-cpus": 0,
    "spec.workerGroupSpecs.0.maxReplica": 3,
    "spec.workerGroupSpecs.1.minReplicas": "0",
}


@pytest.mark.skipif(not CRDS, reason="KUBERAY_CRDS names no folder with KubeRay's definitions")
def test_kuberay_would_refuse_a_wrong_key_or_value() -> None:
    for path, value in WRONG.items():
        item = one(read_objects(ROOT / "infra/kuberay"), "RayCluster")
        put(item, path, value)
        with pytest.raises(jsonschema.ValidationError):
            check_ray(item, crds())


def test_a_definition_becomes_a_schema_that_refuses_what_it_does_not_list() -> None:
    text = {"type": "string"}
    either = {"x-kubernetes-int-or-string": True}
    schema = json_schema(
        {
            "type": "object",
            "properties": {
                "port": either,
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                "labels": {"type": "object", "additionalProperties": text},
                "list": {"type": "array", "items": {"type": "object", "properties": {"a": text}}},
                "none": {"type": "string", "nullable": True},
            },
        }
    )
    right = {"port": "a", "free": {"x": 1}, "labels": {"k": "v"}, "list": [{"a": ""}], "none": None}
    jsonschema.validate(right, schema)
    for wrong in ({"porta": 1}, {"port": 1.5}, {"labels": {"k": 1}}, {"list": [{"b": ""}]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(right | wrong, schema)
