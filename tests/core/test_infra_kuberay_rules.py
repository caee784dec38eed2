"""What the manifests for Kubernetes must say to be safe, to survive and to scale; each can fail."""

from typing import Any

import pytest

from tests.core.kuberay_rules import problems
from tests.core.manifests import one, put, read_objects
from tests.core.ray_facts import ROOT


@pytest.mark.parametrize("folder", ["infra/kuberay", "infra/rayjob"])
def test_the_manifests_keep_the_rules(folder: str) -> None:
    assert problems(read_objects(ROOT / folder)) == []


HEAD = "spec.headGroupSpec"
POD = f"{HEAD}.template.spec"
BOX = f"{POD}.containers.0"
CPU, GPU = "spec.workerGroupSpecs.0", "spec.workerGroupSpecs.1"
REFERENCE: dict[str, Any] = {"name": "OTHER_TOKEN", "value": "abc"}


@pytest.mark.parametrize(
    ("path", "value", "found"),
    [
        ("spec.authOptions", {"mode": "disabled"}, "no token"),
        ("spec.rayVersion", "2.59.0", "requirements.lock"),
        ("spec.gcsFaultToleranceOptions.redisAddress", "reddis:6379", "no such Redis"),
        ("spec.gcsFaultToleranceOptions.redisPassword", {"value": "x"}, "not that of a secret"),
        ("spec.enableInTreeAutoscaling", False, "does not scale"),
        ("spec.autoscalerOptions.version", "v1", "does not scale"),
        ("spec.autoscalerOptions.idleTimeoutSeconds", 0, "go at once"),
        ("spec.autoscalerOptions.securityContext", {}, "autoscaler: has capabilities"),
        (f"{HEAD}.rayStartParams", {"num-cpus": "4"}, "takes work"),
        (f"{HEAD}.rayStartParams", {"num-cpus": "0", "dashbord-host": "::"}, "has no --dashbord"),
        (f"{HEAD}.serviceType", "LoadBalancer", "head: is exposed"),
        (f"{HEAD}.enableIngress", True, "head: is exposed"),
        (f"{POD}.hostNetwork", True, "leaves the pod"),
        (f"{POD}.securityContext.runAsUser", 0, "not the user of its image"),
        (f"{POD}.securityContext.runAsUser", 1001, "not the user of its image"),
        (f"{POD}.securityContext.runAsNonRoot", False, "not the user of its image"),
        (f"{POD}.securityContext.seccompProfile", {}, "seccomp"),
        (f"{POD}.volumes.0.emptyDir", {}, "/dev/shm"),
        (f"{POD}.volumes.0.emptyDir.sizeLimit", "1Gi", "/dev/shm"),
        (f"{POD}.volumes.1.persistentVolumeClaim.claimName", "other", "MDE_ROOT"),
        (f"{BOX}.image", "registry.example.com/mde:latest", "is no version"),
        (f"{BOX}.livenessProbe.httpGet.path", "/api/version", "livenessProbe asks"),
        (f"{BOX}.startupProbe", {}, "startupProbe asks"),
        (f"{BOX}.readinessProbe.httpGet.port", 8265, "readinessProbe asks"),
        (f"{BOX}.resources.limits.memory", "20Gi", "requests and limits"),
        (f"{BOX}.securityContext.capabilities.drop", [], "has capabilities"),
        (f"{BOX}.securityContext.privileged", True, "is privileged"),
        (f"{BOX}.env.0", REFERENCE, "is written down"),
        (f"{BOX}.envFrom.0.secretRef.name", "mde", "the operator makes"),
        (f"{BOX}.envFrom", [], "no credentials"),
        (f"{CPU}.replicas", 2, "replicas"),
        (f"{CPU}.minReplicas", 9, "replicas"),
        (f"{CPU}.template.spec.automountServiceAccountToken", True, "talk to Kubernetes"),
        (f"{GPU}.template.spec.tolerations", [], "no node with a GPU"),
        (f"{GPU}.template.spec.containers.0.resources.limits", {"memory": "64Gi"}, "has a GPU"),
    ],
)
def test_a_broken_rule_of_the_cluster_is_found(path: str, value: Any, found: str) -> None:
    objects = read_objects(ROOT / "infra/kuberay")
    put(one(objects, "RayCluster"), path, value)
    assert any(found in problem for problem in problems(objects)), problems(objects)


@pytest.mark.parametrize(
    ("kind", "name", "path", "value", "found"),
    [
        ("Service", "redis", "spec.type", "NodePort", "no ClusterIP"),
        ("NetworkPolicy", "nobody", "spec.podSelector", {"matchLabels": {"a": "b"}}, "none refuse"),
        ("NetworkPolicy", "ray", "spec.ingress.0.from", [], "does not name"),
        ("NetworkPolicy", "ray", "spec.ingress.0.from.0.podSelector", {}, "does not name"),
        ("NetworkPolicy", "ray", "spec.ingress.1.ports", [], "all ports"),
        ("PersistentVolumeClaim", "mde", "spec.accessModes", ["ReadWriteOnce"], "MDE_ROOT"),
        ("StatefulSet", "redis", "kind", "Ingress", "exposes"),
        ("Namespace", "mde", "kind", "Secret", "lies in the repository"),
        ("RayJob", "mde-repro", "spec.entrypointNumCpus", 0, "runs on the head"),
        ("RayJob", "mde-repro", "spec.shutdownAfterJobFinishes", False, "its cluster stays"),
        ("RayJob", "mde-repro", "spec.rayClusterSpec.authOptions", {}, "no token"),
    ],
)
def test_a_broken_rule_of_the_rest_is_found(
    kind: str, name: str, path: str, value: Any, found: str
) -> None:
    objects = read_objects(ROOT / "infra/rayjob")
    put(one(objects, kind, name), path, value)
    assert any(found in problem for problem in problems(objects)), problems(objects)
