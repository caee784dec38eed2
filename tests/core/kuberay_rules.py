"""What must be so in the manifests for KubeRay, beyond what a schema says."""

import re
from collections.abc import Iterator
from typing import Any

from tests.core.manifests import Object, get, pod_templates, ray_clusters, references
from tests.core.ray_facts import agent_port, open_paths, pinned_ray, project_version, start_options

USER = 1000
"""Of the image: infra/Dockerfile."""
OBJECT_STORE = 0.3
"""Share of a pod's memory that Ray takes for its objects, in /dev/shm."""
EXPOSING = ("Ingress", "Route", "HTTPRoute", "Gateway")
UNITS = {"Mi": 2**20, "Gi": 2**30}


def problems(objects: list[Object]) -> list[str]:
    """What is wrong, one line each."""
    found = [*_exposed(objects), *_policies(objects), *_secrets(objects)]
    for name, spec in ray_clusters(objects):
        found += [f"{name}: {line}" for line in _cluster(spec, objects)]
        if name in {secret for secret, _ in references(spec)}:
            found.append(f"{name}: takes the secret of this name, which the operator makes")
    for path, template in pod_templates(objects):
        found += [f"{path}: {line}" for line in _pod(template["spec"])]
    for item in objects:
        if item["kind"] == "RayJob":
            found += _job(item)
    return found


def _exposed(objects: list[Object]) -> Iterator[str]:
    for item in objects:
        if item["kind"] in EXPOSING:
            yield f"{item['kind']}: exposes something"
        if item["kind"] == "Service" and item["spec"].get("type") != "ClusterIP":
            yield f"Service {item['metadata']['name']}: is no ClusterIP"


def _policies(objects: list[Object]) -> Iterator[str]:
    policies = {o["metadata"]["name"]: o["spec"] for o in objects if o["kind"] == "NetworkPolicy"}
    closed = {"podSelector": {}, "policyTypes": ["Ingress"]}
    if closed not in policies.values():
        yield "NetworkPolicy: none refuses what the others do not allow"
    for name, spec in policies.items():
        for rule in spec.get("ingress", []):
            for peer in rule.get("from") or [{}]:
                if not peer.get("podSelector", {}).get("matchLabels"):
                    yield f"NetworkPolicy {name}: lets in pods that it does not name"
                if "namespaceSelector" in peer and not rule.get("ports"):
                    yield f"NetworkPolicy {name}: opens all ports to another namespace"


def _secrets(objects: list[Object]) -> Iterator[str]:
    if any(item["kind"] == "Secret" for item in objects):
        yield "Secret: is applied, so it lies in the repository"
    for path, template in pod_templates(objects):
        for container in template["spec"]["containers"]:
            for variable in container.get("env", []):
                if re.search("PASSWORD|TOKEN|SECRET|KEY", variable["name"]) and "value" in variable:
                    yield f"{path}: {variable['name']} is written down"


def _cluster(spec: Object, objects: list[Object]) -> Iterator[str]:
    if spec.get("authOptions") != {"mode": "token"}:
        yield "authOptions: no token"
    if spec.get("rayVersion") != pinned_ray():
        yield f"rayVersion is not {pinned_ray()}, that of requirements.lock"
    yield from _head_survives(spec.get("gcsFaultToleranceOptions", {}), objects)
    scaling = spec.get("autoscalerOptions", {})
    if not spec.get("enableInTreeAutoscaling") or scaling.get("version") != "v2":
        yield "does not scale"
    if not 60 <= scaling.get("idleTimeoutSeconds", 0) <= 3600:
        yield "idleTimeoutSeconds: workers go at once, or stay and cost"
    yield from _locked_down(scaling.get("securityContext", {}), "autoscaler")
    head = spec["headGroupSpec"]
    if head["rayStartParams"].get("num-cpus") != "0":
        yield "head: takes work"
    if head.get("serviceType") != "ClusterIP" or head.get("enableIngress", False):
        yield "head: is exposed"
    yield from _ray_group(head, "head", objects)
    for group in spec["workerGroupSpecs"]:
        name = group["groupName"]
        yield from _ray_group(group, name, objects)
        if "replicas" in group or not 0 <= group["minReplicas"] < group["maxReplicas"] < 1000:
            yield f"{name}: replicas have no bounds, or not the autoscaler's"
        if group["template"]["spec"].get("automountServiceAccountToken", True):
            yield f"{name}: jobs may talk to Kubernetes"
    if not any(_gpus(group) for group in spec["workerGroupSpecs"]):
        yield "no group has a GPU"


def _head_survives(options: Object, objects: list[Object]) -> Iterator[str]:
    services = [
        f"{item['metadata']['name']}:{port['port']}"
        for item in objects
        if item["kind"] == "Service"
        for port in item["spec"]["ports"]
    ]
    if options.get("redisAddress") not in services:
        yield "gcsFaultToleranceOptions: no such Redis"
    if set(options.get("redisPassword", {})) != {"valueFrom"}:
        yield "gcsFaultToleranceOptions: the password is not that of a secret"


def _ray_group(group: Object, name: str, objects: list[Object]) -> Iterator[str]:
    if strange := {f"--{key}" for key in group["rayStartParams"]} - start_options():
        yield f"{name}: ray start has no {', '.join(sorted(strange))}"
    spec = group["template"]["spec"]
    container = spec["containers"][0]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container.get(probe, {}).get("httpGet", {})
        if asked.get("path") not in open_paths() or asked.get("port") != agent_port():
            yield f"{name}: {probe} asks where Ray does not answer without a token"
    volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
    shared = mounts.get("/dev/shm", {}).get("emptyDir", {})
    memory = size(container["resources"]["limits"]["memory"])
    room = size(shared.get("sizeLimit", "0Mi"))
    if shared.get("medium") != "Memory" or not OBJECT_STORE * memory <= room <= memory / 2:
        yield f"{name}: /dev/shm does not hold Ray's objects"
    root = {v["name"]: v.get("value") for v in container.get("env", [])}.get("MDE_ROOT")
    claim = mounts.get(root or "", {}).get("persistentVolumeClaim", {}).get("claimName")
    claims = {o["metadata"]["name"]: o for o in objects if o["kind"] == "PersistentVolumeClaim"}
    if claim not in claims or "ReadWriteMany" not in claims[claim]["spec"]["accessModes"]:
        yield f"{name}: MDE_ROOT is no volume that all nodes write to"
    if not container.get("envFrom"):
        yield f"{name}: has no credentials"
    if _gpus(group) and not (spec.get("tolerations") and spec.get("nodeSelector")):
        yield f"{name}: no node with a GPU takes it"


def _gpus(group: Object) -> int:
    return int(get(group, "template.spec.containers.0.resources.limits").get("nvidia.com/gpu", 0))


def _pod(spec: Object) -> Iterator[str]:
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            yield f"{key}: leaves the pod"
    context = spec.get("securityContext", {})
    user = context.get("runAsUser")
    if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "no seccomp profile"
    for container in spec["containers"]:
        name = container["name"]
        ours = container["image"].endswith(f"/mde:{project_version()}")
        if not ours and not re.search(r":\d[\w.-]*$", container["image"]):
            yield f"{name}: {container['image']} is no version"
        if context.get("runAsNonRoot") is not True or not user or (ours and user != USER):
            yield f"{name}: is not the user of its image"
        yield from _locked_down(container.get("securityContext", {}), name)
        resources = container.get("resources", {})
        if not resources.get("limits") or resources["limits"] != resources.get("requests"):
            yield f"{name}: requests and limits differ"
        elif not {"cpu", "memory"} <= set(resources["limits"]):
            yield f"{name}: no limit of cpu or memory"
    if any("hostPath" in volume for volume in spec.get("volumes", [])):
        yield "hostPath: leaves the pod"


def _locked_down(context: Object, name: str) -> Iterator[str]:
    dropped = context.get("capabilities", {}).get("drop")
    if dropped != ["ALL"] or context.get("allowPrivilegeEscalation") is not False:
        yield f"{name}: has capabilities, or may get them"
    if context.get("privileged"):
        yield f"{name}: is privileged"


def _job(item: Object) -> Iterator[str]:
    spec: Any = item["spec"]
    if not spec.get("shutdownAfterJobFinishes") or not spec.get("activeDeadlineSeconds"):
        yield "RayJob: its cluster stays"
    if not spec.get("entrypointNumCpus"):
        yield "RayJob: its driver runs on the head"


def size(quantity: str) -> float:
    """Bytes of a quantity such as 6Gi."""
    return float(quantity[:-2]) * UNITS[quantity[-2:]]
